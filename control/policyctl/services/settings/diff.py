"""Where two configurations differ; one of them may be what runs, as the server itself says.

What runs can differ from the files in three ways: what `policyctl serve` was
started with, what it has not taken over, and what Triton was given when an
alias was moved. So the server's own record and Triton's model configuration API
say what runs, not the files that were meant for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from policyctl.adapters.pbtxt import config_differences, contract_of, options_of, within
from policyctl.config.files import SUFFIXES
from policyctl.config.keys import masked
from policyctl.config.reading import Source
from policyctl.domain.json_values import OMIT
from policyctl.domain.names import served_name
from policyctl.errors import ServerError
from policyctl.services import running
from policyctl.services.control import Control
from policyctl.services.moves.serving_options import serving_options
from policyctl.services.settings.explained import DEFAULT, alone
from policyctl.services.supervise.reload import places
from policyctl.settings import Settings

RUNNING: Final = "running"
CURRENT: Final = "current"
DEFAULTS: Final = "defaults"


@dataclass(frozen=True, slots=True)
class Side:
    """One of two configurations.

    Attributes:
        values: Every setting, as it may be shown.
        places: Where each was set that is not as by default.
        settings: The tree; None of what runs.
        refused: Why a server would not start with it, a sentence each.
    """

    values: Mapping[str, Any]
    places: Mapping[str, str]
    settings: Settings | None
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs.

    Attributes:
        what: A setting; or what Triton uses: ``walker: dynamic_batching...``.
    """

    what: str
    first: Any
    second: Any
    first_place: str
    second_place: str


@dataclass(frozen=True, slots=True)
class Diff:
    """Everything that differs.

    Attributes:
        served: What Triton uses and the settings, or the journal, say otherwise; empty unless one side runs.
        effective: The configuration that Triton serves each alias by, whole.
        refused: Why a server would not start with one side or the other, a sentence each.
    """

    settings: tuple[Difference, ...]
    served: tuple[Difference, ...] = ()
    effective: Mapping[str, str] | None = None
    refused: tuple[str, ...] = field(default=(), metadata=OMIT)


def diff(control: Control, source: Source[Settings], first: str, second: str) -> Diff:
    """Where two configurations differ.

    Args:
        source: What this command line and environment mean.
        first: ``running``, ``current``, ``defaults``, a profile, or a file.

    Raises:
        UsageError: A configuration is wrong, or the profile is unknown.
        ServerError: What runs is asked for, and nothing runs.
    """
    one, other = side(control, source, first), side(control, source, second)
    settings = tuple(
        Difference(
            name, one.values[name], other.values[name], one.places.get(name, DEFAULT), other.places.get(name, DEFAULT)
        )
        for name in dict.fromkeys([*one.values, *other.values])
        if one.values.get(name) != other.values.get(name)
    )
    refused = (*one.refused, *other.refused)
    if RUNNING not in {first, second}:
        return Diff(settings, refused=refused)
    effective: dict[str, str] = {}
    served = tuple(_served(control, one.settings or other.settings or control.settings, effective))
    if one.settings is None:
        served = tuple(Difference(d.what, d.second, d.first, d.second_place, d.first_place) for d in served)
    return Diff(settings, served, effective, refused)


def side(control: Control, source: Source[Settings], name: str) -> Side:
    """One configuration by its name; see `diff`."""
    if name == RUNNING:
        in_force = running.read(control.repository)
        if in_force is None:
            raise ServerError(
                f"nothing runs on {control.repository.root} that says what it is set to",
                remedy="Start it with: policyctl serve. Or compare with: policyctl config diff current ...",
            )
        return Side(in_force.settings, in_force.places, None)
    if name == DEFAULTS:
        return Side(_values(Settings()), {}, Settings())
    if name == CURRENT:
        return _side(name, source)
    if Path(name).suffix in SUFFIXES or Path(name).is_file():
        return _side(name, alone(Path(name)))
    named = _side(name, Source(Settings, {"profile": name}, source.base(), environ=False, folder=source.folder))
    return replace(named, places={**named.places, "profile": "asked for"})


def _side(name: str, source: Source[Settings]) -> Side:
    reading = source.read()
    settings = reading.require() if reading.built is None else reading.built
    refused = tuple(f"{name} as it stands is refused: {problem.words}" for problem in reading.problems)
    return Side(_values(settings), places(reading), settings, refused)


def _values(settings: Settings) -> dict[str, Any]:
    return {".".join(path): value for path, value in masked(settings).items()}


def _served(control: Control, settings: Settings, effective: dict[str, str]) -> Iterator[Difference]:
    """What Triton uses where the settings and the journal say otherwise; `effective` takes its configurations."""
    state = control.repository.journal.state()
    with control.triton() as client:
        for name in ("http", "grpc", "metrics", "control_metrics"):
            wanted = getattr(settings.server, f"{name}_port")
            used, stated = getattr(client.endpoint, name), f"{settings.server.host}:{wanted}"
            if wanted and used and used != stated:
                yield Difference(f"listens: {name}", stated, used, f"server.{name}_port", "server.json")
        for key, alias in sorted(state.aliases.items()):
            served, config = served_name(*key), alias.placement.config
            try:
                effective[served] = client.config(served)
            except ServerError as error:
                yield Difference(f"{served}: served", True, False, "journal", error.problem)
                continue
            for name, stated, used in config_differences(config, effective[served]):
                yield Difference(f"{served}: {name}", stated, used, "journal (config.pbtxt)", "Triton")
            next_options = within(serving_options(settings.serving, state.tuned.get(key[0], {})), contract_of(config))
            # The journal's, not Triton's: that fills in preferred batch sizes, for one, where none are asked for.
            last_options = asdict(options_of(config))
            for name, value in asdict(next_options).items():
                if value != last_options[name]:
                    where = f"{served}: serving.{name}"
                    yield Difference(where, value, last_options[name], "next promotion", "last promotion")
