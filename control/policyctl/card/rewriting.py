"""Carry a card's text from one schema to another with its comments.

The values are those that `migration` gives; comments, quotation marks and the
order of what was written move along with the values that they belong to. A
comment that has lost its place is put at the top, never dropped.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from typing import Any

from policyctl.card import migration
from policyctl.card.document import Path, dump, parse
from policyctl.card.problems import require
from policyctl.card.schema import SCHEMA_VERSION
from policyctl.documents.rewriting import comments, rewritten, with_comments, yaml_writer
from policyctl.errors import UsageError


def migrate(content: bytes, *, to: int = SCHEMA_VERSION) -> str:
    """The text of a card in another schema.

    Args:
        content: A card of any schema.
        to: 1 or 2.

    Returns:
        A text that says the same and holds every comment; the same text where it is of that schema already.

    Raises:
        UsageError: It is no card, or holds what no card may hold.
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
        written = rewritten(text, document.data, found, _from_new)
    else:
        found = migration.upgrade(document.data)
        written = rewritten(text, document.data, found, _from_old)
    if written is None or parse(written.encode()).data != found:
        written = dump(found)
    return with_comments(written, comments(text))


def extended(content: bytes, added: Mapping[str, list[Any]]) -> str:
    """The text of a card with more entries in some of its lists; everything else stays as it is written.

    Args:
        content: A card of the newest schema.
        added: Entries by section.

    Raises:
        UsageError: It is no card, or holds what no card may hold.
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
    return with_comments(written, comments(text))


def _inserted(text: str, added: Mapping[str, list[Any]]) -> str | None:
    """`text` with entries at the end of lists that are there."""
    writer = yaml_writer()
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
