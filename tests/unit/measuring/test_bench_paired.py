"""Bursts and rounds, with perf_analyzer replaced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from policyctl.domain.protocol import Protocol
from policyctl.errors import ServerError
from policyctl.measuring.measurement import LoadMode, Point, SharedMemory
from policyctl.measuring.paired import MOST_STALLS, Bursts, rounds
from policyctl.measuring.perf_analyzer import Load, PerfAnalyzer

FOUND = SimpleNamespace(
    p50_us=500.0,
    p95_us=700.0,
    p99_us=900.0,
    throughput_per_s=1800.0,
    request_count=600,
    failed_requests=0,
    delayed_percent=0.0,
    duration_s=0.36,
    window_p50_us=(500.0,) * 3,
    window_p99_us=(900.0,) * 3,
)


class Tool:
    """A perf_analyzer that stalls so many times and then answers."""

    def __init__(self, *, stalls: int = 0, problem: str = "it said: No valid requests recorded within ...") -> None:
        self.asked: list[Load] = []
        self._stalls, self._problem = stalls, problem

    def measure(self, load: Load):
        self.asked.append(load)
        if len(self.asked) <= self._stalls:
            raise ServerError(self._problem)
        return FOUND

    binary = Path("/somewhere/pa")

    def command(self, load, report, export):
        return PerfAnalyzer(self.binary, Path(), Path("data"), 4).command(load, report, export)


POINT = Point(Protocol.GRPC, SharedMemory.NONE, 1, LoadMode.CONCURRENCY, 1.0)


def bursts(tool: Tool) -> Bursts:
    return Bursts(tool, Load(model="walker", url="x:1", point=POINT, interval_ms=100))


def test_a_burst_in_which_the_machine_stood_still_is_measured_again_for_longer() -> None:
    """Twice as long each time, and never more often than declared."""
    tool = Tool(stalls=MOST_STALLS)
    assert bursts(tool).burst().p50_us == 500.0
    assert [o.interval_ms for o in tool.asked] == [100, 200, 400]
    with pytest.raises(ServerError, match="No valid requests"):
        bursts(Tool(stalls=MOST_STALLS + 1)).burst()


def test_any_other_trouble_is_not_tried_again() -> None:
    """A server that refuses or does not answer ends the burst at once."""
    tool = Tool(stalls=1, problem="perf_analyzer did not end in time")
    with pytest.raises(ServerError, match="in time"):
        bursts(tool).burst()
    assert len(tool.asked) == 1


def test_a_round_asks_both_models_twice_in_an_order_that_a_coin_decides() -> None:
    """ABBA or BAAB, both of them in the course of time, and no round begins after the time is up."""
    tool = Tool()
    found = []
    both = bursts(tool)
    sides = (both.of("walker", clients=1), both.of("walker.candidate", clients=1))
    measured = rounds(*sides, time_cap_s=60.0, rng=np.random.default_rng(0))
    for _, each in zip(range(20), measured, strict=False):
        found.append(each)
    letters = ["A" if o.model == "walker" else "B" for o in tool.asked]
    orders = ["".join(letters[i : i + 4]) for i in range(0, 80, 4)]
    assert orders == [r.order.value for r in found]
    assert set(orders) == {"ABBA", "BAAB"}
    assert list(rounds(*sides, time_cap_s=0.0, rng=np.random.default_rng(0))) == []


def test_two_servers_are_asked_as_two_models_of_one_are() -> None:
    """The same model of each: every burst goes to the server of its side."""
    tool = Tool()
    here = bursts(tool)
    there = replace(here, load=replace(here.load, url="y:2"))
    sides = (here.of("walker", clients=8), there.of("walker", clients=8))
    measured = rounds(*sides, time_cap_s=60.0, rng=np.random.default_rng(0))
    first = next(measured)
    letters = "".join("A" if o.url == "x:1" else "B" for o in tool.asked)
    assert letters == first.order.value
    assert {(o.model, o.point.level) for o in tool.asked} == {("walker", 8.0)}
    assert "y:2" in sides[1].command_line()


def test_the_evidence_names_the_command_that_was_run() -> None:
    """With its rate, or with its clients."""
    made = bursts(Tool())
    assert "--request-rate-range 1000:1000:1" in " ".join(made.of("walker", rate=1000.0).command_line())
    assert "--concurrency-range 8:8:1" in " ".join(made.of("walker", clients=8).command_line())
