"""Watch the memory of a server's processes while something else runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import numpy as np

from policyctl.errors import PolicyctlError

EVERY_S: Final = 0.25
_MOST_SAMPLES: Final = 2_000
"""Beyond it every second sample is dropped, and twice the time let pass: an hour fits as well."""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Resident memory at one time.

    Attributes:
        at_s: Seconds since the first sample.
        resident_mb: By process: ``tritonserver``, and each model instance.
    """

    at_s: float
    resident_mb: Mapping[str, float]

    def __post_init__(self) -> None:
        # One text for one value: 1 is written as 1.0, as it is read back.
        object.__setattr__(self, "at_s", float(self.at_s))


@dataclass(frozen=True, slots=True)
class MemorySummary:
    """One process over a run, in megabytes."""

    process: str
    first_mb: float
    steady_mb: float
    peak_mb: float


def summarise(samples: Sequence[MemorySample]) -> tuple[MemorySummary, ...]:
    """First, steady (the median of the second half) and peak, of each process in the order of their names."""
    summaries = []
    for process in sorted({name for sample in samples for name in sample.resident_mb}):
        values = [sample.resident_mb[process] for sample in samples if process in sample.resident_mb]
        half = values[len(values) // 2 :]
        summaries.append(MemorySummary(process, values[0], float(np.median(half)), max(values)))
    return tuple(summaries)


class MemoryTrace:
    """A context manager that samples until it is left.

    Args:
        look: Resident bytes by process, now. A refusal (the server has gone)
            leaves a gap.
    """

    def __init__(self, look: Callable[[], Mapping[str, float]], *, every_s: float = EVERY_S) -> None:
        self._look = look
        self._every_s = every_s
        self._samples: list[MemorySample] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-trace", daemon=True)

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def samples(self) -> tuple[MemorySample, ...]:
        """All so far, oldest first."""
        return tuple(self._samples)

    def _run(self) -> None:
        while True:
            try:
                resident_mb = {name: round(size / 1e6, 3) for name, size in self._look().items()}
                self._samples.append(MemorySample(round(time.monotonic() - self._begin, 3), resident_mb))
            except PolicyctlError:
                pass
            if len(self._samples) > _MOST_SAMPLES:
                self._samples[:] = self._samples[::2]
                self._every_s *= 2
            if self._done.wait(self._every_s):
                return
