"""One layer of settings over another, and which of them set what.

Laws: the highest layer that sets a setting wins; mappings are laid over one
another name by name, lists and everything else are replaced whole; `setters`
names exactly the layers that set something, highest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from policyctl.config.keys import flat
from policyctl.documents.document import Path


class LayerKind(StrEnum):
    """Where settings come from, highest first."""

    COMMAND_LINE = "command line"
    ENVIRONMENT = "environment"
    PROFILE = "profile file"
    BASE = "base file"


@dataclass(frozen=True, slots=True)
class Layer:
    """Settings from one place.

    Attributes:
        kind: What place.
        data: What it sets, group in group; may hold what is no setting.
        file: Its name; empty where it is none.
        lines: Of a file: where each field stands.
        variables: Of the environment: which variable set each.
    """

    kind: LayerKind
    data: Mapping[str, Any]
    file: str = ""
    lines: Mapping[Path, int] = field(default_factory=dict)
    variables: Mapping[Path, str] = field(default_factory=dict)

    def place(self, path: Path) -> str:
        """Where `path` is set: ``policyctl.yaml:7``, ``POLICYCTL_REPOSITORY``, ``command line``."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return f"{self.file}:{self.lines[path[:end]]}"
            if path[:end] in self.variables:
                return self.variables[path[:end]]
        return self.file or self.kind.value

    def line(self, path: Path) -> int:
        """The line of `path` in the file; 0 where there is none."""
        return next((self.lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.lines), 0)


@dataclass(frozen=True, slots=True)
class Setter:
    """One layer that sets one setting.

    Attributes:
        layer: Which.
        path: The setting.
        value: To what, as it stands there.
    """

    layer: Layer
    path: Path
    value: Any

    @property
    def place(self) -> str:
        """Where."""
        return self.layer.place(self.path)


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """What `layers`, highest first, set together."""
    found: dict[str, Any] = {}
    for layer in reversed(layers):
        found = over(found, layer.data)
    return found


def over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`upper` laid over `lower`."""
    found = dict(lower)
    for key, value in upper.items():
        below = found.get(key)
        found[key] = over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return found


def setters(model: type[BaseModel], layers: Iterable[Layer], path: Path) -> tuple[Setter, ...]:
    """Every layer that sets `path` or something in it, highest first."""
    return tuple(
        Setter(layer, found, value)
        for layer in layers
        for found, value in flat(model, layer.data).items()
        if found[: len(path)] == path
    )


def at(data: Any, path: Path) -> Any:
    """What stands at `path`; `ABSENT` where nothing does."""
    for part in path:
        known = isinstance(data, Mapping) and part in data
        if not known and not (isinstance(data, list) and isinstance(part, int) and part < len(data)):
            return ABSENT
        data = data[part]
    return data


ABSENT = object()
