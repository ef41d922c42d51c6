"""How commands speak: data on stdout, words for people on stderr.

With ``--json`` stdout holds one JSON document and nothing else, also when the
command refuses; then the document is ``{"error": {...}}``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TextIO

from policyctl.cli.tables import table, width_of
from policyctl.domain.json_values import to_json
from policyctl.errors import PolicyctlError

_BOLD = "\x1b[1m"
_RED = "\x1b[31m"
_PLAIN = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Output:
    """Where one command's data and words go.

    Attributes:
        printed: Titles of the tables that stand on stdout.
    """

    as_json: bool = False
    quiet: bool = False
    printed: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def say(self, words: str) -> None:
        """A line for people, on stderr."""
        if not self.quiet:
            _write(sys.stderr, words)

    def working(self, words: str, at_most_s: float | None) -> AbstractContextManager[Callable[[str], None]]:
        """Show on stderr that work goes on, while the block runs."""
        if self.quiet:
            return nullcontext(lambda _: None)
        from policyctl.cli.progress import working

        return working(words, at_most_s)

    def data(self, document: Any, *, words: str = "") -> None:
        """The result: as JSON, or in words on stdout.

        Args:
            document: What `json_values.to_json` takes: a dataclass, or plain values.
            words: For people; empty where there is nothing to print.
        """
        if self.as_json:
            sys.stdout.write(json.dumps(to_json(document), indent=1) + "\n")
        elif words:
            sys.stdout.write(words + "\n")

    def table(self, document: Any, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """The result: as JSON, or as a table on stdout; without a document it is for people alone."""
        if self.as_json:
            if document is not None:
                self.data(document)
            return
        shown = [["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]
        right = [
            name.endswith((" us", " ms", "/s", " MB")) or name in {"slot", "requests", "failed"} for name in columns
        ]
        if self.printed:
            sys.stdout.write("\n")
        self.printed.append(title)
        _write(sys.stdout, title, style=_BOLD)
        sys.stdout.write(table(columns, shown, right=right, width=width_of(sys.stdout)) + "\n")

    def refuse(self, error: PolicyctlError) -> None:
        """An error: its code, the problem and what to do next."""
        found = {"code": error.code, "problem": error.problem, "remedy": error.remedy, "exit_code": error.exit_code}
        self.data({"error": found})
        _write(sys.stderr, f"Error ({error.code}): {error.problem}", style=_RED)
        if error.remedy:
            _write(sys.stderr, f"Next: {error.remedy}")


def _write(stream: TextIO, text: str, *, style: str = "") -> None:
    """A line or several; in colour only on a terminal that has colours and whose owner wants them."""
    lines = printable_lines(text)
    styled = style and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    text = f"{style}{lines}{_PLAIN}\n" if styled else f"{lines}\n"
    if stream is sys.stderr and "policyctl.cli.progress" in sys.modules:
        sys.modules["policyctl.cli.progress"].write_line(text)
    else:
        stream.write(text)


def printable_lines(text: str) -> str:
    """`text` without characters that would drive the terminal."""
    return "\n".join(printable(line) for line in text.split("\n"))


def printable(text: str) -> str:
    """`text` on one line, without characters that would drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
