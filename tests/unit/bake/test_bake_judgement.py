"""What proves harm, what proves none, and what proves nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policyctl.domain.bake import BakePlan, Baking, Figures, Probes, Reading, TailQuantiles, Then, Window, windows
from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.statistics import MOST_HITS, binomial_interval, rate_bound_above, rate_bound_below, spent
from policyctl.domain.verdict import Verdict
from policyctl.gates.bake import ALPHA, judge

PLAN = BakePlan(60.0, Then.ROLLBACK, error_ratio=0.01, latency_ratio=1.5, latency_floor_us=500.0, wrong_probes=0)
WELL = Probes(answered=50)


def windows_of(mean_us: float, *, count: int = 10, failed: int = 0, each: int = 100) -> tuple[Window, ...]:
    """As many windows, alike but for a little."""
    return tuple(Window(1.0, each - failed, failed, mean_us * (1 + 0.001 * i)) for i in range(count))


BEFORE = Figures("test", windows_of(600.0), WELL)


def verdict_of(seen: Figures, *, before: Figures | None = BEFORE, plan: BakePlan = PLAN) -> dict[str, str]:
    """Every check's verdict at the end, and that of all together."""
    found = judge(plan, before, seen, alpha=ALPHA, is_over=True)
    assert found is not None
    return {"all": found.verdict, **{c["check"]: c["verdict"] for c in found.evidence["checks"]}}


def test_a_release_like_its_incumbent_passes() -> None:
    """Enough requests, none failed, the same latency, every probe right."""
    assert set(verdict_of(Figures("test", windows_of(610.0), WELL)).values()) == {"passed"}


@pytest.mark.parametrize(
    ("failed", "requests", "incumbent", "expected"),
    [
        (1, 3, (0, 1000), "inconclusive"),  # one of three proves nothing about one in a hundred
        (3, 3, (0, 1000), "failed"),
        (0, 100, (0, 1000), "inconclusive"),  # none of a hundred may still be one in fifty
        (0, 300, (0, 1000), "passed"),
        (3, 1000, (0, 1000), "passed"),
        (10, 1000, (0, 1000), "inconclusive"),
        (60, 1000, (0, 1000), "failed"),
        (60, 1000, (50, 1000), "inconclusive"),  # the incumbent failed about as often
        (30, 1000, (50, 1000), "passed"),
        (600, 1000, (50, 1000), "failed"),
        (60, 1000, (1, 3), "failed"),  # too few of the incumbent's to excuse anything
        (100_000, 1_000_000, (0, 1000), "failed"),
    ],
)
def test_errors_are_judged_by_what_they_prove(failed, requests, incumbent, expected) -> None:
    """Against the limit, or against the incumbent's share where it was seen failing often enough."""
    before = Figures("test", (Window(10.0, incumbent[1] - incumbent[0], incumbent[0], 600.0),), WELL)
    seen = Figures("test", (Window(10.0, requests - failed, failed, 600.0),), WELL)
    assert verdict_of(seen, before=before)["errors"] == expected


@pytest.mark.parametrize(
    ("mean_us", "count", "expected"),
    [
        (1050.0, 10, "passed"),  # 1.75 times, but less than half a millisecond more
        (1300.0, 10, "failed"),
        (1300.0, 3, "inconclusive"),  # three windows prove nothing
        (610.0, 3, "inconclusive"),
        (300.0, 10, "passed"),
    ],
)
def test_latency_is_held_against_the_incumbents(mean_us, count, expected) -> None:
    """A ratio with a floor in microseconds; a few windows prove neither."""
    seen = Figures("test", windows_of(mean_us, count=count), WELL)
    assert verdict_of(seen)["latency"] == expected


def test_latency_is_not_compared_at_another_load_or_without_an_incumbent() -> None:
    """Three times the traffic makes any server slower; and of an incumbent that nobody asked nothing is known."""
    busy = Figures("test", windows_of(2000.0, each=300), WELL)
    assert verdict_of(busy)["latency"] == "inconclusive"
    few = Figures("test", windows_of(600.0, each=5), WELL)
    assert verdict_of(Figures("test", windows_of(2000.0), WELL), before=few)["latency"] == "inconclusive"
    assert verdict_of(Figures("test", windows_of(2000.0), WELL), before=None)["latency"] == "inconclusive"


BEFORE_WITH_TAIL = replace(BEFORE, tails=(TailQuantiles(10.0, 1000, 800.0, 1200.0),))


@pytest.mark.parametrize(
    ("tails", "expected"),
    [
        ([(60.0, 6000, 850.0, 1300.0)], "passed"),
        ([(60.0, 6000, 850.0, 1850.0)], "inconclusive"),  # between one and five in a hundred took too long
        ([(60.0, 6000, 1850.0, 9000.0)], "failed"),
        ([*[(60.0, 6000, 850.0, 1300.0)] * 4, (60.0, 6000, 850.0, 9000.0)], "passed"),  # less than two in a hundred
        ([(60.0, 6000, 850.0, 1300.0), (60.0, 6000, 9000.0, 9000.0)], "inconclusive"),  # one bad minute of two
        ([(3.0, 200, 850.0, 1300.0)], "inconclusive"),  # too few
        ([(3.0, 300, 850.0, 1300.0)], "passed"),
        ([(1.0, 10, 9000.0, 9000.0)], "inconclusive"),
        ([(10.0, 3000, 9000.0, 9000.0)], "inconclusive"),  # three times the traffic makes any server slower
        ([], "inconclusive"),
    ],
)
def test_the_slowest_answers_are_held_against_the_incumbents(tails, expected) -> None:
    """A release whose mean is as good as its incumbent's does not pass where its tail got worse."""
    seen = Figures("test", windows_of(600.0), WELL, tails=tuple(TailQuantiles(*row) for row in tails))
    found = verdict_of(seen, before=BEFORE_WITH_TAIL)
    assert (found["latency"], found["tail"]) == ("passed", expected)
    assert found["all"] == expected


def test_a_tail_is_judged_where_both_have_one_and_the_incumbent_was_asked() -> None:
    """A Triton that keeps no quantiles is judged by means; an incumbent that nobody asked proves nothing."""
    seen = Figures("test", windows_of(600.0), WELL, tails=(TailQuantiles(60.0, 6000, 850.0, 1300.0),))
    assert "tail" not in verdict_of(seen)
    assert "tail" not in verdict_of(replace(seen, tails=None), before=BEFORE_WITH_TAIL)
    assert verdict_of(seen, before=replace(BEFORE_WITH_TAIL, tails=()))["tail"] == "inconclusive"
    assert verdict_of(seen, before=None)["tail"] == "inconclusive"


@pytest.mark.parametrize(
    ("probes", "expected"),
    [
        (Probes(answered=50), "passed"),
        (Probes(answered=50, wrong=1), "failed"),
        (Probes(answered=5), "inconclusive"),
        (Probes(answered=50, failed=10), "failed"),
        (Probes(answered=300, failed=1), "passed"),
    ],
)
def test_probes_may_be_missed_now_and_then_and_never_wrong(probes, expected) -> None:
    """A wrong golden answer never happens by accident; a missing one may."""
    assert verdict_of(Figures("test", windows_of(600.0), probes))["probes"] == expected


def test_a_server_that_died_fails_the_bake_at_once() -> None:
    """Whatever else was seen, and before the time is up."""
    found = judge(PLAN, BEFORE, Figures("test", windows_of(600.0), WELL, crashes=1), alpha=1e-9, is_over=False)
    assert found is not None
    assert found.verdict is Verdict.FAILED


def test_no_data_is_inconclusive_and_nothing_is_said_before_the_end() -> None:
    """The control plane's own requests are no traffic."""
    own = Figures("test", (Window(10.0, 100, 0, 600.0),), WELL, control=100)
    assert judge(PLAN, BEFORE, own, alpha=ALPHA, is_over=False) is None
    assert verdict_of(own)["errors"] == "inconclusive"
    assert verdict_of(Figures("test"))["all"] == "inconclusive"


def test_looking_often_fails_a_release_at_the_limit_as_seldom_as_was_spent() -> None:
    """A release that fails exactly as often as it may, looked at 25 times, over 4000 bakes."""
    looks, each = 25, 200
    failed = np.cumsum(np.random.default_rng(3).binomial(each, 0.01, size=(4000, looks)), axis=1)
    false = np.zeros(4000, dtype=bool)
    for look in range(looks):
        alpha = spent((look + 1) / looks, alpha=ALPHA) - spent(look / looks, alpha=ALPHA)
        asked = each * (look + 1)
        fewest = next(n for n in range(asked) if rate_bound_below(n, asked, alpha=max(alpha, 1e-12)) > 0.01)
        false |= failed[:, look] >= fewest
    assert 0 < false.mean() <= ALPHA


def test_a_tenth_failing_is_seen_within_a_tenth_of_the_time() -> None:
    """A hundred looks cost little of what can be proved early: 600 requests, 60 of them failed."""
    alpha = spent(0.1, alpha=ALPHA) - spent(0.09, alpha=ALPHA)
    seen = Figures("test", windows_of(600.0, count=6, failed=10), WELL)
    found = judge(PLAN, BEFORE, seen, alpha=alpha, is_over=False)
    assert found is not None
    assert "60 of 600 requests failed" in found.reason


@given(st.integers(0, 600), st.integers(1, 600), st.floats(1e-6, 0.49))
@example(49, 195, 1e-6)  # as one less the other tail it loses its digits
@settings(max_examples=40, deadline=None)
def test_the_bounds_of_a_rate_lie_on_either_side_of_it(hits, more, alpha) -> None:
    """Exact for small counts, and never tighter than exact for large ones."""
    trials = hits + more
    low, high = rate_bound_below(hits, trials, alpha=alpha), rate_bound_above(hits, trials, alpha=alpha)
    assert 0.0 <= low <= hits / trials + 1e-12
    assert hits / trials - 1e-12 <= high <= 1.0
    if max(hits, more) <= MOST_HITS:
        assert (low, high) == pytest.approx(binomial_interval(hits, trials, confidence=1 - 2 * alpha), abs=1e-9)


def test_large_counts_are_bounded_about_as_exact_ones_are() -> None:
    """Where Hoeffding's bound takes over, it is a little wider and no leap."""
    few, many = MOST_HITS, MOST_HITS + 1
    assert 0 < rate_bound_below(few, 20_000, alpha=0.01) - rate_bound_below(many, 20_000, alpha=0.01) < 0.001
    assert 0 < rate_bound_above(many, 20_000, alpha=0.01) - rate_bound_above(few, 20_000, alpha=0.01) < 0.001


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5), st.booleans()), max_size=30))
@settings(max_examples=60, deadline=None)
def test_windows_hold_every_request_between_readings_of_one_life(steps) -> None:
    """Nothing is counted twice or lost; where a counter starts again, what lies between is left out."""
    readings, expected = [Reading(0.0, 7, 1, 7.0)], [0, 0]
    for number, (succeeded, failed, restarts) in enumerate(steps, 1):
        last = readings[-1]
        if restarts and last.succeeded:
            readings.append(Reading(float(number), 0, 0, 0.0))
            continue
        expected = [expected[0] + succeeded, expected[1] + failed]
        took = last.duration_us + 5.0 * succeeded
        readings.append(Reading(float(number), last.succeeded + succeeded, last.failed + failed, took))
    found = windows(readings)
    assert [sum(w.succeeded for w in found), sum(w.failed for w in found)] == expected
    assert all(w.mean_us == pytest.approx(5.0) for w in found if w.succeeded)


def test_what_triton_takes_for_answered_and_was_an_error_has_failed() -> None:
    """Twenty of a hundred counted successes; what the two counters differ by for a moment makes nothing negative."""
    found = windows([Reading(0.0, 10, 0, 1e3, 5), Reading(1.0, 110, 1, 6e3, 25), Reading(2.0, 110, 1, 6e3, 26)])
    assert found == (Window(1.0, 80, 21, 50.0), Window(1.0, 0, 1, 0.0))


def test_what_is_owed_survives_the_journal() -> None:
    """A round trip through JSON, with and without an incumbent's figures; older journals hold no tails."""
    for figures in (None, BEFORE, BEFORE_WITH_TAIL):
        baking = Baking(PLAN, figures)
        assert from_json(Baking, to_json(baking), what="bake", unknown_keys=True) == baking
    old = to_json(Baking(PLAN, BEFORE))
    del old["incumbent"]["tails"]
    assert from_json(Baking, old, what="bake", unknown_keys=True) == Baking(PLAN, BEFORE)
