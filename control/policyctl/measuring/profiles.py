"""Which points a benchmark measures: named profiles, and the plan that follows.

A profile fixes what is measured and for how long, so that two results with the
same profile hold the same points. Points that are to be compared with each
other (protocols, shared memory) are neighbours in time: a machine drifts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from policyctl.domain.protocol import Protocol
from policyctl.errors import UsageError
from policyctl.measuring.measurement import LoadMode, Point, SharedMemory
from policyctl.measuring.perf_analyzer import WINDOWS

_SWEEP_CLIENTS: Final = 8
"""Batches other than the first are measured with one client and at most with this many."""

_START_S: Final = 8.0  # of perf_analyzer, on a busy machine too
_SLACK: Final = 4.0


class ProfileName(StrEnum):
    """How thorough."""

    QUICK = "quick"
    STANDARD = "standard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What to measure.

    Attributes:
        name: `ProfileName`, or ``custom`` once an option changed it.
        concurrency: Levels of the closed loop.
        rates: Levels of the open loop, requests a second; with these the
            closed loop is left out.
        rate_shares: Levels of the open loop as shares of what the closed loop
            reached at the first batch size; measured after it.
        batches: Observations in a request. The first is measured at every
            level, the others with one and with at most eight clients.
        interval_ms: Length of a window, of which there are three a point.
    """

    name: str
    protocols: tuple[Protocol, ...] = (Protocol.GRPC,)
    shared_memory: tuple[SharedMemory, ...] = (SharedMemory.NONE,)
    concurrency: tuple[int, ...] = (1, 8)
    rates: tuple[float, ...] = ()
    rate_shares: tuple[float, ...] = ()
    batches: tuple[int, ...] = (1,)
    interval_ms: int = 1000
    warmup_requests: int = 200
    time_limit_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("protocols", "shared_memory", "concurrency", "batches"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise UsageError(f"{name.replace('_', ' ')}: expected different ones, found {_listed(values)}")
        if any(level <= 0 for level in (*self.concurrency, *self.rates, *self.rate_shares, *self.batches)):
            raise UsageError("levels of load and batch sizes are positive numbers")


PROFILES: Final = {
    ProfileName.QUICK: Profile(name="quick", interval_ms=500, time_limit_s=60.0),
    ProfileName.STANDARD: Profile(
        name="standard",
        concurrency=(1, 2, 4, 8, 16, 32),
        batches=(1, 8, 64),
        rate_shares=(0.25, 0.5, 0.75),
        time_limit_s=300.0,
    ),
}


def plan(profile: Profile) -> tuple[Point, ...]:
    """The points whose levels are known beforehand, in the order in which they are measured."""
    if profile.rates:
        levels = [(batch, LoadMode.REQUEST_RATE, rate) for batch in profile.batches for rate in profile.rates]
    else:
        levels = [
            (batch, LoadMode.CONCURRENCY, float(clients))
            for index, batch in enumerate(profile.batches)
            for clients in (profile.concurrency if index == 0 else _few(profile.concurrency))
        ]
    return tuple(
        Point(protocol, shared, batch, mode, level)
        for batch, mode, level in levels
        for protocol in profile.protocols
        for shared in profile.shared_memory
    )


def plan_rates(profile: Profile, reached: dict[tuple[Protocol, SharedMemory], float]) -> tuple[Point, ...]:
    """Points of the open loop, as shares of what the closed loop reached.

    Args:
        reached: The closed loop's best requests a second at the first batch size.
    """
    if profile.rates:
        return ()
    return tuple(
        Point(protocol, shared, profile.batches[0], LoadMode.REQUEST_RATE, rate)
        for share in profile.rate_shares
        for (protocol, shared), best in reached.items()
        if (rate := _round(share * best)) > 0
    )


def point_limit_s(profile: Profile, *, answer_s: float) -> float:
    """How long one point may take before the server counts as stuck.

    Args:
        answer_s: How long one answer took beforehand.
    """
    measured = WINDOWS * profile.interval_ms / 1e3
    return _START_S + _SLACK * (measured + (profile.warmup_requests + WINDOWS) * answer_s)


def _few(concurrency: tuple[int, ...]) -> tuple[int, ...]:
    """One client and at most eight: more of them only queue behind a large batch."""
    swept = [clients for clients in concurrency if clients <= _SWEEP_CLIENTS] or [min(concurrency)]
    return tuple(sorted({min(swept), max(swept)}))


def _round(rate: float) -> float:
    """Two digits, so that a hundredth of a request makes no other level."""
    return float(f"{rate:.2g}")


def _listed(values: tuple[object, ...]) -> str:
    return ", ".join(map(str, values)) or "none"
