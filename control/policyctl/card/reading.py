"""Read a card, and hold it against its schema: everything that is wrong, by field, with its line."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from policyctl.card.schema import SCHEMA_VERSION, Card
from policyctl.documents import yaml_text
from policyctl.documents.document import Document, Path, Problem, path_words, refusal, shown
from policyctl.documents.expected import expectation, nearest_name
from policyctl.errors import UsageError


def parse(content: bytes, *, what: str = "the model card") -> Document:
    """Read a card.

    Raises:
        UsageError: It is not a mapping in YAML, larger than any card, or of an unknown schema.
    """
    document = yaml_text.parse(content, what=what)
    version = document.data.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        stated = "no schema_version"
        if "schema_version" in document.data:
            stated = f"the unknown schema_version {version!r} (line {document.line(('schema_version',))})"
        newer = type(version) is int and version > SCHEMA_VERSION
        raise UsageError(
            f"{what} has {stated}, this policyctl reads {SCHEMA_VERSION}",
            remedy="A newer policyctl wrote it: update this one."
            if newer
            else f"Write schema_version: {SCHEMA_VERSION}, and see policyctl docs model-cards.",
        )
    return document


def check_schema(document: Document) -> tuple[Card | None, tuple[Problem, ...]]:
    """The card, if it follows the schema, and everything that is wrong with it."""
    try:
        card = Card.model_validate(document.data)
    except ValidationError as error:
        problems = {_problem(document, detail) for detail in error.errors(include_url=False)}
        complained = {problem.path for problem in document.complaints}
        return None, (*document.complaints, *sorted(p for p in problems if p.path not in complained))
    return card, document.complaints


def require(problems: tuple[Problem, ...], what: str, *, remedy: str = "") -> None:
    """Refuse a card that has problems; names every one.

    Raises:
        UsageError: There are some.
    """
    if problems:
        raise refusal(problems, what, remedy=remedy or "Correct it; see policyctl docs model-cards.")


def _problem(document: Document, detail: ErrorDetails) -> Problem:
    path = _path(document, detail["loc"])
    line = document.line(path)
    match detail["type"]:
        case "missing":
            return Problem(line, path_words(path), "missing", _meaning(path) or "a value")
        case "extra_forbidden":
            section = _section_at(path[:-1])
            names = [name for name in section.model_fields if name != "release"] if section else []
            return Problem(line, path_words(path), "unknown", nearest_name(str(path[-1]), names))
    return Problem(line, path_words(path), shown(detail["input"]), expectation(detail))


def _path(document: Document, location: Path) -> Path:
    """A location without the names of a union's members, which pydantic puts in."""
    path: Path = ()
    for part in location:
        if (*path, part) in document.lines or not path or part == location[-1]:
            path = (*path, part)
    return path if path in document.lines or path[:-1] in document.lines else location


def _meaning(path: Path) -> str:
    """What belongs at `path`."""
    if path[-1] == "evidence":
        return "the evidence that the figure was read from (file and digest)"
    section = _section_at(path[:-1])
    info = section.model_fields.get(str(path[-1])) if section else None
    return (info.description or "") if info else ""


def _section_at(path: Path) -> type[BaseModel] | None:
    """The section of a card at `path`."""
    section: type[BaseModel] | None = Card
    for part in path:
        if isinstance(part, str):
            info = section.model_fields.get(part) if section else None
            section = _section_in(info.annotation) if info else None
    return section


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of this type holds, or holds a list of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((s for each in getattr(annotation, "__args__", ()) if (s := _section_in(each)) is not None), None)
