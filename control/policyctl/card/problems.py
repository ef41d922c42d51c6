"""Hold a card against its schema: everything that is wrong, by field, with its line."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from policyctl.card.document import Document, Path, Problem, path_words, shown
from policyctl.card.schema import Card
from policyctl.documents.expected import expectation
from policyctl.errors import UsageError


def check_schema(document: Document) -> tuple[Card | None, tuple[Problem, ...]]:
    """The card, if it follows the schema, and everything that is wrong with it.

    Args:
        document: Of the newest schema; see `migration.upgrade`.
    """
    try:
        card = Card.model_validate(document.data)
    except ValidationError as error:
        found = [_problem(document, detail) for detail in error.errors(include_url=False)]
        told = {problem.path for problem in document.complaints}
        return None, (*document.complaints, *sorted({problem for problem in found if problem.path not in told}))
    return card, document.complaints


def require(problems: tuple[Problem, ...], what: str, *, remedy: str = "") -> None:
    """Refuse a card that has problems; names every one.

    Raises:
        UsageError: There are some.
    """
    if problems:
        told = "".join(f"\n  {problem.words}" for problem in problems)
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        raise UsageError(f"{what} has {count}:{told}", remedy=remedy or "Correct it; see docs/model-cards.md.")


def _problem(document: Document, detail: ErrorDetails) -> Problem:
    path = _path(document, detail["loc"])
    line = document.line(path)
    match detail["type"]:
        case "missing":
            return Problem(line, path_words(path), "missing", _of_field(path) or "a value")
        case "extra_forbidden":
            return Problem(line, path_words(path), "unknown", _instead(path))
    return Problem(line, path_words(path), shown(detail["input"]), expectation(detail))


def _path(document: Document, location: tuple[int | str, ...]) -> Path:
    """A location without the names of a union's members, which pydantic puts in."""
    path: Path = ()
    for part in location:
        if (*path, part) in document.lines or not path or part == location[-1]:
            path = (*path, part)
    return path if path in document.lines or path[:-1] in document.lines else location


def _instead(path: Path) -> str:
    fields = _fields(path[:-1])
    near = get_close_matches(str(path[-1]), fields, n=1)
    return (f"{near[0]}, or another" if near else "one") + f" of: {', '.join(fields)}"


def _of_field(path: Path) -> str:
    model = _model(path[:-1])
    info = model.model_fields.get(str(path[-1])) if model else None
    if str(path[-1]) == "evidence":
        return "the evidence that the figure was read from (file and digest)"
    return (info.description or "") if info else ""


def _fields(path: Path) -> list[str]:
    model = _model(path)
    return [name for name in model.model_fields if name != "release"] if model else []


def _model(path: Path) -> type[BaseModel] | None:
    """The section that stands at `path` in a card."""
    model: type[BaseModel] | None = Card
    for part in path:
        if isinstance(part, int):
            continue
        info = model.model_fields.get(part) if model else None
        model = _section(info.annotation) if info else None
    return model


def _section(annotation: Any) -> type[BaseModel] | None:
    for each in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
        inner = _section(each) if getattr(each, "__args__", ()) and each is not annotation else None
        if inner is not None:
            return inner
    return None
