"""Read TOML that people write, with the line of every field.

`tomllib` says what a text holds and not where. So the text is cut into its
statements first (a header, or one ``key = value`` however many lines it takes):
a statement is the shortest run of lines that is TOML by itself, which no
unfinished string or list is. Where each begins is then known, and what it sets.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from policyctl.documents.document import Document, Path, decoded
from policyctl.errors import UsageError


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a TOML text, or a run of lines that state nothing.

    Attributes:
        line: Where it begins, from 1.
        data: What it says by itself; empty for comments.
    """

    line: int
    text: str
    data: Mapping[str, Any]
    header: bool


def parse(content: bytes, *, what: str) -> Document:
    """Read a document; the text ``null`` stands for no value, because TOML has no word for that.

    Raises:
        UsageError: It is not TOML, or larger than people write.
    """
    text = decoded(content, what)
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        sentence = str(error).replace("at end of document", f"at line {_unfinished(text)}, which does not end")
        raise UsageError(f"{what} is not TOML ({sentence})", remedy="Correct it at that place.") from error
    lines: dict[Path, int] = {(): 1}
    table: Path = ()
    for statement in statements(text):
        if statement.header:
            table = _only(statement.data)
            lines.setdefault(table, statement.line)
        for path in _paths(statement.data, () if statement.header else table):
            lines.setdefault(path, statement.line)
    return Document(_null(data), lines)


def statements(text: str) -> Iterator[Statement]:
    """Every statement of a TOML text, in order; together they are the text."""
    gathered, start = "", 1
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not gathered:
            start = number
        gathered += line
        try:
            data = tomllib.loads(gathered)
        except tomllib.TOMLDecodeError:
            continue
        yield Statement(start, gathered, data, header=gathered.lstrip().startswith("["))
        gathered = ""


def _unfinished(text: str) -> int:
    """The line of the first statement that does not end."""
    last = None
    for last in statements(text):  # noqa: B007 - the last of them is wanted
        pass
    return 1 if last is None else last.line + last.text.count("\n")


def _only(data: Any) -> Path:
    """The path of the table that a header opens; entries of an array of tables share their array's."""
    path: Path = ()
    while isinstance(data, Mapping) and data:
        (key,) = data
        path, data = (*path, key), data[key]
    return path


def _paths(data: Any, path: Path) -> Iterator[Path]:
    if path:
        yield path
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _paths(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _paths(value, (*path, index))


def _null(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _null(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_null(value) for value in data]
    return None if data == "null" else data


_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def value_text(value: Any) -> str:
    """A value as TOML writes it; no value is the text ``null``."""
    match value:
        case None:
            return '"null"'
        case bool() | int() | float() | str():
            return json.dumps(value, ensure_ascii=False).replace("Infinity", "inf").replace("\x7f", "\\u007f")
        case Mapping():
            return "{" + ", ".join(f"{_name(str(k))} = {value_text(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(value_text(v) for v in value) + "]"
        case _:
            return str(value)


def _name(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)
