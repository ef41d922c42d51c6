"""What a bake watches, and for how long: plain values that the journal can keep.

After an alias was switched, its release is watched under real traffic for a
set time. What is seen of it is held against what was seen of the incumbent
before the switch, so both are kept the same way: counters are read now and
then, and two readings make a window. A window in which a counter went back
(the server was started again, or the model loaded again) proves nothing and is
left out.

`gates.bake` judges, `services.bake.run` watches and acts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from policyctl.domain.json_values import fields_to_json
from policyctl.domain.verdict import Verdict

NAME: Final = "bake"
WINDOW_S: Final = 0.5
WINDOW_REQUESTS: Final = 10
"""Answered in a window; of fewer the mean latency says too little."""


class Then(StrEnum):
    """What becomes of the alias."""

    KEEP = "keep"
    """It stays where the promotion brought it."""
    ROLLBACK = "rollback"
    """It goes back to the incumbent."""


@dataclass(frozen=True, slots=True)
class BakePlan:
    """What was declared before the switch.

    Attributes:
        for_s: How long it is watched.
        on_inconclusive: What becomes of the alias where there is too little to judge by.
        error_ratio: Share of requests that may fail; as many as the incumbent's, if those were more.
        latency_ratio: So many times the incumbent's latency is too much,
        latency_floor_us: unless it is less than so much longer.
        wrong_probes: Golden probes that may be answered otherwise than published.
    """

    for_s: float
    on_inconclusive: Then
    error_ratio: float
    latency_ratio: float
    latency_floor_us: float
    wrong_probes: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Triton's counters of one slot at one time, since it was loaded.

    Attributes:
        at_s: When, in seconds of any one clock.
        succeeded: Requests that were answered, as Triton counts.
        failed: Requests that were not.
        duration_us: How long the answered ones took, added up.
        refused: Of those that Triton takes for answered, those that were answered with an error.
    """

    at_s: float
    succeeded: int
    failed: int
    duration_us: float
    refused: int = 0


class Window(NamedTuple):
    """What happened between two readings.

    Attributes:
        span_s: How long it was.
        succeeded: Requests that were answered.
        failed: Requests that were not.
        mean_us: Of the answered ones, from arrival to answer within the server.
    """

    span_s: float
    succeeded: int
    failed: int
    mean_us: float

    @property
    def rate_per_s(self) -> float:
        """Requests a second."""
        return (self.succeeded + self.failed) / self.span_s


def windows(readings: Iterable[Reading], *, span_s: float = WINDOW_S) -> tuple[Window, ...]:
    """Cut readings into windows, each at least `span_s` long and with at least `WINDOW_REQUESTS` answers.

    The last one may hold fewer: what failed in it counts, and its latency does
    not (`Figures.latencies`).

    Args:
        readings: Of one slot of one server, in order of time.
        span_s: The least length of a window.
    """
    found: list[Window] = []
    start: Reading | None = None
    last: Reading | None = None
    for reading in readings:
        if start is None or last is None or _went_back(last, reading):
            if start is not None and last is not None:
                found += _between(start, last)
            start = last = reading
            continue
        last = reading
        if reading.at_s - start.at_s >= span_s and reading.succeeded - start.succeeded >= WINDOW_REQUESTS:
            found += _between(start, reading)
            start = reading
    if start is not None and last is not None:
        found += _between(start, last)
    return tuple(found)


def _went_back(before: Reading, after: Reading) -> bool:
    counts = ("succeeded", "failed", "duration_us", "refused")
    return any(getattr(after, name) < getattr(before, name) for name in counts)


def _between(start: Reading, end: Reading) -> list[Window]:
    counted, refused = end.succeeded - start.succeeded, end.refused - start.refused
    # The two are not counted at the very same moment.
    succeeded, failed = max(0, counted - refused), end.failed - start.failed + refused
    if not succeeded + failed or end.at_s <= start.at_s:
        return []
    mean_us = (end.duration_us - start.duration_us) / counted if counted else 0.0
    return [Window(round(end.at_s - start.at_s, 3), succeeded, failed, round(mean_us, 3))]


class TailQuantiles(NamedTuple):
    """The slowest answers within a span of about a minute, as Triton's quantiles say.

    Attributes:
        span_s: How long the span is.
        answered: Requests that were answered in it.
        p95_us: Of 100 answers, 95 took no longer.
        p99_us: Of 100 answers, 99 took no longer.
    """

    span_s: float
    answered: int
    p95_us: float
    p99_us: float

    @property
    def rate_per_s(self) -> float:
        """Requests a second."""
        return self.answered / self.span_s if self.span_s else 0.0


@dataclass(frozen=True, slots=True)
class Probes:
    """What became of golden questions.

    Attributes:
        answered: Rightly, within the golden set's tolerance.
        wrong: Otherwise than published.
        failed: Not at all, while the server answered that it is live.
    """

    answered: int = 0
    wrong: int = 0
    failed: int = 0

    @property
    def asked(self) -> int:
        """All of them."""
        return self.answered + self.wrong + self.failed

    def plus(self, other: Probes) -> Probes:
        """Both together."""
        return Probes(self.answered + other.answered, self.wrong + other.wrong, self.failed + other.failed)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was seen of one release.

    Attributes:
        source: Where the windows come from, in words.
        windows: In order of time.
        probes: Golden questions.
        control: Requests in the windows that were the control plane's own, about.
        crashes: How often the server died and was started again by its supervisor.
        tails: In order of time; None where Triton keeps no quantiles.
    """

    source: str
    windows: tuple[Window, ...] = ()
    probes: Probes = field(default_factory=Probes)
    control: int = 0
    crashes: int = 0
    tails: tuple[TailQuantiles, ...] | None = None

    @property
    def failed(self) -> int:
        """Requests that failed."""
        return sum(w.failed for w in self.windows)

    @property
    def requests(self) -> int:
        """Requests of clients, those of the control plane not counted."""
        return max(self.failed, sum(w.succeeded + w.failed for w in self.windows) - self.control)

    @property
    def latencies(self) -> tuple[Window, ...]:
        """Windows with enough answers to speak of latency."""
        return tuple(w for w in self.windows if w.succeeded >= WINDOW_REQUESTS)

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with the sums."""
        return {"source": self.source, "requests": self.requests, "failed": self.failed, **fields_to_json(self)}


@dataclass(frozen=True, slots=True)
class Baking:
    """What a promotion owes: it is part of the move's intent, so every process that finishes the move knows of it.

    Attributes:
        plan: What was declared.
        incumbent: What was seen of the incumbent before the switch; None where it could not be watched.
    """

    plan: BakePlan
    incumbent: Figures | None = None


@dataclass(frozen=True, slots=True)
class Baked:
    """How a bake ended.

    Attributes:
        verdict: None where somebody moved the alias before there was one.
        then: What became of the alias by this bake; None where somebody else moved it.
        reason: One sentence.
        source: Where the figures came from.
        seconds: How long it was watched.
        evidence: The figures, within the repository's control folder; empty without figures.
        evidence_digest: Of that file.
        checks: What each check said.
    """

    verdict: Verdict | None
    then: Then | None
    reason: str
    source: str = ""
    seconds: float = 0.0
    evidence: str = ""
    evidence_digest: str = ""
    checks: tuple[dict[str, Any], ...] = ()

    @property
    def words(self) -> str:
        """How it ended, in a sentence."""
        if self.then is None:
            return f"The bake ended without a say: {self.reason}."
        by = f" by {self.source}" * bool(self.source)
        return f"Bake: {self.verdict} after {self.seconds:.0f} s{by}: {self.reason}."
