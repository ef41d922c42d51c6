"""The slowest answers of one slot under watch, by the quantiles that Triton keeps over the last minute.

Means hide them: one answer in a hundred that takes thirty milliseconds moves a
mean by a third of one. A bake of minutes is cut into spans of one minute each,
so every answer of it is judged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from policyctl.adapters.triton import Triton
from policyctl.adapters.triton_metrics import tails
from policyctl.domain.bake import TailQuantiles
from policyctl.errors import ServerError

SPAN_S: Final = 60.0
"""How far back Triton's quantiles reach."""
_P95, _P99 = 0.95, 0.99


@dataclass(slots=True)
class Tails:
    """What Triton's own page of metrics says, span by span.

    Attributes:
        served: The Triton model.
        slot: Which of its versions.
        clock: Seconds that never go back.
    """

    served: str
    slot: int
    clock: Callable[[], float]
    _ended: list[TailQuantiles] = field(default_factory=list)
    _current: TailQuantiles | None = None
    _began: tuple[float, int] | None = None

    def look(self, client: Triton) -> None:
        """Read the page once; where nothing answers, nothing is read."""
        if not client.endpoint.metrics:
            return
        with contextlib.suppress(ServerError):
            found = tails(client.endpoint.metrics).get((self.served, self.slot))
            if found is None:
                return
            now = self.clock()
            # A count that went back is that of another server.
            if self._began is None or found.requests < self._began[1]:
                self._end(now, found.requests)
            if self._began is not None and found.quantiles_us.keys() >= {_P95, _P99}:
                at_s, requests = self._began
                p95_us, p99_us = (round(found.quantiles_us[level], 3) for level in (_P95, _P99))
                self._current = TailQuantiles(round(now - at_s, 3), found.requests - requests, p95_us, p99_us)
                if now - at_s >= SPAN_S:
                    self._end(now, found.requests)

    def seen(self) -> tuple[TailQuantiles, ...] | None:
        """Every span until now; None where Triton keeps no quantiles of this slot."""
        if self._began is None:
            return None
        return (*self._ended, *(() if self._current is None else (self._current,)))

    def _end(self, now: float, requests: int) -> None:
        if self._current is not None:
            self._ended.append(self._current)
        self._current, self._began = None, (now, requests)
