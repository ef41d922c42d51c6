"""Intervals by resampling: coverage, pairing, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from policyctl.domain.intervals import mean_with_interval, paired_difference


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    """90 % intervals of skewed samples of 40: between 82 and 95 % of 200 cover."""
    source = rng(1)
    hits = 0
    for _ in range(200):
        found = mean_with_interval(source.exponential(3.0, size=40), confidence=0.9, rng=source)
        hits += found.low <= 3.0 <= found.high
    assert 164 <= hits <= 190


def test_a_seeded_generator_reproduces_an_interval() -> None:
    """And more confidence makes it wider around the same mean."""
    values = rng(2).normal(size=30)
    first, second = (mean_with_interval(values, rng=rng(3)) for _ in range(2))
    assert first == second
    wide = mean_with_interval(values, confidence=0.99, rng=rng(3))
    assert wide.low < first.low < first.mean == wide.mean < first.high < wide.high


def test_a_sample_without_spread_has_an_interval_without_width() -> None:
    """500 of 500 in every episode is 500."""
    found = mean_with_interval(np.full(10, 500.0), rng=rng())
    assert (found.low, found.mean, found.high, found.count) == (500.0, 500.0, 500.0, 10)


def test_pairing_removes_what_both_have_in_common() -> None:
    """Seeds that differ by hundreds and a candidate that is 1 better: the interval is around 1."""
    common = rng(4).normal(scale=300.0, size=50)
    candidate = common + 1.0 + rng(5).normal(scale=0.1, size=50)
    found = paired_difference(common, candidate, rng=rng())
    assert 0.9 < found.low < found.high < 1.1
    assert paired_difference(candidate, common, rng=rng()).high < 0


@pytest.mark.parametrize(
    ("values", "confidence"),
    [([1.0], 0.9), ([], 0.9), ([[1.0, 2.0]], 0.9), ([1.0, np.nan], 0.9), ([1.0, 2.0], 1.0), ([1.0, 2.0], 0.0)],
)
def test_too_little_to_judge_is_refused(values: list[float], confidence: float) -> None:
    """One value has no interval; NaN is not a value; 0 and 1 are no confidence."""
    with pytest.raises(ValueError, match="expected"):
        mean_with_interval(values, confidence=confidence, rng=rng())


def test_unpaired_samples_are_refused() -> None:
    """Different lengths are different seeds."""
    with pytest.raises(ValueError, match="shapes differ"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0], rng=rng())


def test_a_large_sample_is_resampled_in_pieces() -> None:
    """Resamples of several chunks give the interval that theory expects."""
    found = mean_with_interval(np.tile([0.0, 1.0], 2_000), rng=rng())
    assert found.low == pytest.approx(0.5 - 1.96 * 0.5 / np.sqrt(4_000), abs=1e-3)
