"""The gate `non_inferiority` on rounds whose truth is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.paired import Burst, Metric, Order, Round
from policyctl.domain.verdict import Verdict
from policyctl.gates.non_inferiority import ComparisonPlan, judge

PLAN = ComparisonPlan()


def burst(level: float, tail: float) -> Burst:
    return Burst(
        p50_us=500 * level,
        p95_us=700 * level,
        p99_us=900 * level * tail,
        throughput_per_s=1800 / level,
        request_count=600,
    )


def made(rng, count: int, *, slower: float = 1.0, noise: float = 0.06, tail: float = 0.2, every_s: float = 1.7):
    """`count` rounds of a candidate that is `slower`, on a machine that is this noisy."""
    found = []
    for index in range(count):
        one, two, three, four = (
            burst(math.exp(rng.normal(0, noise)) * (slower if k > 1 else 1.0), math.exp(rng.normal(0, tail)))
            for k in range(4)
        )
        found.append(Round(Order.ABBA, (one, two), (three, four), index * every_s, (index + 1) * every_s))
    return found


def verdicts(slower: float, runs: int, *, noise: float = 0.06) -> list[Verdict]:
    rng = np.random.default_rng(7)
    return [judge(made(rng, 35, slower=slower, noise=noise), PLAN, is_over=True).verdict for _ in range(runs)]


def test_no_rounds_are_inconclusive_and_so_are_few() -> None:
    """A gate without data never passes, however good the little that there is looks."""
    rng = np.random.default_rng(0)
    for count in (0, 1, 5):
        found = judge(made(rng, count, slower=0.5, noise=0.0, tail=0.0), PLAN, is_over=True)
        assert found.verdict is Verdict.INCONCLUSIVE
        assert "too few" in found.reason


def test_nothing_is_said_before_the_first_look() -> None:
    """However bad the rounds are, the first look comes when it was declared."""
    rng = np.random.default_rng(0)
    rounds = made(rng, 35, slower=3.0)
    early = [r for r in rounds if r.ended_s < 18.0]
    assert judge(early, PLAN) is None
    assert judge(rounds[: len(early) + 1], PLAN).verdict is Verdict.FAILED


def test_a_release_compared_with_itself_is_almost_never_failed() -> None:
    """At most 1 % of 200 A/A runs, with the noise of two busy cores."""
    assert verdicts(1.0, 200).count(Verdict.FAILED) <= 2


def test_a_slow_down_of_ten_percent_is_found() -> None:
    """In at least 95 % of the runs within the time cap."""
    assert verdicts(1.10, 100).count(Verdict.FAILED) >= 95


def test_a_release_at_the_margin_is_passed_and_failed_as_seldom_as_declared() -> None:
    """Type I error at both sides, over all looks and metrics, within binomial error."""
    found = verdicts(1.05, 400)
    bound = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert found.count(Verdict.PASSED) / 400 <= bound
    assert found.count(Verdict.FAILED) / 400 <= bound


def test_a_machine_that_is_too_noisy_is_told_so() -> None:
    """Inconclusive, with the metrics that could not be proved and what to do."""
    rng = np.random.default_rng(3)
    found = [judge(made(rng, 35, noise=0.5), PLAN, is_over=True) for _ in range(20)]
    untold = [each for each in found if each.verdict is Verdict.INCONCLUSIVE]
    assert len(untold) >= 15
    assert all(each.reason.startswith("cannot tell: ") for each in untold)
    assert all("calibrate" in each.evidence["remedy"] for each in untold)


@pytest.mark.parametrize(
    ("change", "metric"),
    [
        ({"p50_us": 600.0}, "p50"),
        ({"p99_us": 1500.0}, "p99"),
        ({"throughput_per_s": 1500.0}, "throughput"),
    ],
)
def test_each_metric_can_fail_a_release_by_itself(change, metric) -> None:
    """And the reason names that one alone."""
    rng = np.random.default_rng(4)
    rounds = [
        replace(r, candidate=tuple(replace(b, **change) for b in r.candidate))
        for r in made(rng, 35, noise=0.01, tail=0.05)
    ]
    found = judge(rounds, PLAN, is_over=True)
    assert found.verdict is Verdict.FAILED
    assert [m for m in Metric if m.value in found.evidence["looks"][-1]["worse"]] == [metric]
    assert found.reason.startswith(f"worse than the incumbent: {metric} +")


def test_a_verdict_can_be_repeated_from_its_evidence() -> None:
    """Rounds go through JSON and give the same verdict, looks and reason."""
    rng = np.random.default_rng(5)
    first = judge(made(rng, 35, slower=1.1), PLAN, is_over=True)
    kept = json.loads(json.dumps(first.evidence["rounds"]))
    again = judge([from_json(Round, r, what="round") for r in kept], PLAN, is_over=True)
    assert to_json(again) == to_json(first)


def test_ratios_are_slow_downs_whatever_the_metric() -> None:
    """Twice the latency and half the throughput are the same slow-down; a margin of 5 % is 5 % of each."""
    one = Round(Order.ABBA, (burst(1, 1),) * 2, (burst(2, 1),) * 2, 0.0, 1.0)
    assert [one.log_slow_down(m) for m in Metric] == [pytest.approx(math.log(2))] * 3
    assert [m.change(m.limit(0.05)) for m in Metric] == [pytest.approx(0.05)] * 3


def test_a_slow_down_that_is_put_in_is_the_one_of_a_spinning_backend() -> None:
    """The same time on every latency, and on each request of the closed loop."""
    slow = burst(1, 1).slower(50.0, clients=1, batch_size=1)
    assert (slow.p50_us, slow.p99_us) == (550.0, 950.0)
    assert 1e6 / slow.throughput_per_s == pytest.approx(1e6 / 1800 + 50)
