"""What is configured: every setting with where it comes from, and everything that is wrong with any file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyctl.config.files import SUFFIXES, profiles_beside
from policyctl.config.keys import Key, masked, select
from policyctl.config.layers import LayerKind, SetBy, setters
from policyctl.config.reading import Reading, Source
from policyctl.documents.document import Problem
from policyctl.domain.json_values import fields_to_json, to_json
from policyctl.errors import UsageError
from policyctl.settings import PREFIX, Settings

DEFAULT = LayerKind.DEFAULT.value


@dataclass(frozen=True, slots=True)
class Explained:
    """One setting.

    Attributes:
        layers: Who set it, highest first; the first one won.
    """

    key: Key
    value: Any
    default: Any
    layers: tuple[SetBy, ...]

    @property
    def place(self) -> str:
        """Who won; of a mapping everybody who has a share in it."""
        winners = [s.place for s in self.layers if s.name] or [s.place for s in self.layers[:1]]
        return ", ".join(dict.fromkeys(winners)) or DEFAULT

    @property
    def variable(self) -> str:
        """The variable that sets it."""
        return self.key.variable(PREFIX)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "key": self.key.name,
            "value": self.value,
            "default": self.default,
            "from": self.place,
            "layers": to_json(self.layers),
            "description": self.key.info.description or "",
            "variable": self.variable,
            "applies": self.key.applies.value,
            "secret": self.key.secret,
        }


def explain(reading: Reading[Settings], name: str = "") -> tuple[Explained, ...]:
    """A setting, or every one of a group, and each layer that sets it.

    Where settings are wrong, a value is what the highest layer says.

    Args:
        reading: The settings.
        name: ``server.http_port``, ``server``; empty for all.

    Raises:
        UsageError: The setting is unknown; names the nearest.
    """
    values = None if reading.settings is None else masked(reading.settings)
    defaults = masked(Settings())

    def explained(key: Key) -> Explained:
        layers = setters(Settings, reading.layers, key.path)
        stated = layers[0].value if layers else defaults[key.path]
        return Explained(key, stated if values is None else values[key.path], defaults[key.path], layers)

    return tuple(explained(key) for key in select(Settings, name))


@dataclass(frozen=True, slots=True)
class Checked:
    """Everything that is wrong.

    Attributes:
        profiles: By which profiles' rules.
        problems: In the order of files and lines.
    """

    files: tuple[str, ...]
    profiles: tuple[str, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        problems = [
            {
                "file": p.file or None,
                "line": p.line or None,
                "source": p.source or None,
                "key": p.path,
                "found": p.found,
                "expected": p.expected,
            }
            for p in self.problems
        ]
        return {"valid": not self.problems, **fields_to_json(self), "problems": problems}


def check(source: Source[Settings], files: Iterable[Path] = ()) -> Checked:
    """Hold settings against the tree and against the rules of their profiles.

    Args:
        source: What this command line and environment mean; looked at with
            every profile that has a file, if no `files` are named.
        files: Only these, without environment and command line; the file of a
            profile together with the base file next to it.
    """
    if named := tuple(files):
        return _together([alone(file).read() for file in named])
    readings = [source.read()]
    try:
        base = source.base()
    except UsageError:
        base = None  # the first reading says what is wrong with it
    for profile in profiles_beside(base, source.folder):
        readings.append(Source(Settings, {"profile": profile}, base, environ=False, folder=source.folder).read())
    return _together(readings)


def alone(file: Path) -> Source[Settings]:
    """What one file means, without environment and command line; a profile's file over the base file next to it."""
    stem, _, profile = file.stem.rpartition(".")
    bases = [path for suffix in SUFFIXES if stem and (path := file.with_name(f"{stem}{suffix}")).is_file()]
    if bases:
        return Source(Settings, {"profile": profile}, bases[0], environ=False)
    return Source(Settings, {}, file, environ=False)


def _together(readings: list[Reading[Settings]]) -> Checked:
    # What is wrong with the base file stands in the reading of every profile.
    problems = {(p.place, p.path, p.found, p.expected): p for r in readings for p in r.problems}
    files = list(dict.fromkeys(str(path) for r in readings for path in r.files))
    order = {file: number for number, file in enumerate([*files, ""])}
    return Checked(
        files=tuple(files),
        profiles=tuple(dict.fromkeys(r.profile for r in readings if r.profile)),
        problems=tuple(sorted(problems.values(), key=lambda p: (order.get(p.file, -1), p.line, p.path))),
        warnings=tuple(dict.fromkeys(w for r in readings for w in r.warnings)),
    )
