"""How often somebody may ask: a bucket that fills at a rate, for each who asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

_MOST: Final = 4096


@dataclass(slots=True)
class Buckets:
    """Buckets of one kind.

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
