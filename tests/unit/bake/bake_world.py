"""A repository whose server is asked by clients: each release behaves in its own way.

For a bake time passes only while it waits, so a minute of it is over at once;
and what happens meanwhile is done while it waits, when nobody holds a lock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from world import World

from policyctl.adapters.triton import Answer
from policyctl.adapters.triton_calls import Counters
from policyctl.domain.bake import Then
from policyctl.domain.fold import fold
from policyctl.domain.state import State
from policyctl.errors import ServerError
from policyctl.services.bake import run as bake
from policyctl.services.bake import watch as bake_watch
from policyctl.services.control import Control
from policyctl.services.rollout.promote import promote
from policyctl.settings import load

FOR_S = 60.0
REQUESTS_PER_S = 100
PROBES_PER_S = 1
"""Of the supervisor, by its default settings."""


class BakeWorld(World):
    """A world with traffic.

    Attributes:
        failing: By release, the share of its requests that fail.
        latency_us: By release, how long its answers take.
        requests_per_s: How often clients ask.
        probes_count: Whether golden questions are counted as well, as Triton counts them.
        now: Seconds.
        meanwhile: Done while a bake waits, by how often it has waited after the switch.
    """

    def __init__(self, folder: Path, monkeypatch) -> None:
        super().__init__(folder, monkeypatch)
        self._folded: tuple[int, State] | None = None
        self.now, self.waits = 0.0, 0
        self.meanwhile: dict[int, Callable[[], object]] = {}
        monkeypatch.setattr(bake, "LOOKS", 30)
        monkeypatch.setattr(bake_watch.Clock, "monotonic", lambda _: self.now)
        monkeypatch.setattr(bake_watch.Clock, "wait", self._wait)
        self.failing: dict[str, float] = {}
        self.latency_us: dict[str, float] = {}
        self.requests_per_s = REQUESTS_PER_S
        self.probes_count = True
        self._probed: Counter[str] = Counter()
        self._infer, self.server.infer = self.server.infer, self._count
        self.server.counters = self._counters
        self._since: dict[tuple[str, int], float] = {}
        for number, release in enumerate(("1.0.0", "1.1.0", "1.2.0")):
            self.publish(release, number + 1)
        promote(self.control, model="walker", release="1.0.0", alias="production")

    @property
    def state(self) -> State:
        """What the journal says; folded again only where it has grown."""
        records = self.control.repository.journal.records()
        if self._folded is None or self._folded[0] != len(records):
            self._folded = (len(records), fold(records))
        return self._folded[1]

    def baking(self, *, for_s: float = FOR_S, then: Then = Then.ROLLBACK, **more: Any) -> Control:
        """The control plane whose promotions are watched."""
        chosen = {"for_s": for_s, "before_s": 10.0, "on_inconclusive": then, **more}
        return Control.of(load(repository=self.root, bake=chosen), self.said.append)

    def _wait(self, _stop: object, seconds: float) -> None:
        self.now += seconds
        if self.state.bakes:
            self.waits += 1
            if act := self.meanwhile.pop(self.waits, None):
                act()

    def _probes(self, served: str, since: float) -> int:
        return int((self.now - since) * PROBES_PER_S) + self._probed[served] if self.probes_count else 0

    def _count(self, name: str, *arguments: Any, **more: Any) -> Answer:
        self._probed[name] += 1
        return self._infer(name, *arguments, **more)

    def _counters(self, name: str = "") -> tuple[Counters, ...]:
        found = []
        for served, slot in self.server.serving().items():
            if name in {"", served}:
                self._since = {k: v for k, v in self._since.items() if k[0] != served or k[1] == slot}
                began = self._since.setdefault((served, slot), self.now)
                release = self.state.slots(served.partition(".")[0])[str(slot)]
                asked = int((self.now - began) * self.requests_per_s) + self._probes(served, began)
                failed = int(asked * self.failing.get(release, 0.0))
                took_us = (asked - failed) * self.latency_us.get(release, 600.0)
                found.append(Counters(served, slot, asked - failed, failed, took_us, 0.0, took_us, asked))
        if name and not found:
            raise ServerError(f"{name} is not served")
        return tuple(found)

    def verdicts(self) -> list[tuple[str, str, str]]:
        """Release, verdict and consequence of every bake in the journal."""
        records = self.control.repository.journal.records()
        return [
            (r.body["release"], r.body["verdict"], r.body["then"])
            for r in records
            if r.kind == "gate" and r.body["gate"] == "bake"
        ]
