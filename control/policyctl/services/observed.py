"""What a running supervisor has seen of its server: starts, probes, reloads, refusals.

One thread writes and any may read: what is handed out is a copy. Everything
counts from the start of `policyctl serve`, over every start of tritonserver.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
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
class Seen:
    """A copy of what was seen until now.

    Attributes:
        starts: Of tritonserver.
        pid: Of the tritonserver that is announced; 0 while none is, or it cannot be seen from here.
        refused: Aliases that are not served, with what they named when they were refused.
        probes: By alias and outcome.
        durations: Of answered probes, by alias, in seconds.
        reloads: By alias.
        unwritten: How often the disk did not take what had to be written down.
        up: Whether a server is announced.
    """

    starts: int
    pid: int
    refused: Mapping[AliasKey, Placement]
    probes: Mapping[tuple[AliasKey, ProbeOutcome], int]
    durations: Mapping[AliasKey, Histogram]
    reloads: Mapping[AliasKey, int]
    unwritten: Mapping[Unwritten, int]
    up: bool = False


@dataclass(slots=True)
class Observed:
    """Where the supervisor and its prober write down what they see.

    Attributes:
        refused: Aliases that were not loaded, or taken out of service, with what they named.
        withdrawn: Those of `refused` that answered wrongly: they are not loaded again unasked.
    """

    refused: dict[AliasKey, Placement] = field(default_factory=dict)
    withdrawn: dict[AliasKey, Placement] = field(default_factory=dict)
    _starts: int = 0
    _pid: int = 0
    _up: bool = False
    _probes: Counter[tuple[AliasKey, ProbeOutcome]] = field(default_factory=Counter)
    _durations: dict[AliasKey, Histogram] = field(default_factory=dict)
    _reloads: Counter[AliasKey] = field(default_factory=Counter)
    _unwritten: Counter[Unwritten] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def server_starts(self) -> None:
        """A tritonserver is being started; it knows nothing of what an earlier one refused."""
        with self._lock:
            self._starts += 1
            self.refused.clear()
            self.withdrawn.clear()

    def server_is_up(self, pid: int) -> None:
        """It is announced; `pid` is 0 where its process cannot be seen from here."""
        with self._lock:
            self._pid, self._up = pid, True

    def server_is_gone(self) -> None:
        """It is not announced any more."""
        with self._lock:
            self._pid, self._up = 0, False

    def probed(self, key: AliasKey, outcome: ProbeOutcome, duration_s: float) -> None:
        """One golden observation was asked."""
        with self._lock:
            self._probes[key, outcome] += 1
            if outcome is not ProbeOutcome.FAILED:
                before = self._durations.get(key) or Histogram.empty(PROBE_BUCKETS_S)
                self._durations[key] = before.observe(duration_s)

    def reloaded(self, key: AliasKey) -> None:
        """An alias was loaded again."""
        with self._lock:
            self._reloads[key] += 1

    def not_written(self, what: Unwritten) -> None:
        """The disk did not take something."""
        with self._lock:
            self._unwritten[what] += 1

    def seen(self) -> Seen:
        """A copy that does not change."""
        with self._lock:
            return Seen(
                self._starts,
                self._pid,
                dict(self.refused),
                dict(self._probes),
                dict(self._durations),
                dict(self._reloads),
                dict(self._unwritten),
                self._up,
            )
