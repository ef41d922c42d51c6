"""Write the manual page policyctl(1), from the help of all commands.

python release/manual_page.py FILE
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import typer

from policyctl import __version__
from policyctl.cli.help import Help, Rows, everything
from policyctl.cli.main import app


def page() -> str:
    """The page, as groff's macros `man` read it; it holds no date, so the same tree gives the same bytes."""
    (_, front), *commands = everything(typer.main.get_command(app), "policyctl")
    what, *paragraphs = front.paragraphs
    lines = [f'.TH POLICYCTL 1 "" "policyctl {__version__}"', ".SH NAME", f"policyctl \\- {_plain(what)}"]
    lines += [".SH SYNOPSIS", f".B {_plain(front.usage)}", ".SH DESCRIPTION"]
    for paragraph in paragraphs:
        lines += [".PP", _plain(paragraph)]
    lines += [*_examples(front), ".SH OPTIONS", *_definitions(front.options), ".SH COMMANDS"]
    for path, shown in commands:
        lines += [f'.SS "{_plain(path)}"', f".B {_plain(shown.usage)}"]
        for paragraph in shown.paragraphs:
            lines += [".PP", _plain(paragraph)]
        lines += [*_definitions((*shown.arguments, *shown.options)), *_examples(shown)]
    lines += [".SH EXIT STATUS", _plain(front.epilog)]
    lines += [".SH SEE ALSO", "The guides:", ".B policyctl docs"]
    return "\n".join(lines) + "\n"


def _definitions(rows: Rows) -> Iterator[str]:
    for name, text in rows:
        yield from (".TP", f".B {_plain(name)}", _plain(text) or "\\&")


def _examples(shown: Help) -> Iterator[str]:
    if shown.examples:
        yield from (".PP", "Examples:", ".PP", ".RS", ".nf", *map(_plain, shown.examples), ".fi", ".RE")


def _plain(text: str) -> str:
    """`text` as it is: no escape, no request and no quoted argument begins in it, and a hyphen is one to copy."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="where to write it; its folder is made")
    file = parser.parse_args().file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page())


if __name__ == "__main__":
    main()
