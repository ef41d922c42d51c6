"""The gate `superiority` on rounds whose truth is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.paired import Burst, Metric, Order, Round
from policyctl.domain.verdict import Verdict
from policyctl.gates.non_inferiority import LOOKS
from policyctl.gates.superiority import GainPlan, judge

PLAN = GainPlan(Metric.THROUGHPUT, gain=0.02, p99_limit_us=5000.0, time_cap_s=60.0)


def made(rng, count: int, *, gain: float = 0.0, p99_us: float = 1000.0, noise: float = 0.06):
    """`count` rounds of a candidate that answers so much more."""

    def burst(more: float) -> Burst:
        level = math.exp(rng.normal(0, noise))
        tail = p99_us * math.exp(rng.normal(0, 0.2))
        return Burst(500 * level, 700 * level, tail, 1800 * (1 + more) / level, 600)

    return [
        Round(Order.ABBA, (burst(0), burst(0)), (burst(gain), burst(gain)), i * 1.7, (i + 1) * 1.7)
        for i in range(count)
    ]


def says(runs: int, **truth) -> list[Verdict]:
    rng = np.random.default_rng(3)
    return [judge(made(rng, 35, **truth), PLAN, is_over=True).verdict for _ in range(runs)]


def test_no_rounds_and_few_never_pass() -> None:
    """However good they look."""
    rng = np.random.default_rng(0)
    for count in (0, 1, 5):
        assert judge(made(rng, count, gain=1.0, noise=0.0), PLAN, is_over=True).verdict is Verdict.INCONCLUSIVE


def test_a_clear_gain_is_found() -> None:
    """15 % more throughput, in at least 95 % of the runs."""
    assert says(100, gain=0.15).count(Verdict.PASSED) >= 95


def test_the_incumbent_itself_is_almost_never_called_better() -> None:
    """Less often than declared, though the gate looks four times."""
    assert says(400).count(Verdict.PASSED) / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_gain_beyond_the_latency_limit_never_passes() -> None:
    """Twice the throughput with a P99 over the limit is refused, and says so."""
    rng = np.random.default_rng(0)
    found = judge(made(rng, 35, gain=1.0, p99_us=8000.0), PLAN, is_over=True)
    assert found.verdict is Verdict.FAILED
    assert "limit 5 ms" in found.reason
    assert says(50, gain=1.0, p99_us=5000.0).count(Verdict.PASSED) <= 8


def test_what_is_worse_is_refused_early() -> None:
    """So that the time goes to the next one."""
    rng = np.random.default_rng(0)
    rounds = made(rng, 35, gain=-0.3)
    early = [r for r in rounds if r.began_s < LOOKS[0] * PLAN.time_cap_s]
    assert judge(early, PLAN) is not None and judge(early, PLAN).verdict is Verdict.FAILED


def test_evidence_is_json_and_gives_the_verdict_again() -> None:
    """A verdict can be repeated from what was kept."""
    rng = np.random.default_rng(0)
    found = judge(made(rng, 35, gain=0.15), PLAN, is_over=True)
    kept = json.loads(json.dumps(to_json(found)))
    rounds = [from_json(Round, r, what="round") for r in kept["evidence"]["rounds"]]
    assert judge(rounds, PLAN, is_over=True).verdict.value == kept["verdict"]


@pytest.mark.parametrize(("metric", "sign"), [(Metric.THROUGHPUT, -1), (Metric.P50, -1)])
def test_the_gain_is_a_slow_down_below_none(metric: Metric, sign: int) -> None:
    """2 % better is a log slow-down below 0, for throughput and for latency."""
    assert math.copysign(1, GainPlan(metric, 0.02, 1.0, 1.0).limit) == sign
