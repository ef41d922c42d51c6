"""What the control API counts: its answers, for Prometheus, and how often each caller asks.

Labels come from small closed sets (routes as they are declared, never paths as
they came), so nobody can make series by asking.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

_MOST: Final = 4096
CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
_METHODS: Final = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"})
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Meters:
    """The two series of one control API."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a third series of each, which nobody reads
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "policyctl_api_requests",
            "Requests to the control API.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "policyctl_api_request_duration_seconds",
            "How long the control API took to answer, what it was asked to wait included.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self._registry,
        )

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known, route).observe(seconds)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)


@dataclass(slots=True)
class Buckets:
    """How often somebody may ask: a bucket that fills at a rate, for each who asks.

    Attributes:
        rate: How many a second each gets, and how many one holds when it is full; asked each time.
    """

    rate: Callable[[], tuple[float, float]]
    clock: Callable[[], float] = time.monotonic
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, who: str) -> float:
        """Take one from the bucket of `who`.

        Returns:
            0 where there was one; else how many seconds until there is, and nothing was taken.
        """
        now = self.clock()
        left = self._level(who, now)
        if left < 1.0:
            return (1.0 - left) / self.rate()[0]
        if len(self._left) >= _MOST:
            self._drop_full(now)
        self._left[who] = (left - 1.0, now)
        return 0.0

    def _level(self, who: str, now: float) -> float:
        per_s, burst = self.rate()
        left, since = self._left.get(who, (burst, now))
        return min(burst, left + (now - since) * per_s)

    def _drop_full(self, now: float) -> None:
        """Forget callers whose buckets are full again, or all callers where no bucket is."""
        kept = {who: value for who, value in self._left.items() if self._level(who, now) < self.rate()[1]}
        self._left = kept if len(kept) < _MOST else {}
