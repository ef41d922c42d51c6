"""One layer of settings over another, and which of them set what.

Laws: the highest layer that sets a setting wins; mappings are laid over one
another name by name, lists and everything else are replaced whole; `setters`
names exactly the layers that set something, highest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import BaseModel

from policyctl.config.keys import flat, shown
from policyctl.documents.document import Path, Problem, path_words
from policyctl.domain.json_values import OMIT_DEFAULT

Place = TypeVar("Place", int, str)


class LayerKind(StrEnum):
    """Where settings come from, highest first."""

    COMMAND_LINE = "command line"
    ENVIRONMENT = "environment"
    PROFILE = "profile file"
    BASE = "base file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Layer:
    """Settings from one place.

    Attributes:
        data: What it sets, group in group; may hold unknown settings.
        file: The name of a file; else empty.
        mode: Of a file: its permissions.
        lines: Of a file: where each field stands.
        variables: Of the environment: which variable set each.
        problems: What no layer of this kind may hold.
    """

    kind: LayerKind
    data: Mapping[str, Any]
    file: str = ""
    mode: int = 0
    lines: Mapping[Path, int] = field(default_factory=dict)
    variables: Mapping[Path, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def place(self, path: Path) -> str:
        """Where `path` is set: ``policyctl.yaml:7``, ``POLICYCTL_REPOSITORY``, ``command line``."""
        if line := self.line(path):
            return f"{self.file}:{line}"
        return self.file or _innermost(self.variables, path) or self.kind.value

    def line(self, path: Path) -> int:
        """The line of `path` in the file; 0 outside files."""
        return _innermost(self.lines, path) or 0

    def problem(self, path: Path, found: str, expected: str) -> Problem:
        """What is wrong at `path`."""
        source = "" if self.file else self.place(path)
        return Problem(self.line(path), path_words(path), found, expected, self.file, source)


def _innermost(places: Mapping[Path, Place], path: Path) -> Place | None:
    """What is known of `path`, or of the nearest field around it."""
    return next((places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in places), None)


@dataclass(frozen=True, slots=True)
class SetBy:
    """One layer that sets something.

    Attributes:
        layer: ``environment``.
        place: ``POLICYCTL_REPOSITORY``, ``policyctl.yaml:7``.
        value: As it may be shown.
        name: What exactly, where a setting is a mapping with the user's names; else empty.
    """

    layer: str
    place: str
    value: Any
    name: str = field(default="", metadata=OMIT_DEFAULT)


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """What `layers`, highest first, set together."""
    together: dict[str, Any] = {}
    for layer in reversed(layers):
        together = over(together, layer.data)
    return together


def over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`upper` laid over `lower`."""
    together = dict(lower)
    for key, value in upper.items():
        below = together.get(key)
        together[key] = over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return together


def setters(model: type[BaseModel], layers: Iterable[Layer], path: Path) -> tuple[SetBy, ...]:
    """Every layer that sets `path` or something in it, highest first."""
    return tuple(
        SetBy(layer.kind.value, layer.place(where), shown(model, where, value), ".".join(map(str, where[len(path) :])))
        for layer in layers
        for where, value in flat(model, layer.data).items()
        if where[: len(path)] == path
    )


def at(data: Any, path: Path) -> Any:
    """What stands at `path`; `ABSENT` where nothing does."""
    for part in path:
        named = isinstance(data, Mapping) and part in data
        if not named and not (isinstance(data, list) and isinstance(part, int) and part < len(data)):
            return ABSENT
        data = data[part]
    return data


ABSENT = object()


def highest(layers: Iterable[Layer], path: Path) -> Layer | None:
    """The highest layer that sets `path`; None where it has its default."""
    return next((layer for layer in layers if at(layer.data, path) is not ABSENT), None)
