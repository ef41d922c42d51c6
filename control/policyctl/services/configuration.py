"""What is configured: every setting with where it comes from, and everything that is wrong with any file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyctl.config.files import SUFFIXES, profiles_beside
from policyctl.config.keys import Key, masked, select, shown
from policyctl.config.layers import setters
from policyctl.config.problems import SettingProblem
from policyctl.config.reading import Reading, Source
from policyctl.errors import UsageError
from policyctl.settings import PREFIX, Settings

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Set:
    """One layer that sets something.

    Attributes:
        layer: ``environment``.
        place: ``POLICYCTL_REPOSITORY``, ``policyctl.yaml:7``.
        value: As it may be shown.
        name: What exactly, where it is one of a setting's own names; else empty.
    """

    layer: str
    place: str
    value: Any
    name: str = ""


@dataclass(frozen=True, slots=True)
class Explained:
    """One setting.

    Attributes:
        key: Which.
        value: Its value, as it may be shown.
        default: What it is by default, as it may be shown.
        layers: Who set it, highest first; the first one won.
    """

    key: Key
    value: Any
    default: Any
    layers: tuple[Set, ...]

    @property
    def place(self) -> str:
        """Who won; of a mapping everybody who has a share in it."""
        winners = [s.place for s in self.layers if s.name] or [s.place for s in self.layers[:1]]
        return ", ".join(dict.fromkeys(winners)) or DEFAULT

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "key": self.key.name,
            "value": self.value,
            "default": self.default,
            "from": self.place,
            "layers": [
                {"layer": s.layer, "place": s.place, "value": s.value} | ({"name": s.name} if s.name else {})
                for s in self.layers
            ],
            "description": self.key.info.description or "",
            "variable": self.key.variable(PREFIX),
            "applies": self.key.applies.value,
            "secret": self.key.secret,
        }


def explain(reading: Reading[Settings], name: str = "") -> tuple[Explained, ...]:
    """A setting, or every one of a group, and each layer that sets it.

    Also tells of settings that are wrong; then a value is what the highest layer says.

    Args:
        reading: The settings.
        name: ``server.http_port``, ``server``; empty for all.

    Raises:
        UsageError: There is no such setting; names the nearest.
    """
    values = None if reading.settings is None else masked(reading.settings)
    defaults = masked(Settings())
    return tuple(_explained(reading, key, values, defaults) for key in select(Settings, name))


def _explained(
    reading: Reading[Settings], key: Key, values: dict[Any, Any] | None, defaults: dict[Any, Any]
) -> Explained:
    found = tuple(
        Set(
            each.layer.kind.value,
            each.place,
            shown(Settings, each.path, each.value),
            ".".join(map(str, each.path[len(key.path) :])),
        )
        for each in setters(Settings, reading.layers, key.path)
    )
    told = found[0].value if found else defaults[key.path]
    return Explained(key, told if values is None else values[key.path], defaults[key.path], found)


@dataclass(frozen=True, slots=True)
class Checked:
    """Everything that is wrong.

    Attributes:
        files: Which settings files were read.
        profiles: By which profiles' rules.
        problems: In the order of files and lines.
        warnings: What is not wrong and not good either.
    """

    files: tuple[str, ...]
    profiles: tuple[str, ...]
    problems: tuple[SettingProblem, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "valid": not self.problems,
            "files": list(self.files),
            "profiles": list(self.profiles),
            "problems": [problem.to_json() for problem in self.problems],
            "warnings": list(self.warnings),
        }


def check(source: Source[Settings], files: Iterable[Path] = ()) -> Checked:
    """Hold settings against the tree and against the rules of their profiles.

    Args:
        source: What this command line and environment mean; looked at with
            every profile that has a file, if no `files` are named.
        files: Only these, without environment and command line; the file of a
            profile together with the base file beside it.
    """
    named = tuple(files)
    if named:
        return _together([alone(file).read() for file in named])
    readings = [source.read()]
    base = _base(source)
    for profile in profiles_beside(base, source.folder):
        readings.append(Source(Settings, {"profile": profile}, base, environ=False, folder=source.folder).read())
    return _together(readings)


def alone(file: Path) -> Source[Settings]:
    """What one file means, without environment and command line; a profile's file over the base file beside it."""
    stem, _, profile = file.stem.rpartition(".")
    bases = [path for suffix in SUFFIXES if stem and (path := file.with_name(f"{stem}{suffix}")).is_file()]
    if bases:
        return Source(Settings, {"profile": profile}, bases[0], environ=False)
    return Source(Settings, {}, file, environ=False)


def _base(source: Source[Settings]) -> Path | None:
    try:
        return source.base()
    except UsageError:
        return None  # what is wrong with it was told by reading it


def _together(readings: list[Reading[Settings]]) -> Checked:
    problems: dict[tuple[Any, ...], SettingProblem] = {}
    for reading in readings:
        for each in reading.problems:
            problems.setdefault((each.place, each.key, each.found, each.expected), each)
    files = dict.fromkeys(str(f.path) for r in readings for f in r.files)
    order = [*files, ""]
    return Checked(
        files=tuple(files),
        profiles=tuple(dict.fromkeys(r.profile for r in readings if r.profile)),
        problems=tuple(
            sorted(problems.values(), key=lambda p: (order.index(p.file) if p.file in order else -1, p.line, p.key))
        ),
        warnings=tuple(dict.fromkeys(w for r in readings for w in r.warnings)),
    )
