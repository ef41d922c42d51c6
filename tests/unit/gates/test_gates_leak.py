"""The judge of soaks, on series whose growth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from policyctl.domain.growth import growth, theil_sen
from policyctl.domain.verdict import Verdict
from policyctl.gates.leak import GrowthLimits, Series, SeriesKind, judge

MB = 1e6
LIMIT = GrowthLimits(memory_bytes=10 * MB)
REQUESTS = np.linspace(0, 400_000, 600)
"""Ten minutes, a sample a second, 670 requests a second."""

Shape = Callable[[np.random.Generator], NDArray[np.float64]]


def flat(rng: np.random.Generator) -> NDArray[np.float64]:
    return 70 * MB + rng.normal(0, 20e3, len(REQUESTS))


def leaky(rng: np.random.Generator, per_million: float = 50 * MB) -> NDArray[np.float64]:
    """50 kB in 1,000 requests, which the heap passes on in steps of 132 KiB."""
    owed = per_million * REQUESTS / 1e6
    return flat(rng) + np.floor(owed / 135_168) * 135_168


def warm_up(rng: np.random.Generator) -> NDArray[np.float64]:
    """Rises in steps at the beginning, then stays."""
    steps = [(5_000, 8), (20_000, 4), (40_000, 3), (70_000, 1)]
    return flat(rng) + sum((at < REQUESTS) * size * MB for at, size in steps)


def saturating(rng: np.random.Generator) -> NDArray[np.float64]:
    """Caches that fill ever more slowly."""
    return flat(rng) + 20 * MB * (1 - np.exp(-REQUESTS / 60_000))


def sawtooth(rng: np.random.Generator) -> NDArray[np.float64]:
    """Garbage that is collected now and then."""
    return flat(rng) + (REQUESTS + rng.uniform(0, 9_000)) % 9_000 * 900


def spikes(rng: np.random.Generator) -> NDArray[np.float64]:
    """A second release loaded for a while, again and again."""
    return flat(rng) + 60 * MB * (np.arange(len(REQUESTS)) % 60 < 8)


def one_late_jump(rng: np.random.Generator) -> NDArray[np.float64]:
    """An arena that is needed once."""
    return flat(rng) + 12 * MB * (rng.uniform(0.4, 0.9) * REQUESTS[-1] < REQUESTS)


def random_walk(rng: np.random.Generator) -> NDArray[np.float64]:
    """An allocator that wanders, each value near the one before."""
    return 70 * MB + np.cumsum(rng.normal(0, 60e3, len(REQUESTS)))


def leak_under_a_sawtooth(rng: np.random.Generator) -> NDArray[np.float64]:
    return sawtooth(rng) + leaky(rng) - 70 * MB


def says(shape: Shape, seed: int, limits: GrowthLimits = LIMIT) -> Verdict:
    values = shape(np.random.default_rng(seed))
    return judge([Series("stub", SeriesKind.MEMORY, REQUESTS.tolist(), values.tolist())], limits).verdict


@pytest.mark.parametrize("shape", [leaky, leak_under_a_sawtooth])
def test_a_leak_is_found_whatever_lies_over_it(shape: Shape) -> None:
    """50 kB in 1,000 requests is a leak in every one of 20 runs."""
    assert [says(shape, seed) for seed in range(20)] == [Verdict.FAILED] * 20


@pytest.mark.parametrize("shape", [flat, warm_up, sawtooth, spikes])
def test_what_does_not_grow_is_no_leak(shape: Shape) -> None:
    """Warm-up in steps, garbage and passing peaks are none, and it says so, in every one of 20 runs."""
    assert [says(shape, seed) for seed in range(20)] == [Verdict.PASSED] * 20


@pytest.mark.parametrize("shape", [saturating, one_late_jump, random_walk])
def test_what_only_looks_like_growth_is_never_called_a_leak(shape: Shape) -> None:
    """A cache that still fills, a jump, a wandering allocator: at worst it cannot tell, in 50 runs."""
    assert Verdict.FAILED not in {says(shape, seed) for seed in range(50)}


def test_growth_below_the_limit_is_no_leak_beyond_it() -> None:
    """2 MB per million requests under a limit of 10: passed, and the bound is given."""
    values = leaky(np.random.default_rng(0), per_million=2 * MB)
    result = judge([Series("stub", SeriesKind.MEMORY, REQUESTS.tolist(), values.tolist())], LIMIT)
    assert result.verdict is Verdict.PASSED
    (finding,) = result.evidence["findings"]
    assert 2 * MB < finding["growth_per_million"]["high"] < 10 * MB
    assert "per million requests" in result.reason


@pytest.mark.parametrize("per_million", [20 * MB, 50 * MB, 200 * MB])
def test_the_interval_holds_the_true_growth(per_million: float) -> None:
    """The bounds are bounds: the injected growth lies within them."""
    found = growth(REQUESTS / 1e6, leaky(np.random.default_rng(1), per_million), quantum=135_168)
    assert found is not None
    assert found.low <= per_million <= found.high
    assert found.slope == pytest.approx(per_million, rel=0.1)


def test_too_few_requests_never_prove_that_there_is_no_leak() -> None:
    """Where a leak at the limit would not have shown a single step, nothing is passed."""
    few = np.linspace(0, 5_000, 300)
    result = judge([Series("stub", SeriesKind.MEMORY, few.tolist(), [7e7] * 300)], LIMIT)
    assert result.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_samples_are_inconclusive(count: int) -> None:
    """Also none at all, for a process that was never seen for long."""
    series = Series("stub", SeriesKind.MEMORY, list(REQUESTS[:count]), [7e7] * count)
    assert judge([series], LIMIT).verdict is Verdict.INCONCLUSIVE


def test_without_a_series_nothing_passes() -> None:
    """A gate with no data is an error."""
    assert judge([], LIMIT).verdict is Verdict.ERROR


def test_one_leak_among_many_series_decides() -> None:
    """Also beside one that cannot be told; latency decides nothing."""
    rng = np.random.default_rng(0)
    many = [
        Series("tritonserver", SeriesKind.MEMORY, REQUESTS.tolist(), flat(rng).tolist()),
        Series("short", SeriesKind.MEMORY, [0, 1], [1e6, 1e6]),
        Series("stub", SeriesKind.DESCRIPTORS, REQUESTS.tolist(), np.floor(20 + REQUESTS / 1000).tolist()),
        Series("p50", SeriesKind.LATENCY, REQUESTS.tolist(), (500 + REQUESTS / 100).tolist()),
    ]
    result = judge(many, LIMIT)
    assert result.verdict is Verdict.FAILED
    assert "stub" in result.reason and "tritonserver" not in result.reason
    assert judge([many[0], many[3]], LIMIT).verdict is Verdict.PASSED


def test_the_slope_is_the_median_of_all_pairs() -> None:
    """Against a line with one wild value."""
    x = np.arange(20.0)
    y = 3.0 * x + 1.0
    y[7] = 1e9
    assert theil_sen(x, y) == pytest.approx(3.0)
