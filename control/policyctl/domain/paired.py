"""Short measurements of two served models side by side, as plain values.

A `Burst` is one short run of perf_analyzer. A `Round` is four of them, in the
order incumbent, candidate, candidate, incumbent or the other way round (ABBA
or BAAB, by a coin): a drift that is steady over the second or two of a round
cancels, and by the coin the log-ratio of two equal models is as often above 0
as below it, by as much, which is what the exact interval rests on.

All ratios are slow-downs: above 1 is worse, for latencies and for throughput.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum


class Metric(StrEnum):
    """What is compared."""

    P50 = "p50"
    P99 = "p99"
    THROUGHPUT = "throughput"

    def limit(self, margin: float) -> float:
        """The log slow-down that `margin` allows: longer by it, or that much less throughput."""
        return -math.log1p(-margin) if self is Metric.THROUGHPUT else math.log1p(margin)

    def change(self, log_slow_down: float) -> float:
        """A log slow-down as people say it: 0.1 is 10 % longer, or 10 % less throughput."""
        return -math.expm1(-log_slow_down) if self is Metric.THROUGHPUT else math.expm1(log_slow_down)


class Order(StrEnum):
    """Which model is asked when; A is the incumbent."""

    ABBA = "ABBA"
    BAAB = "BAAB"


@dataclass(frozen=True, slots=True)
class Burst:
    """One short run of perf_analyzer.

    Attributes:
        p50_us: Latency by the client's clock; all microseconds.
        p95_us: See `p50_us`.
        p99_us: See `p50_us`.
        throughput_per_s: Observations answered a second.
        request_count: Requests that ended.
        failed_requests: Requests that never got an answer.
        delayed_percent: Requests that began late, at a request rate.
        duration_s: Length of the windows together.
        window_p50_us: One a window.
        window_p99_us: One a window.
    """

    p50_us: float
    p95_us: float
    p99_us: float
    throughput_per_s: float
    request_count: int
    failed_requests: int = 0
    delayed_percent: float = 0.0
    duration_s: float = 0.0
    window_p50_us: tuple[float, ...] = ()
    window_p99_us: tuple[float, ...] = ()

    def value(self, metric: Metric) -> float:
        """The one that `metric` names, turned so that more is worse."""
        match metric:
            case Metric.P50:
                return self.p50_us
            case Metric.P99:
                return self.p99_us
            case Metric.THROUGHPUT:
                return 1.0 / self.throughput_per_s

    def slower(self, added_us: float, *, clients: int, batch_size: int) -> Burst:
        """The same burst of a backend that spends `added_us` more on each request of a closed loop."""
        per_request_s = clients * batch_size / self.throughput_per_s
        return replace(
            self,
            p50_us=self.p50_us + added_us,
            p95_us=self.p95_us + added_us,
            p99_us=self.p99_us + added_us,
            throughput_per_s=clients * batch_size / (per_request_s + added_us * 1e-6),
        )


@dataclass(frozen=True, slots=True)
class Round:
    """Four bursts, two of each model.

    Attributes:
        order: In which they ran.
        incumbent: Its two bursts, the earlier first.
        candidate: Its two bursts, the earlier first.
        began_s: Since measuring began.
        ended_s: Since measuring began.
    """

    order: Order
    incumbent: tuple[Burst, Burst]
    candidate: tuple[Burst, Burst]
    began_s: float
    ended_s: float

    def log_slow_down(self, metric: Metric) -> float:
        """Log ratio of candidate to incumbent, of the geometric means of their two bursts."""
        candidate = sum(math.log(burst.value(metric)) for burst in self.candidate)
        incumbent = sum(math.log(burst.value(metric)) for burst in self.incumbent)
        return (candidate - incumbent) / 2.0

    def slower(self, added_us: float, *, clients: int, batch_size: int) -> Round:
        """The same round with a candidate that spends `added_us` more on each request."""
        first, second = (b.slower(added_us, clients=clients, batch_size=batch_size) for b in self.candidate)
        return replace(self, candidate=(first, second))
