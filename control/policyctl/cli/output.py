"""How commands speak: data on stdout, words for people on stderr.

With ``--json`` stdout holds one JSON document and nothing else, also when the
command refuses; then the document is ``{"error": {...}}``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from policyctl.errors import PolicyctlError

_PIPE_WIDTH = 100_000


@dataclass(frozen=True, slots=True)
class Output:
    """Where one command's data and words go.

    Attributes:
        as_json: The data is for a machine.
        quiet: Say no words but errors.
    """

    as_json: bool = False
    quiet: bool = False

    def say(self, words: str) -> None:
        """A line for people, on stderr."""
        if not self.quiet:
            _console(stderr=True).print(words)

    def data(self, document: Any, *, words: str = "") -> None:
        """The result: as JSON, or in words on stdout."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=1, default=str) + "\n")
        elif words:
            sys.stdout.write(words + "\n")

    def table(self, document: Any, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """The result: as JSON, or as a table on stdout."""
        if self.as_json:
            self.data(document)
            return
        table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
        for column in columns:
            numeric = column.endswith((" us", " ms", "/s", " MB")) or column in {"slot", "requests", "failed"}
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*("-" if cell is None else printable(str(cell)) for cell in row))
        console = _console()
        if not console.is_terminal:
            # A pipe has no width: keep rows whole, so that grep and awk can read them.
            console.width = _PIPE_WIDTH
        console.print(table, soft_wrap=False)

    def refuse(self, error: PolicyctlError) -> None:
        """An error: the problem and what to do next."""
        self.document(error)
        console = _console(stderr=True)
        console.print(f"Error: {error.problem}", style="red")
        if error.remedy:
            console.print(f"Next: {error.remedy}")

    def document(self, error: PolicyctlError) -> None:
        """An error for a machine; nothing without ``--json``."""
        found = {
            "code": error.code,
            "problem": error.problem,
            "remedy": error.remedy,
            "exit_code": error.exit_code,
        }
        self.data({"error": found})


def _console(*, stderr: bool = False) -> Console:
    """A console that takes text as text: no markup in brackets, no smileys between colons."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def printable(text: str) -> str:
    """`text` on one line, without characters that would drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
