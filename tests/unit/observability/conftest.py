"""The world of the move tests, seen by a supervisor."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))

from world import World

from policyctl.domain.metrics import Sample
from policyctl.services.known_journal import KnownJournal
from policyctl.services.metrics import Metrics
from policyctl.services.observed import Observed
from policyctl.services.prober import Prober
from policyctl.services.promote import promote


@dataclass
class Watched:
    """A world with what its supervisor knows."""

    world: World
    observed: Observed = field(default_factory=Observed)
    now: float = 0.0

    def __post_init__(self) -> None:
        control = self.world.control
        self.known = KnownJournal(control)
        self.metrics = Metrics(control, self.known, self.observed)
        self.prober = Prober(control, self.world.server, self.observed, self.known, clock=lambda: self.now)

    def value(self, name: str, *labels: str):
        """The value of one series now; None where there is none."""
        return {s.labels: s.value for s in self.samples(name)}.get(labels)

    def samples(self, name: str) -> tuple[Sample, ...]:
        """Every series of a family now."""
        (found,) = [m.samples for m in self.metrics.collect() if m.family.name == name]
        return found

    def probes(self) -> dict[str, float]:
        """Of production, by outcome."""
        return {s.labels[2]: s.value for s in self.samples("policyctl_probe_requests_total")}


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """A repository with nothing in it, and a server beside it."""
    return World(tmp_path, monkeypatch)


@pytest.fixture
def watched(world) -> Watched:
    """Releases 1.0.0 and 1.1.0 of walker; 1.0.0 in production."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    promote(world.control, model="walker", release="1.0.0", alias="production")
    return Watched(world)


@dataclass(frozen=True)
class Ran:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its stdout as one JSON document."""
        return json.loads(self.out)


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., Ran]:
    """Run `policyctl` with arguments, up to its exit code."""
    from policyctl.cli.main import main

    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["policyctl", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        seen = capsys.readouterr()
        return Ran(stop.value.code or 0, seen.out, seen.err)

    return call


@pytest.fixture(autouse=True)
def _clean(monkeypatch) -> None:
    for name in list(os.environ):
        if name.startswith("POLICYCTL_"):
            monkeypatch.delenv(name)
