"""The command that shows the guides: docs."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path
from typing import Annotated

import typer

import policyctl
from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.errors import UnsupportedError, UsageError

_PACKAGE = Path(policyctl.__file__).resolve().parent
FOLDERS = ("docs", "alerts", "grafana", "examples/cpp")


@options.command()
def docs(
    call: Call,
    page: Annotated[str | None, typer.Argument(help="Which page; without it, all are listed.")] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write all pages there, and what Prometheus, Alertmanager, Grafana and programs in C++ read.",
        ),
    ] = None,
) -> None:
    """Show the guides, which come with the package.

    Examples:
        policyctl docs
        policyctl docs export
        policyctl docs --write policyctl-guides
    """
    root = _root()
    pages = {str(path.relative_to(root / "docs").with_suffix("")): path for path in (root / "docs").rglob("*.md")}
    if write is not None:
        _write(call, root, write)
    elif page is None:
        rows = [(name, _title(path)) for name, path in sorted(pages.items())]
        call.table({"pages": dict(rows)}, "Pages", ("page", "title"), rows)
    elif page in pages:
        text = pages[page].read_text(encoding="utf-8")
        call.data({"page": page, "text": text}, words=text.rstrip())
    else:
        near = difflib.get_close_matches(page, pages, 1)
        guess = f"Did you mean {near[0]}? " if near else ""
        raise UsageError(f"no page is called {page}", remedy=f"{guess}All of them: policyctl docs")


def _root() -> Path:
    """Where the pages lie: in the installed package, or in the checkout that this one is of.

    Raises:
        UnsupportedError: The package was built without them.
    """
    for root in (_PACKAGE / "guides", _PACKAGE.parents[1]):
        if (root / "docs" / "settings.md").is_file():
            return root
    raise UnsupportedError("this package was built without its guides", remedy="Build it from a whole checkout.")


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def _write(call: Call, root: Path, into: Path) -> None:
    """Copy what `root` has of `FOLDERS`.

    Raises:
        UsageError: `into` holds something already, or cannot be written.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise UsageError(f"{into} is there already", remedy="Name a folder that is empty, or not there yet.")
    unread = shutil.ignore_patterns("*.py", "__pycache__", "tests", "boards")
    try:
        for name in FOLDERS:
            shutil.copytree(root / name, into / name, ignore=unread)
    except OSError as error:
        raise UsageError(f"{into} cannot be written: {error}", remedy="Name a folder that you may write.") from error
    call.data({"folder": str(into), "folders": FOLDERS}, words=f"Wrote {', '.join(FOLDERS)} to {into}.")
