"""What a text that people write says, and where: the same for YAML and TOML, and without the reader of either."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from policyctl.errors import UsageError

MOST_BYTES: Final = 1 << 20

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong in what people write.

    Attributes:
        line: Where, from 1; 0 for a whole file, and outside files.
        path: Which field: ``evaluation[0].returns.mean``; empty for a whole file.
        found: What stands there; empty where nothing does. Never a secret.
        file: In which file; empty for other places, and where one text alone is judged.
        source: Where it stands if not in a file: a variable's name, ``command line``, ``default``.
    """

    line: int
    path: str
    found: str
    expected: str
    file: str = ""
    source: str = ""

    @property
    def place(self) -> str:
        """``policyctl.yaml:7``, ``line 7``, ``POLICYCTL_SERVER__HTTP_PORT``."""
        if self.line:
            return f"{self.file}:{self.line}" if self.file else f"line {self.line}"
        return self.file or self.source

    @property
    def words(self) -> str:
        """One sentence."""
        where = f"{self.path} ({self.place})" if self.place and self.path else self.path or self.place
        return f"{where}: " * bool(where) + f"{self.found}, " * bool(self.found) + f"expected {self.expected}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"path": self.path, "line": self.line or None, "found": self.found, "expected": self.expected}


def refusal(problems: Iterable[Problem], what: str, *, remedy: str) -> UsageError:
    """The error that names every problem of `what`."""
    sentences = [problem.words for problem in problems]
    count = len(sentences)
    listed = sentences[0] if count == 1 else f"{count} problems:" + "".join(f"\n  {each}" for each in sentences)
    return UsageError(f"{what}: {listed}", remedy=remedy)


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was read.

    Attributes:
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


def decoded(content: bytes, what: str) -> str:
    """The text of a document that people write.

    Raises:
        UsageError: It is not UTF-8, or larger than people write.
    """
    if len(content) > MOST_BYTES:
        raise UsageError(f"{what} has {len(content)} bytes, expected at most {MOST_BYTES}")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} is not UTF-8 ({error})", remedy="Save it as UTF-8.") from error


def path_words(path: Path) -> str:
    """``evaluation[0].returns.mean``."""
    dotted = ""
    for part in path:
        dotted += f"[{part}]" if isinstance(part, int) else f".{part}" if dotted else str(part)
    return dotted


def shown(value: Any) -> str:
    """A value in a message: short, and on one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
