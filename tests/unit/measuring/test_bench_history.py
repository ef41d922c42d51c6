"""Changes over time: each real one is reported, and the mood of a machine is not."""

from __future__ import annotations

import numpy as np
import pytest
from bench_results import noisy

from policyctl.measuring.history import LEAST_EACH_SIDE, change_points

TRIALS = 60


def test_noise_alone_is_hardly_ever_a_change() -> None:
    """Thirty runs of one release, of each kind of noise: at most 3 in 60 series show a change."""
    rng = np.random.default_rng(1)
    normal = sum(bool(change_points(noisy(rng, 30))) for _ in range(TRIALS))
    # Mostly quiet, now and then much slower: what a shared machine does.
    spiky = sum(
        bool(change_points([v * (3.0 if rng.random() < 0.15 else 1.0) for v in noisy(rng, 30, noise=0.03)]))
        for _ in range(TRIALS)
    )
    assert normal <= 3
    assert spiky <= 3


def test_a_change_of_a_third_is_found_where_it_is() -> None:
    """Under noise of 10 %, in nearly every series, within two runs of its place, with its size."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(TRIALS):
        changes = change_points([*noisy(rng, 12), *noisy(rng, 12, p50_us=500 * 1.35)])
        found += [c for c in changes if abs(c.index - 12) <= 2]
    assert len(found) >= 0.9 * TRIALS
    assert np.median([c.ratio for c in found]) == pytest.approx(1.35, rel=0.08)


def test_a_change_there_and_back_is_two_changes() -> None:
    """A slow release and its rollback."""
    rng = np.random.default_rng(3)
    values = [*noisy(rng, 10), *noisy(rng, 10, p50_us=1000), *noisy(rng, 10)]
    there, back = change_points(values)
    assert abs(there.index - 10) <= 1
    assert abs(back.index - 20) <= 1
    assert there.ratio * back.ratio == pytest.approx(1.0, rel=0.15)


def test_too_few_results_say_nothing() -> None:
    """However different they are."""
    assert change_points([]) == ()
    assert change_points([1.0] * LEAST_EACH_SIDE + [9.0] * (LEAST_EACH_SIDE - 1)) == ()
    assert [c.index for c in change_points([1.0] * LEAST_EACH_SIDE + [9.0] * LEAST_EACH_SIDE)] == [LEAST_EACH_SIDE]


def test_results_that_agree_to_a_hair_make_no_change_of_it() -> None:
    """A thousandth more is nothing, though a rank test alone would call it different."""
    assert change_points([500.0] * 10 + [500.5] * 10) == ()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_figure_is_refused(bad: float) -> None:
    """Rather than passed on to a logarithm."""
    with pytest.raises(ValueError, match="positive"):
        change_points([1.0, bad])
