"""Where two configurations differ; one of them may be what runs, asked of the server itself.

Three things can be another than the files say: what `policyctl serve` was
started with, what it has not taken over, and what Triton was given when an
alias was moved. So what runs is told by the server's own files and by Triton's
model configuration API, not by the files that were meant for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from policyctl.adapters.pbtxt import config_differences, options_of
from policyctl.config.files import SUFFIXES
from policyctl.config.keys import masked
from policyctl.config.reading import Source
from policyctl.domain.names import served_name
from policyctl.errors import ServerError
from policyctl.services import configuration, running
from policyctl.services.control import Control
from policyctl.services.reload import places
from policyctl.services.tuned import serving_options
from policyctl.settings import Settings

RUNNING: Final = "running"
CURRENT: Final = "current"
DEFAULTS: Final = "defaults"


@dataclass(frozen=True, slots=True)
class Side:
    """One of two configurations.

    Attributes:
        name: What was asked for.
        values: Every setting, as it may be shown.
        places: Where each was set that is not as by default.
        settings: The tree; None of what runs.
    """

    name: str
    values: Mapping[str, Any]
    places: Mapping[str, str]
    settings: Settings | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs.

    Attributes:
        what: A setting; or what Triton uses: ``walker: dynamic_batching...``.
        first: In the first configuration.
        second: In the second.
        first_place: Where that was set.
        second_place: Where the other was.
    """

    what: str
    first: Any
    second: Any
    first_place: str
    second_place: str

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Diff:
    """Everything that differs.

    Attributes:
        settings: Settings.
        served: What Triton uses and the settings, or the journal, say otherwise; empty unless one side runs.
        effective: The configuration that Triton serves each alias by, whole.
    """

    settings: tuple[Difference, ...]
    served: tuple[Difference, ...] = ()
    effective: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "settings": [d.to_json() for d in self.settings],
            "served": [d.to_json() for d in self.served],
            "effective": self.effective,
        }


def diff(control: Control, source: Source[Settings], first: str, second: str) -> Diff:
    """Where two configurations differ.

    Args:
        control: The control plane; whose server runs.
        source: What this command line and environment mean.
        first: ``running``, ``current``, ``defaults``, a profile, or a file.
        second: The other.

    Raises:
        UsageError: A configuration is wrong, or there is no such profile.
        ServerError: What runs is asked for, and nothing runs.
    """
    one, other = side(control, source, first), side(control, source, second)
    found = tuple(
        Difference(name, one.values[name], other.values[name], _place(one, name), _place(other, name))
        for name in dict.fromkeys([*one.values, *other.values])
        if one.values.get(name) != other.values.get(name)
    )
    if RUNNING not in {first, second}:
        return Diff(found)
    settings = one.settings or other.settings or control.settings
    swapped = one.settings is None
    served, effective = _served(control, settings)
    if swapped:
        served = tuple(Difference(d.what, d.second, d.first, d.second_place, d.first_place) for d in served)
    return Diff(found, served, effective)


def side(control: Control, source: Source[Settings], name: str) -> Side:
    """One configuration by its name; see `diff`."""
    if name == RUNNING:
        told = running.read(control.repository)
        if told is None:
            raise ServerError(
                f"nothing runs on {control.repository.root} that says what it is set to",
                remedy="Start it with: policyctl serve. Or compare with: policyctl config diff current ...",
            )
        return Side(name, told.settings, told.places, None)
    if name == DEFAULTS:
        return Side(name, _values(Settings()), {}, Settings())
    if name == CURRENT:
        return _side(name, source)
    if Path(name).suffix in SUFFIXES or Path(name).is_file():
        return _side(name, configuration.alone(Path(name)))
    found = _side(name, Source(Settings, {"profile": name}, source.base(), environ=False, folder=source.folder))
    return replace(found, places={**found.places, "profile": "asked for"})


def _side(name: str, source: Source[Settings]) -> Side:
    reading = source.read()
    settings = reading.require()
    return Side(name, _values(settings), places(reading), settings)


def _values(settings: Settings) -> dict[str, Any]:
    return {".".join(path): value for path, value in masked(settings).items()}


def _place(side: Side, name: str) -> str:
    return side.places.get(name, configuration.DEFAULT)


def _served(control: Control, settings: Settings) -> tuple[tuple[Difference, ...], dict[str, str]]:
    """What Triton uses beside what the settings and the journal say; and its configurations, whole."""
    found: list[Difference] = []
    effective: dict[str, str] = {}
    state = control.repository.journal.state()
    with control.triton() as client:
        for name in ("http", "grpc", "metrics", "control_metrics"):
            wanted = getattr(settings.server, f"{name}_port")
            address = getattr(client.endpoint, name)
            told = f"{settings.server.host}:{wanted}"
            if wanted and address and address != told:
                found.append(Difference(f"listens: {name}", told, address, f"server.{name}_port", "server.json"))
        for key, alias in sorted(state.aliases.items()):
            served = served_name(*key)
            try:
                effective[served] = client.config(served)
            except ServerError as error:
                found.append(Difference(f"{served}: served", True, False, "journal", error.problem))
                continue
            found += [
                Difference(f"{served}: {field}", said, used, "journal (config.pbtxt)", "Triton")
                for field, said, used in config_differences(alias.placement.config, effective[served])
            ]
            wanted_options = asdict(serving_options(settings.serving, state.tuned.get(key[0], {})))
            # Not Triton's: it fills in preferred batch sizes, for one, where none are asked for.
            used_options = asdict(options_of(alias.placement.config))
            found += [
                Difference(f"{served}: serving.{name}", value, used_options[name], "next promotion", "last promotion")
                for name, value in wanted_options.items()
                if value != used_options[name]
            ]
    return tuple(found), effective
