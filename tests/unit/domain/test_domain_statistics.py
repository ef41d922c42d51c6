"""Intervals, p-values, spending and Holm, held against distributions whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from policyctl.domain.statistics import binomial_interval, holm, median_interval, p_value_above, spent

RUNS = 2000
SHAPES = {
    "normal": lambda rng, size: rng.normal(size=size),
    "laplace": lambda rng, size: rng.laplace(size=size),
    "heavy tails": lambda rng, size: rng.standard_t(2, size=size),
    "uniform": lambda rng, size: rng.uniform(-1, 1, size=size),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("count", "alpha"), [(8, 0.05), (12, 0.01), (35, 0.05), (35, 0.003)])
def test_an_interval_misses_the_median_as_seldom_as_it_says(shape, count, alpha) -> None:
    """On either side of known distributions, within the binomial error of the simulation."""
    rng = np.random.default_rng(count)
    found = [median_interval(v, alpha_low=alpha, alpha_high=alpha) for v in SHAPES[shape](rng, (RUNS, count))]
    bound = alpha + 4 * math.sqrt(alpha * (1 - alpha) / RUNS)
    assert np.mean([i.low > 0 for i in found]) <= bound
    assert np.mean([i.high < 0 for i in found]) <= bound


def test_an_interval_is_not_wider_than_it_need_be() -> None:
    """At 35 normal values a one-sided 5 % bound misses in about 5 % of the runs, not in far fewer."""
    rng = np.random.default_rng(5)
    missed = np.mean([median_interval(v, alpha_low=0.05, alpha_high=0.05).low > 0 for v in rng.normal(size=(RUNS, 35))])
    assert 0.03 < missed < 0.07


def test_the_exact_distribution_is_the_one_that_counting_gives() -> None:
    """All 2**8 sign patterns of eight ranks give the p-value that is computed."""
    values = np.array([0.3, -1.2, 2.2, 0.7, 3.1, -0.4, 1.6, 5.0])
    ranks = np.argsort(np.argsort(abs(values))) + 1
    statistic = ranks[values > 0].sum()
    counted = np.mean([sum(c) >= statistic for c in itertools.product(*((0, int(r)) for r in ranks))])
    assert p_value_above(values, limit=0.0) == pytest.approx(counted)


def test_p_value_and_interval_never_contradict_each_other() -> None:
    """p <= alpha exactly where the lower end lies above the limit."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        values, limit = rng.normal(0.3, 1.0, size=int(rng.integers(3, 30))), float(rng.normal(0, 0.3))
        low = median_interval(values, alpha_low=0.03, alpha_high=0.03).low
        assert (p_value_above(values, limit=limit) <= 0.03) == (low > limit)


def test_too_few_values_prove_nothing() -> None:
    """Four equal values far from 0 give an interval without ends at 1 %."""
    found = median_interval([5.0, 5.1, 5.2, 5.3], alpha_low=0.01, alpha_high=0.01)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert (found.to_json()["low"], found.median) == (None, pytest.approx(5.15))


@pytest.mark.parametrize("values", [[], [[1.0]], [1.0, math.nan], [math.inf], [0.0] * 1001])
def test_values_that_are_no_sample_are_refused(values) -> None:
    """None, a table, not finite, or too many."""
    with pytest.raises(ValueError, match="expected"):
        median_interval(values, alpha_low=0.05, alpha_high=0.05)


def test_looks_spend_the_whole_error_probability_and_no_more() -> None:
    """Spending begins at 0, never falls, ends at alpha, and stays there."""
    seen = [spent(f, alpha=0.05) for f in np.linspace(0, 1.5, 31)]
    assert (seen[0], seen[-1]) == (0.0, 0.05)
    assert all(a <= b for a, b in itertools.pairwise(seen))
    with pytest.raises(ValueError, match="fraction"):
        spent(math.nan, alpha=0.05)


def test_holm_rejects_in_steps_and_stops_at_the_first_that_stands() -> None:
    """The worked example: 0.01 of 3, then 0.02 of 2, then 0.06 alone."""
    assert holm({"a": 0.06, "b": 0.01, "c": 0.02}, alpha=0.05) == ("b", "c")
    assert holm({"a": 0.02, "b": 0.02, "c": 0.02}, alpha=0.05) == ()
    assert holm({}, alpha=0.05) == ()


def test_holm_seldom_rejects_a_true_hypothesis_among_several() -> None:
    """With three true ones the family-wise rate is at most alpha, within binomial error."""
    rng = np.random.default_rng(2)
    wrong = np.mean([bool(holm(dict(zip("abc", p, strict=True)), alpha=0.05)) for p in rng.uniform(size=(RUNS, 3))])
    assert wrong <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"), [(0, 30, 0.0, 0.1157), (1, 200, 0.000127, 0.02754), (30, 30, 0.8843, 1.0)]
)
def test_a_rate_has_its_exact_interval(hits, trials, low, high) -> None:
    """As tables of Clopper and Pearson have it."""
    assert binomial_interval(hits, trials) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
