"""Carry the text of a settings file from one schema to another, with its comments.

YAML is taken apart and put together by ruamel.yaml. TOML has dotted names of its
own, so there only the names are written anew, and every other byte stays.

Laws: what is written says what `lineage` says; no comment is lost; the way back
gives what there was.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from policyctl.config.keys import groups
from policyctl.config.lineage import SCHEMA, lineage
from policyctl.documents import toml_text, yaml_text
from policyctl.documents.document import Document
from policyctl.documents.document import Path as Where
from policyctl.documents.rewriting import comments, rewritten, with_comments
from policyctl.errors import UsageError

_PART: Final = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)"""
_DOTTED: Final = rf"({_PART}(?:[ \t]*\.[ \t]*{_PART})*)"
_NAME: Final = re.compile(rf"(\s*){_DOTTED}([ \t]*=)")
_HEADER: Final = re.compile(rf"(\s*\[+[ \t]*){_DOTTED}([ \t]*\]+)")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def migrated(model: type[BaseModel], content: bytes, *, suffix: str, to: int) -> str:
    """The text of a settings file in another schema.

    Args:
        model: The tree.
        content: Of any schema.
        suffix: ``.yaml``, ``.yml`` or ``.toml``.
        to: Which schema.

    Raises:
        UsageError: It is no settings file.
    """
    toml = suffix == ".toml"
    document = (toml_text if toml else yaml_text).parse(content, what="the settings file")
    text, version = content.decode(), document.data.get(SCHEMA)
    ways = lineage(model)
    if type(version) is not int or not 1 <= version <= ways.newest or not 1 <= to <= ways.newest:
        raise UsageError(
            f"the settings file has schema {version!r}, and {to} is asked for, expected 1 to {ways.newest}",
            remedy=f"Write schema: {ways.newest} into a file that has none.",
        )
    if version == to:
        return text
    data = {key: value for key, value in document.data.items() if key != SCHEMA}
    newest = ways.upgrade(data, version)
    after = {SCHEMA: to, **ways.downgrade(newest, to)}
    if toml:
        return _toml(model, text, after)
    written: str | None = _indented(text, document, to) if to > version else _flattened(model, text, document, to)
    if not _says(written, after):
        written = rewritten(text, document.data, after, _from_dotted if to > version else _from_nested)
    if written is None or not _says(written, after):
        written = yaml_text.dump(after)
    return with_comments(written, comments(text))


def _says(written: str | None, after: Mapping[str, Any]) -> bool:
    try:
        return written is not None and yaml_text.parse(written.encode(), what="the text").data == after
    except UsageError:
        return False


@dataclass(frozen=True, slots=True)
class _Piece:
    """The lines of one field: the comments above it, its first line, and the rest."""

    path: Where
    above: list[str]
    line: str
    below: list[str]


def _pieces(text: str, starts: Sequence[tuple[int, Where]]) -> Iterator[_Piece]:
    """A text cut before the comments above each of the fields that begin at these lines, from 1."""
    lines = text.splitlines(keepends=True)
    firsts = []
    for line, _ in starts:
        first = line - 1
        while first > 0 and (not lines[first - 1].strip() or lines[first - 1].lstrip().startswith("#")):
            first -= 1
        firsts.append(first)
    for (line, path), first, end in zip(starts, firsts, [*firsts[1:], len(lines)], strict=True):
        yield _Piece(path, lines[first : line - 1], lines[line - 1], lines[line:end])


def _indented(text: str, document: Document, to: int) -> str:
    """The lines of a flat YAML text under their groups; where that cannot be, anything else."""
    starts = sorted((line, path) for path, line in document.lines.items() if len(path) == 1)
    tree: dict[str, Any] = {}
    for piece in _pieces(text, starts):
        name = str(piece.path[0])
        *above, last = name.split(".")
        here = tree
        for group in above:
            here = here.setdefault(group, {})
            if isinstance(here, str):
                return ""
        here[last] = "".join([*piece.above, _renamed(piece.line, name, last, to), *piece.below])
    return _emitted(tree, "")


def _emitted(node: Mapping[str, Any], indent: str) -> str:
    written = ""
    for name, each in node.items():
        if isinstance(each, str):
            written += "".join(f"{indent}{ln}" if ln.strip() else ln for ln in each.splitlines(keepends=True))
        else:
            written += f"{indent}{name}:\n{_emitted(each, indent + '  ')}"
        written += "" if written.endswith("\n") else "\n"
    return written


def _flattened(model: type[BaseModel], text: str, document: Document, to: int) -> str:
    """The lines of a nested YAML text without their groups; where that cannot be, anything else."""
    starts = sorted((line, path) for path, line in document.lines.items() if path and path[:-1] in groups(model))
    written = ""
    for piece in _pieces(text, starts):
        indent = piece.line[: len(piece.line) - len(piece.line.lstrip(" "))]
        lines = [*piece.above, piece.line, *piece.below]
        if piece.path in groups(model):
            _, mark, words = piece.line.partition("#")
            lines = [*piece.above, *([f"#{words}"] if mark else [])]
        else:
            name = ".".join(map(str, piece.path))
            lines[len(piece.above)] = indent + _renamed(piece.line.lstrip(" "), str(piece.path[-1]), name, to)
        written += "".join(ln.lstrip(" ") if ln.lstrip().startswith("#") else ln.removeprefix(indent) for ln in lines)
        written += "" if written.endswith("\n") or not written else "\n"
    return written


def _renamed(line: str, before: str, after: str, to: int) -> str:
    """The first line of a field under another name; of the schema, with another number."""
    found = re.sub(rf"""^(['"]?){re.escape(before)}\1(?=\s*:)""", lambda _: after, line)
    return re.sub(r"[0-9]+", str(to), found, count=1) if before == SCHEMA else found


def _from_dotted(path: Where) -> list[Where]:
    """Where a field of schema 2 stood in schema 1."""
    return [(".".join(map(str, path[:end])), *path[end:]) for end in range(len(path), 0, -1)]


def _from_nested(path: Where) -> list[Where]:
    """Where a field of schema 1 stood in schema 2."""
    return [(*str(path[0]).split("."), *path[1:])] if path else [()]


def _toml(model: type[BaseModel], text: str, after: Mapping[str, Any]) -> str:
    """`text` with other names, if that says `after`; else `after`, below the comments."""
    flat = after[SCHEMA] == 1
    table: Where = ()
    lines = []
    for statement in toml_text.statements(text):
        if statement.header and (found := _HEADER.match(statement.text)):
            table, rest = _path(found[2]), statement.text[found.end() :]
            # In one line a name the header goes, and what stands behind it stays.
            name = _written(model, table, flat=False)
            lines.append(rest.lstrip(" \t") if flat else f"{found[1]}{name}{found[3]}{rest}")
        elif statement.data:
            lines.append(_named(model, statement.text, table, after))
        else:
            lines.append(statement.text)
    written = "".join(lines)
    try:
        if toml_text.parse(written.encode(), what="the text").data == after:
            return written
    except UsageError:
        pass
    kept = [f"{s.text.rstrip()}\n" for s in toml_text.statements(text) if not s.data and "#" in s.text]
    return "".join([*kept, *(f"{_quoted(name)} = {toml_value(value)}\n" for name, value in after.items())])


def _named(model: type[BaseModel], text: str, table: Where, after: Mapping[str, Any]) -> str:
    """One ``name = value`` under its other name."""
    found = _NAME.match(text)
    if found is None:
        return text
    path, value = _path(found[2]), text[found.end() :]
    if (*table, *path) == (SCHEMA,):
        value = re.sub(r"[0-9]+", str(after[SCHEMA]), value, count=1)
    return f"{found[1]}{_written(model, path, flat=after[SCHEMA] == 1, table=table)}{found[3]}{value}"


def _written(model: type[BaseModel], path: Where, *, flat: bool, table: Where = ()) -> str:
    """A dotted name, as it is written within `table`."""
    if not flat:
        parts = path if table else (*str(path[0]).split("."), *path[1:])
        return ".".join(_quoted(str(part)) for part in parts)
    whole = (*table, *path)
    # The name of the setting in one piece, and what is in it as it is.
    end = next((end for end in range(1, len(whole) + 1) if whole[:end] not in groups(model)), len(whole))
    return ".".join([_quoted(".".join(map(str, whole[:end]))), *(_quoted(str(part)) for part in whole[end:])])


def _path(name: str) -> Where:
    """What a dotted name names."""
    data: Any = tomllib.loads(f"{name} = 0")
    path: Where = ()
    while isinstance(data, Mapping):
        ((key, data),) = data.items()
        path = (*path, key)
    return path


def _quoted(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def toml_value(value: Any) -> str:
    """A value as TOML writes it; no value is the text ``null``."""
    match value:
        case None:
            return '"null"'
        case bool() | int() | float() | str():
            return json.dumps(value, ensure_ascii=False).replace("Infinity", "inf").replace("\x7f", "\\u007f")
        case Mapping():
            return "{" + ", ".join(f"{_quoted(str(k))} = {toml_value(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(toml_value(v) for v in value) + "]"
        case _:
            return str(value)
