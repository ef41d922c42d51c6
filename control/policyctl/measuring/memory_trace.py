"""Watch the memory of a server's processes while something else runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from policyctl.errors import PolicyctlError

S = TypeVar("S")

EVERY_S: Final = 0.25
_MOST_SAMPLES: Final = 2_000
"""An hour fits as well, with longer pauses."""


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


@contextlib.contextmanager
def sampled(look: Callable[[float], S], *, every_s: float = EVERY_S, most: int = _MOST_SAMPLES) -> Iterator[list[S]]:
    """What was seen, oldest first, while the block runs and another thread looks again and again.

    Args:
        look: Takes the seconds since the beginning. A refusal (the server has gone) leaves a gap.
        most: Beyond it every second sample is dropped, and twice the time let pass.
    """
    samples: list[S] = []
    done = threading.Event()

    def run() -> None:
        begin, pause_s = time.monotonic(), every_s
        while True:
            with contextlib.suppress(PolicyctlError):
                samples.append(look(round(time.monotonic() - begin, 3)))
            if len(samples) > most:
                samples[:] = samples[::2]
                pause_s *= 2
            if done.wait(pause_s):
                return

    thread = threading.Thread(target=run, name="samples", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
