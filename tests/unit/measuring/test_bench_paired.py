"""Bursts and rounds, with perf_analyzer replaced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from policyctl.errors import ServerError
from policyctl.measuring import paired
from policyctl.measuring.paired import MOST_STALLS, Bursts, rounds
from policyctl.measuring.perf_analyzer import PerfAnalyzerOptions

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
        self.asked: list[PerfAnalyzerOptions] = []
        self._stalls, self._problem = stalls, problem

    def __call__(self, options, *, binary, library_path):
        self.asked.append(options)
        if len(self.asked) <= self._stalls:
            raise ServerError(self._problem)
        return (FOUND,)


def bursts(monkeypatch, tool: Tool) -> Bursts:
    monkeypatch.setattr(paired, "run", tool)
    return Bursts(PerfAnalyzerOptions(model="walker", url="x:1", measurement_interval_ms=100), Path("pa"), Path())


def test_a_burst_in_which_the_machine_stood_still_is_measured_again_for_longer(monkeypatch) -> None:
    """Twice as long each time, and never more often than declared."""
    tool = Tool(stalls=MOST_STALLS)
    assert bursts(monkeypatch, tool).closed("walker", clients=1).p50_us == 500.0
    assert [o.measurement_interval_ms for o in tool.asked] == [100, 200, 400]
    with pytest.raises(ServerError, match="No valid requests"):
        bursts(monkeypatch, Tool(stalls=MOST_STALLS + 1)).closed("walker", clients=1)


def test_any_other_trouble_is_not_tried_again(monkeypatch) -> None:
    """A server that refuses or does not answer ends the burst at once."""
    tool = Tool(stalls=1, problem="perf_analyzer did not end in time")
    with pytest.raises(ServerError, match="in time"):
        bursts(monkeypatch, tool).closed("walker", clients=1)
    assert len(tool.asked) == 1


def test_a_round_asks_both_models_twice_in_an_order_that_a_coin_decides(monkeypatch) -> None:
    """ABBA or BAAB, both of them in the course of time, and no round begins after the time is up."""
    tool = Tool()
    found = []
    both = bursts(monkeypatch, tool)
    sides = (both.side("walker", clients=1), both.side("walker.candidate", clients=1))
    measured = rounds(*sides, time_cap_s=60.0, rng=np.random.default_rng(0))
    for _, each in zip(range(20), measured, strict=False):
        found.append(each)
    letters = ["A" if o.model == "walker" else "B" for o in tool.asked]
    orders = ["".join(letters[i : i + 4]) for i in range(0, 80, 4)]
    assert orders == [r.order.value for r in found]
    assert set(orders) == {"ABBA", "BAAB"}
    assert list(rounds(*sides, time_cap_s=0.0, rng=np.random.default_rng(0))) == []


def test_two_servers_are_asked_as_two_models_of_one_are(monkeypatch) -> None:
    """The same model of each: every burst goes to the server of its side."""
    tool = Tool()
    here = bursts(monkeypatch, tool)
    there = replace(here, options=replace(here.options, url="y:2"))
    sides = (here.side("walker", clients=8), there.side("walker", clients=8))
    measured = rounds(*sides, time_cap_s=60.0, rng=np.random.default_rng(0))
    first = next(measured)
    letters = "".join("A" if o.url == "x:1" else "B" for o in tool.asked)
    assert letters == first.order.value
    assert {(o.model, o.concurrency) for o in tool.asked} == {("walker", (8,))}
    assert "y:2" in sides[1].command_line()


def test_the_evidence_names_the_command_that_was_run(monkeypatch) -> None:
    """With its rate, or with its clients."""
    made = bursts(monkeypatch, Tool())
    assert "--request-rate-range 1000:1000:1" in " ".join(made.command_line("walker", rate=1000.0))
    assert "--concurrency-range 8:8:1" in " ".join(made.command_line("walker", clients=8))
