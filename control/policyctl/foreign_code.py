"""Run code that a user names: import it, call it, and keep what it prints off stdout.

Policies, environments and wrappers are other people's Python. Their modules lie
in the current folder or in the environment, their errors become refusals, and
what they print goes to stderr, because a command's stdout holds data alone.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from policyctl.errors import UsageError
from policyctl.plain_files import scheme_of


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let modules in `folder` be imported meanwhile, before any other of the same name."""
    entry = str(folder.absolute())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def names_callable(source: str) -> bool:
    """Whether a text is ``module:callable`` rather than the path of a file.

    Raises:
        UsageError: It is a URL.
    """
    if scheme := scheme_of(source):
        raise UsageError(
            f"{source} begins with {scheme}, and names no file of this machine",
            remedy="Fetch it first, and name the file.",
        )
    return ":" in source and not Path(source).exists()


def callable_named(name: str) -> Callable[..., Any]:
    """What ``package.module:callable`` or ``folder/file.py:callable`` names.

    The current folder is importable meanwhile, as with ``python -m``; so is a file's own folder.

    Raises:
        UsageError: It cannot be imported, or cannot be called.
    """
    module, _, attribute = name.partition(":")
    try:
        found = _imported_file(Path(module)) if module.endswith(".py") else _imported(module, Path.cwd())
        for part in attribute.split("."):
            found = getattr(found, part)
    except UsageError:
        raise
    # Importing runs the module, which can raise anything.
    except Exception as error:
        raise UsageError(
            f"{name}: cannot be imported ({type(error).__name__}: {error})",
            remedy="Give FILE.py:callable, or package.module:callable that the current folder or the environment has.",
        ) from error
    if not callable(found):
        raise UsageError(
            f"{name} is {type(found).__name__}, which cannot be called", remedy="Name a function or a class."
        )
    made: Callable[..., Any] = found
    return made


def _imported(module: str, folder: Path) -> Any:
    with importable(folder):
        return importlib.import_module(module)


def _imported_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"{path} is not a file", remedy="Give FILE.py:callable with the path of a Python file.")
    found = _imported(path.stem, path.parent)
    other = getattr(found, "__file__", None)
    if other is None or not path.samefile(other):
        raise UsageError(
            f"{path} cannot be imported: another module {path.stem!r} is already in use ({other or 'built in'})",
            remedy="Give the file another name.",
        )
    return found


@contextmanager
def prints_aside() -> Iterator[None]:
    """Send to stderr what is meanwhile printed to stdout, by this process and by those that it starts.

    For commands only: it changes file descriptor 1 of the whole process.
    """
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
