"""Write a YAML text anew with other fields, and keep its comments.

Comments, quotation marks and the order of what was written move along with the
values that they belong to. A comment that has lost its place is put at the top,
never dropped.
"""

from __future__ import annotations

import copy
import io
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from policyctl.documents.document import Path
from policyctl.documents.yaml_text import parse
from policyctl.errors import UsageError

_LOST = "# Comments of before, which have lost their place:"


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


def with_comments(text: str, wanted: list[str]) -> str:
    """`text`, with those of the `wanted` comments that it lacks at its top."""
    lost = list((Counter(wanted) - Counter(comments(text))).elements())
    return "\n".join([_LOST, *lost, text]) if lost else text


def rewritten(
    text: str, before: Mapping[str, Any], after: Mapping[str, Any], origins: Callable[[Path], list[Path]]
) -> str | None:
    """`after` as text, made of the pieces of `text`; None where it cannot be taken apart.

    Args:
        text: As it is written.
        before: What it says.
        after: What it is to say.
        origins: Where in `before` a field of `after` may have stood, likeliest first.
    """
    writer = yaml_writer()
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
        parse(stream.getvalue().encode(), what="the text")
    except (YAMLError, UsageError, ValueError, AttributeError, TypeError):
        # A text that it cannot take apart and put together again is written anew.
        return None
    return stream.getvalue()


def yaml_writer() -> Any:
    """What reads and writes YAML with its comments."""
    # Here, because no other command should wait for it.
    from ruamel.yaml import YAML

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
