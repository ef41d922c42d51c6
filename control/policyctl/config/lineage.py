"""The schemas that a settings file ever had, and the way from one to the next.

Schema 1 is flat: one line a setting, under the dotted name by which
``policyctl config explain`` knows it (``server.http_port: 8000``). Schema 2
has the groups as mappings. Both are read for ever.

Law: the way back undoes the way forth, for whatever schema 1 may hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, Final

from pydantic import BaseModel

from policyctl.config.keys import groups
from policyctl.documents.document import Path
from policyctl.domain.schema import Document, Lineage, Step

SCHEMA: Final = "schema"
"""The field of a file that tells its schema."""


@cache
def lineage(model: type[BaseModel]) -> Lineage:
    """Every schema of a file that holds `model`."""
    return Lineage("settings", (Step(up=nested, down=partial(dotted, model)),))


def nested(document: Document) -> dict[str, Any]:
    """Schema 1 as schema 2."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        here, (*parents, last) = found, name.split(".")
        for part in parents:
            deeper = here.setdefault(part, {})
            if not isinstance(deeper, dict):
                break
            here = deeper
        else:
            here[last] = value
    return found


def dotted(model: type[BaseModel], document: Document) -> dict[str, Any]:
    """Schema 2 as schema 1."""
    found: dict[str, Any] = {}

    def visit(path: Path, value: Any) -> None:
        if isinstance(value, Mapping) and path in groups(model):
            for key, each in value.items():
                visit((*path, key), each)
        else:
            found[".".join(map(str, path))] = value

    visit((), document)
    return found


def misplaced(model: type[BaseModel], document: Document) -> dict[str, str]:
    """What is not flat in a document of schema 1, and what to write instead."""
    found = {}
    for name, value in document.items():
        path = tuple(name.split("."))
        if path in groups(model) and value is not None:
            first = next(iter(value), "...") if isinstance(value, Mapping) else "..."
            found[name] = f"dotted names in schema 1: {name}.{first}; or schema: 2"
        elif above := next((p for end in range(1, len(path)) if (p := ".".join(path[:end])) in document), None):
            found[name] = f"either {above} or what is in it"
    return found
