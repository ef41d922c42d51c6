"""Add entries to the text of a card; everything else stays as it is written.

A comment that has lost its place is put at the top, never dropped.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from policyctl.card.reading import parse, require
from policyctl.documents.yaml_text import dump
from policyctl.errors import UsageError

_LOST: Final = "# Comments that have lost their place:"


def extended(content: bytes, added: Mapping[str, list[Any]]) -> str:
    """The text of a card with more entries in some of its lists.

    Raises:
        UsageError: It is not a card, or holds what no card may hold.
    """
    document = parse(content)
    require(document.complaints, "the model card", remedy="Correct it first; nothing was changed.")
    text = content.decode()
    after = document.data | {name: [*(document.data.get(name) or []), *new] for name, new in added.items()}
    written = _inserted(text, added)
    if written is None or not _says(written, after):
        written = dump(after)
    lost = Counter(comments(text)) - Counter(comments(written))
    return "\n".join([_LOST, *lost.elements(), written]) if lost else written


def _says(text: str, data: Mapping[str, Any]) -> bool:
    try:
        document = parse(text.encode())
    except UsageError:
        return False
    return document.data == data and not document.complaints


def comments(text: str) -> list[str]:
    """Every comment of a YAML text, from its ``#`` to the end of its line."""
    gathered, end = [], 0
    tokens = [token for token in YAML(typ="safe", pure=True).scan(text) if token.start_mark.index is not None]
    for token in [*tokens, None]:
        gap = text[end : token.start_mark.index if token is not None else len(text)]
        gathered += [line[line.index("#") :].rstrip() for line in gap.splitlines() if "#" in line]
        if token is not None:
            end = max(end, token.end_mark.index)
    return gathered


def _inserted(text: str, added: Mapping[str, list[Any]]) -> str | None:
    """`text` with entries at the end of its lists; None where ruamel.yaml cannot take it apart."""
    writer = YAML()
    writer.preserve_quotes = True
    writer.width = 100
    try:
        pieces = writer.load(text)
        there = {name: entries for name, entries in added.items() if pieces.get(name)}
        for name, entries in there.items():
            pieces[name].extend(entries)
        stream = io.StringIO()
        writer.dump(pieces, stream)
    except (YAMLError, ValueError, AttributeError, TypeError):
        return None
    missing = {name: entries for name, entries in added.items() if name not in there}
    head = stream.getvalue() if there else text
    return f"{head.rstrip()}\n\n{dump(missing)}" if missing else head
