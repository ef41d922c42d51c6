"""Carry a card's text from one schema to another with its comments.

The values are those that `migration` gives; comments, quotation marks and the
order of what was written move along with the values that they belong to. A
comment that has lost its place is put at the top, never dropped.
"""

from __future__ import annotations

import copy
import io
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from policyctl.card import migration
from policyctl.card.document import Path, dump, parse
from policyctl.card.problems import require
from policyctl.card.schema import SCHEMA_VERSION
from policyctl.errors import UnsupportedError, UsageError

_LOST = "# Comments of the card before it was migrated:"


def migrate(content: bytes, *, to: int = SCHEMA_VERSION) -> str:
    """The text of a card in another schema.

    Args:
        content: A card of any schema.
        to: 1 or 2.

    Returns:
        A text that says the same and holds every comment; the same text where it is of that schema already.

    Raises:
        UsageError: It is no card, or holds what no card may hold.
        UnsupportedError: The library that keeps comments is not installed.
    """
    if to not in {1, SCHEMA_VERSION}:
        raise UsageError(f"schema_version {to} is not known", remedy=f"Choose 1 or {SCHEMA_VERSION}.")
    document = parse(content)
    require(document.complaints, "the model card", remedy="Correct it first; nothing was changed.")
    text = content.decode("utf-8")
    version = document.version
    if version > SCHEMA_VERSION:
        migration.newest(document)  # refuses
    if version == to:
        return text
    if to == 1:
        found = migration.downgrade(document.data)
        written = _rewritten(text, document.data, found, _from_new)
    else:
        found = migration.upgrade(document.data)
        written = _rewritten(text, document.data, found, _from_old)
    if written is None or parse(written.encode()).data != found:
        written = dump(found)
    return _with_comments(written, comments(text))


def extended(content: bytes, added: Mapping[str, list[Any]]) -> str:
    """The text of a card with more entries in some of its lists; everything else stays as it is written.

    Args:
        content: A card of the newest schema.
        added: Entries by section.

    Raises:
        UsageError: It is no card, or holds what no card may hold.
        UnsupportedError: The library that keeps comments is not installed.
    """
    document = parse(content)
    require(document.complaints, "the model card", remedy="Correct it first; nothing was changed.")
    text = content.decode("utf-8")
    after = dict(document.data)
    for section, entries in added.items():
        after[section] = [*(after.get(section) or []), *entries]
    head, missing = text, {section: entries for section, entries in added.items() if not document.data.get(section)}
    there = {section: entries for section, entries in added.items() if section not in missing}
    written = _inserted(head, there) if there else head
    for section in missing:
        if section in document.data:  # an empty list, or nothing after the colon
            written = None
    if written is not None and missing:
        written = f"{written.rstrip()}\n\n{dump(missing)}"
    if written is None or parse(written.encode()).data != after:
        written = dump(after)
    return _with_comments(written, comments(text))


def _inserted(text: str, added: Mapping[str, list[Any]]) -> str | None:
    """`text` with entries at the end of lists that are there."""
    writer = _writer()
    from ruamel.yaml.error import YAMLError

    try:
        pieces = writer.load(text)
        for section, entries in added.items():
            pieces[section].extend(copy.deepcopy(entries))
        stream = io.StringIO()
        writer.dump(pieces, stream)
    except (YAMLError, ValueError, AttributeError, TypeError):
        return None
    return stream.getvalue()


def comments(text: str) -> list[str]:
    """Every comment of a YAML text, from its ``#`` to the end of its line."""
    found, end = [], 0
    tokens = [token for token in yaml.scan(text, Loader=yaml.SafeLoader) if token.start_mark.index is not None]
    for token in [*tokens, None]:
        gap = text[end : token.start_mark.index if token is not None else len(text)]
        for line in gap.splitlines():
            if "#" in line:
                found.append(line[line.index("#") :].rstrip())
        if token is not None:
            end = max(end, token.end_mark.index)
    return found


def _with_comments(text: str, wanted: list[str]) -> str:
    lost = list((Counter(wanted) - Counter(comments(text))).elements())
    return "\n".join([_LOST, *lost, text]) if lost else text


def _from_old(path: Path) -> list[Path]:
    """Where a field of schema 2 may have stood in schema 1."""
    found = [rule.old + path[len(rule.new) :] for rule in migration.RULES if path[: len(rule.new)] == rule.new]
    if path[:2] == ("extensions", migration.KEPT):
        found.append(path[2:])
    return [*found, (migration.NEWER, *path)]


def _from_new(path: Path) -> list[Path]:
    """Where a field of schema 1 may have stood in schema 2."""
    found = [rule.new + path[len(rule.old) :] for rule in migration.RULES if path[: len(rule.old)] == rule.old]
    if path[:1] == (migration.NEWER,):
        found.append(path[1:])
    return [*found, ("extensions", migration.KEPT, *path)]


def _rewritten(
    text: str, before: Mapping[str, Any], after: Mapping[str, Any], origins: Callable[[Path], list[Path]]
) -> str | None:
    """`after` as text, made of the pieces of `text`; None where it cannot be taken apart."""
    writer = _writer()
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import YAMLError

    def build(path: Path, value: Any) -> Any:
        for origin in origins(path):
            if path and _at(before, origin) == value and type(_at(before, origin)) is type(value):
                return copy.deepcopy(_at(pieces, origin))
        if not isinstance(value, Mapping):
            return value
        made = CommentedMap()
        for key, each in value.items():
            made[key] = build((*path, key), each)
            for origin in origins((*path, key)):
                parent = _at(pieces, origin[:-1])
                if isinstance(parent, CommentedMap) and origin and origin[-1] in parent.ca.items:
                    made.ca.items[key] = copy.deepcopy(parent.ca.items[origin[-1]])
                    break
        return made

    try:
        pieces = writer.load(text)
        if not isinstance(pieces, CommentedMap):
            return None
        made = build((), after)
        made.ca.comment = copy.deepcopy(pieces.ca.comment)
        stream = io.StringIO()
        writer.dump(made, stream)
        parse(stream.getvalue().encode())
    except (YAMLError, UsageError, ValueError, AttributeError, TypeError):
        # A text that it cannot take apart and put together again is written anew.
        return None
    return stream.getvalue()


def _writer() -> Any:
    try:
        from ruamel.yaml import YAML
    except ImportError as error:
        raise UnsupportedError(
            "editing a card without losing its comments needs ruamel.yaml, which is not installed",
            remedy="pip install 'policyctl[card]'",
        ) from error
    writer = YAML()
    writer.preserve_quotes = True
    writer.width = 100
    return writer


def _at(data: Any, path: Path) -> Any:
    for part in path:
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        else:
            return _NOWHERE
    return data


_NOWHERE = object()
