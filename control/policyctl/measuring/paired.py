"""Measure two served models in turn, in bursts of a fraction of a second.

They are two models of one server, or of two servers: a `Side` says which.

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
from policyctl.measuring.perf_analyzer import PerfAnalyzerOptions, command, run

BURST_LIMIT_S = 8.0
"""For one burst besides its windows: a model that is loading, or loses its process, takes a second or two."""

MOST_STALLS = 2
"""So often a burst in which no request ended is measured again, each time with windows twice as long."""

_WINDOWS_TAKE = 4.0
_STALLED = "No valid requests recorded"


@dataclass(frozen=True, slots=True)
class Bursts:
    """How to measure one burst.

    Attributes:
        options: For every burst; model and levels are filled in.
        binary: perf_analyzer.
        library_path: Where its libraries are.
    """

    options: PerfAnalyzerOptions
    binary: Path
    library_path: Path

    @property
    def limit_s(self) -> float:
        """How long one burst may take before it is ended."""
        return BURST_LIMIT_S + _WINDOWS_TAKE * self.options.measurement_interval_ms / 1e3

    def side(self, model: str, *, clients: int) -> Side:
        """`model` of this server, as one of two that are compared."""
        return Side(self, model, clients)

    def closed(self, model: str, *, clients: int) -> Burst:
        """Ask `model` with `clients` that wait for each answer.

        Raises:
            ServerError: The server refused, broke off, or did not answer in time.
            UnsupportedError: perf_analyzer cannot run here.
        """
        return self._burst(replace(self.options, model=model, concurrency=(clients,), request_rate=()))

    def open(self, model: str, *, rate: float) -> Burst:
        """Ask `model` at a rate of requests a second, whether or not it answers.

        Raises:
            ServerError: See `closed`.
            UnsupportedError: See `closed`.
        """
        return self._burst(replace(self.options, model=model, request_rate=(rate,)))

    def command_line(self, model: str, *, clients: int = 1, rate: float | None = None) -> list[str]:
        """The command line of a burst, for the evidence."""
        levels = () if rate is None else (rate,)
        options = replace(self.options, model=model, concurrency=(clients,), request_rate=levels)
        report, export = Path("report.csv"), Path("profile.json")
        return command(options, options.levels[0], binary=Path(self.binary.name), report=report, export=export)

    def _burst(self, options: PerfAnalyzerOptions, *, stalls: int = 0) -> Burst:
        limited = replace(options, time_limit_s=self.limit_s)
        try:
            (level,) = run(limited, binary=self.binary, library_path=self.library_path)
        except ServerError as error:
            # The machine stood still for a whole window (it was seen on two busy cores, at 100 ms). That
            # says nothing of the model, unless it happens again and again: then longer windows are needed.
            if _STALLED not in error.problem or stalls == MOST_STALLS:
                raise
            longer = replace(options, measurement_interval_ms=2 * options.measurement_interval_ms)
            return self._burst(longer, stalls=stalls + 1)
        return Burst(**{field.name: getattr(level, field.name) for field in fields(Burst)})


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared.

    Attributes:
        bursts: How it is measured, and on which server.
        model: The Triton model.
        clients: Of the closed loop.
    """

    bursts: Bursts
    model: str
    clients: int

    def burst(self) -> Burst:
        """Measure it once.

        Raises:
            ServerError: See `Bursts.closed`.
            UnsupportedError: See `Bursts.closed`.
        """
        return self.bursts.closed(self.model, clients=self.clients)

    def command_line(self) -> list[str]:
        """The command line of its bursts, for the evidence."""
        return self.bursts.command_line(self.model, clients=self.clients)


def rounds(
    incumbent: Side,
    candidate: Side,
    *,
    time_cap_s: float,
    rng: np.random.Generator,
) -> Iterator[Round]:
    """Measure rounds, each in an order that a coin decides, until the time is up.

    It takes at most `time_cap_s` and the limit of one burst (with its repetitions, where the machine stood still).

    Args:
        incumbent: A.
        candidate: B.
        time_cap_s: For all rounds together.
        rng: The coin.

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
