"""What a running supervisor has seen of its server: starts, probes, reloads, refusals.

One thread writes and any may read: what is handed out is a copy. Everything
counts from the start of `policyctl serve`, over every start of tritonserver.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, fields
from enum import StrEnum

from policyctl.domain.metrics import PROBE_BUCKETS_S, Histogram
from policyctl.domain.moves import Placement
from policyctl.domain.probes import AliasKey, ProbeOutcome


class Unwritten(StrEnum):
    """What the supervisor had to write down, and the disk did not take; it serves on without."""

    ANNOUNCEMENT = "announcement"
    """Where the server is, for commands on this machine."""
    CERTIFICATION = "certification"
    """That an alias answered its golden set, in the journal."""


@dataclass(frozen=True, slots=True)
class Followed:
    """What a node knows of its fleet.

    Attributes:
        is_read: Whether the last try to read the store succeeded.
        read_s: When one last did, in seconds since 1970; 0 for never.
        generations: Of each alias that the store names: its generation, and that again once this node has come to it,
            else 0.
    """

    is_read: bool
    read_s: float
    generations: Mapping[AliasKey, tuple[int, int]]


@dataclass(slots=True)
class Seen:
    """What was seen until now.

    Attributes:
        refused: Aliases that were not loaded, or taken out of service, with what they named.
        withdrawn: Those of `refused` that answered wrongly: they are not loaded again unasked.
        starts: Of tritonserver.
        pid: Of the tritonserver that is announced; 0 while none is, or it cannot be seen from here.
        up: Whether a server is announced.
        behind: Why a node of a fleet should get no requests, as a phrase; empty where it should, or follows no store.
        durations: Of answered probes, in seconds.
        last: What became of the last probe of each alias by the server that runs.
        unwritten: How often the disk did not take what had to be written down.
        followed: Of the fleet, on a node of one.
    """

    refused: dict[AliasKey, Placement] = field(default_factory=dict)
    withdrawn: dict[AliasKey, Placement] = field(default_factory=dict)
    starts: int = 0
    pid: int = 0
    up: bool = False
    behind: str = ""
    probes: Counter[tuple[AliasKey, ProbeOutcome]] = field(default_factory=Counter)
    durations: dict[AliasKey, Histogram] = field(default_factory=dict)
    last: dict[AliasKey, ProbeOutcome] = field(default_factory=dict)
    reloads: Counter[AliasKey] = field(default_factory=Counter)
    unwritten: Counter[Unwritten] = field(default_factory=Counter)
    followed: Followed | None = None


@dataclass(slots=True)
class Observed(Seen):
    """Where the supervisor and its prober write down what they see."""

    _lock: threading.Lock = field(default_factory=threading.Lock)

    def server_starts(self) -> None:
        """A tritonserver is being started; it knows nothing of what an earlier one refused."""
        with self._lock:
            self.starts += 1
            self.refused.clear()
            self.withdrawn.clear()
            self.last.clear()

    def server_is_up(self, pid: int) -> None:
        """It is announced; `pid` is 0 where its process cannot be seen from here."""
        with self._lock:
            self.pid, self.up = pid, True

    def server_is_gone(self) -> None:
        """It is not announced any more."""
        with self._lock:
            self.pid, self.up = 0, False

    def probed(self, key: AliasKey, outcome: ProbeOutcome, duration_s: float) -> None:
        """One golden observation was asked."""
        with self._lock:
            self.probes[key, outcome] += 1
            self.last[key] = outcome
            if outcome is not ProbeOutcome.FAILED:
                before = self.durations.get(key) or Histogram.empty(PROBE_BUCKETS_S)
                self.durations[key] = before.observe(duration_s)

    def reloaded(self, key: AliasKey) -> None:
        """An alias was loaded again."""
        with self._lock:
            self.reloads[key] += 1

    def not_written(self, what: Unwritten) -> None:
        """The disk did not take something."""
        with self._lock:
            self.unwritten[what] += 1

    def follows(self, followed: Followed) -> None:
        """The node has looked at its store."""
        with self._lock:
            self.followed = followed

    def seen(self) -> Seen:
        """A copy that does not change."""
        with self._lock:
            return Seen(*(copy(getattr(self, each.name)) for each in fields(Seen)))
