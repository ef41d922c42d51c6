"""Measure two served models in turn, in bursts of a fraction of a second.

What a burst costs was measured (gRPC, a policy with four inputs): perf_analyzer
is up in about 40 ms, and its three windows take 1.2 times their nominal length,
so three windows of 100 ms are over in 0.41 s and a round of four bursts in
1.7 s. Fewer than three windows it does not take without calling the result
unstable, and ``--request-count`` never ends in less than a second.

Nothing here can wait for ever: each burst has its limit, well above what it
should take, and a round only begins if there should be time for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from policyctl.domain.paired import Burst, Order, Round
from policyctl.errors import ServerError
from policyctl.measuring.measurement import LoadMode
from policyctl.measuring.perf_analyzer import Load, PerfAnalyzer

BURST_LIMIT_S = 8.0
"""For one burst besides its windows: a model that is loading, or loses its process, takes a second or two."""

MOST_STALLS = 2
"""So often a burst in which no request ended is measured again, each time with windows twice as long."""

_WINDOWS_TAKE = 4.0
_STALLED = "No valid requests recorded"


@dataclass(frozen=True, slots=True)
class Bursts:
    """A load that is measured in bursts.

    Attributes:
        load: Which model of which server, and how it is asked.
    """

    tool: PerfAnalyzer
    load: Load

    def of(self, model: str, *, clients: int = 1, rate: float | None = None) -> Bursts:
        """Another model of the server, asked by clients that wait, or at a rate of requests a second."""
        level = (LoadMode.CONCURRENCY, float(clients)) if rate is None else (LoadMode.REQUEST_RATE, rate)
        point = replace(self.load.point, mode=level[0], level=level[1])
        return replace(self, load=replace(self.load, model=model, point=point))

    def burst(self) -> Burst:
        """Measure it once.

        Raises:
            ServerError: The server refused, broke off, or did not answer in time.
            UnsupportedError: perf_analyzer cannot run here.
        """
        limit_s = BURST_LIMIT_S + _WINDOWS_TAKE * self.load.interval_ms / 1e3
        for stalls in range(MOST_STALLS + 1):
            interval_ms = self.load.interval_ms << stalls
            try:
                level = self.tool.measure(replace(self.load, interval_ms=interval_ms, time_limit_s=limit_s))
            except ServerError as error:
                # The machine stood still for a whole window (it was seen on two busy cores, at 100 ms). That
                # says nothing of the model, unless it happens again and again: then longer windows are needed.
                if _STALLED not in error.problem or stalls == MOST_STALLS:
                    raise
            else:
                return Burst(**{field.name: getattr(level, field.name) for field in fields(Burst)})
        raise AssertionError("the last burst gives a measurement or an error")

    def command_line(self) -> list[str]:
        """The command line of a burst, for the evidence."""
        _, *arguments = self.tool.command(self.load, Path("report.csv"), Path("profile.json"))
        return [self.tool.binary.name, *arguments]


def rounds(incumbent: Bursts, candidate: Bursts, *, time_cap_s: float, rng: np.random.Generator) -> Iterator[Round]:
    """Measure rounds, each in an order that a coin decides, until the time is up.

    It takes at most `time_cap_s` and the limit of one burst (with its repetitions, where the machine stood still).

    Args:
        incumbent: A.
        candidate: B; another model of the server, or one of another server.

    Raises:
        ServerError: A server refused, broke off, or did not answer in time.
        UnsupportedError: perf_analyzer cannot run here.
    """
    start = time.monotonic()
    taken_s: list[float] = []
    # The median: one round in which the machine stood still must not keep all later ones from being begun.
    while (began_s := time.monotonic() - start) + float(np.median(taken_s or [0.0])) < time_cap_s:
        order = Order.ABBA if rng.random() < 0.5 else Order.BAAB
        bursts: dict[str, list[Burst]] = {"A": [], "B": []}
        for letter in order.value:
            bursts[letter].append((incumbent if letter == "A" else candidate).burst())
        ended_s = time.monotonic() - start
        taken_s.append(ended_s - began_s)
        (one, two), (three, four) = bursts["A"], bursts["B"]
        yield Round(order, (one, two), (three, four), round(began_s, 3), round(ended_s, 3))
