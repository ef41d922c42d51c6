"""What a text that people write says, and where: the same for YAML and TOML, and without the reader of either."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MOST_BYTES: Final = 1 << 20

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong with a document.

    Attributes:
        line: Where, from 1; 0 where there is no line (a missing file).
        path: Which field: ``evaluation[0].returns.mean``.
        found: What stands there; empty where nothing does.
        expected: What is expected.
    """

    line: int
    path: str
    found: str
    expected: str

    @property
    def words(self) -> str:
        """One sentence."""
        where = f"line {self.line}, {self.path}" if self.line else self.path
        return f"{where}: {f'{self.found}, ' if self.found else ''}expected {self.expected}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"path": self.path, "line": self.line or None, "found": self.found, "expected": self.expected}


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was read.

    Attributes:
        data: What it says.
        lines: Where each field begins, from 1.
        complaints: What it may not hold.
    """

    data: dict[str, Any]
    lines: Mapping[Path, int] = field(default_factory=dict)
    complaints: tuple[Problem, ...] = ()

    def line(self, path: Path) -> int:
        """Where `path` stands, or what it would stand in."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def problem(self, path: Path, found: Any, expected: str) -> Problem:
        """One thing that is wrong at `path`."""
        return Problem(self.line(path), path_words(path), "" if found is None else shown(found), expected)


def path_words(path: Path) -> str:
    """``evaluation[0].returns.mean``."""
    words = ""
    for part in path:
        words += f"[{part}]" if isinstance(part, int) else f".{part}" if words else str(part)
    return words


def paths(data: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every place of a plain value, with what stands there."""
    yield path, data
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from paths(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from paths(value, (*path, index))


def shown(value: Any) -> str:
    """A value in a message: short, and on one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
