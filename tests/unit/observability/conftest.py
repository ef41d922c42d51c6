"""The world of the move tests, seen by a supervisor."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))

from world import World, copied

from policyctl.domain.metrics import Sample
from policyctl.services.integrity.known_journal import KnownJournal
from policyctl.services.observed import Observed
from policyctl.services.supervise.metrics import Metrics
from policyctl.services.supervise.prober import Prober


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
        """The value of one series now; None where it is missing."""
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
    """A repository with nothing in it, and a server next to it."""
    return World(tmp_path, monkeypatch)


@pytest.fixture
def watched(two_releases, tmp_path, monkeypatch) -> Watched:
    """Releases 1.0.0 and 1.1.0 of walker; 1.0.0 in production."""
    return Watched(copied(two_releases, tmp_path, monkeypatch))
