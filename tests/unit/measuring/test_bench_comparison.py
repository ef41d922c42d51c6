"""Two results compared: what is said, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from bench_results import points_of, result_of

from policyctl.errors import UsageError
from policyctl.measuring.comparison import LIMITS, Standing, compare, drift_of


def test_ratios_are_the_second_over_the_first() -> None:
    """Latency up and throughput down, at every point that both have."""
    found = compare(result_of(500.0), result_of(750.0, release="1.1.0"))
    ratios = {row.metric: row.ratio for row in found.rows}
    assert ratios == pytest.approx({"p50_us": 1.5, "p99_us": 1.5, "throughput_per_s": 1 / 1.5})
    assert len(found.rows) == 6
    assert LIMITS in found.to_json()["limits"]


def test_without_a_second_run_of_a_release_nothing_is_said_of_a_difference() -> None:
    """However large it is: two runs cannot tell a release from a mood."""
    found = compare(result_of(500.0), result_of(5000.0, release="1.1.0"))
    assert {row.standing for row in found.rows} == {Standing.UNKNOWN}


def test_a_difference_is_held_against_what_one_release_differs_by() -> None:
    """Runs of 1.0.0 differed by 1.4 here, so 1.3 is nothing and 1.5 is more."""
    first, again = result_of(500.0), result_of(700.0)
    for slower, standing in ((650.0, Standing.WITHIN), (750.0, Standing.BEYOND), (300.0, Standing.BEYOND)):
        found = compare(first, result_of(slower, release="1.1.0"), peers=(again, first))
        assert {row.standing for row in found.rows} == {standing}
        assert {round(row.drift or 0, 9) for row in found.rows} == {1.4}


@pytest.mark.parametrize("seed", range(20))
def test_two_runs_of_one_release_are_never_beyond_their_own_drift(seed: int) -> None:
    """Whichever comes first, and whatever the last digit of a quotient is."""
    one, other = (result_of(value) for value in np.random.default_rng(seed).uniform(300, 900, 2))
    for first, second in ((one, other), (other, one)):
        assert {row.standing for row in compare(first, second).rows} == {Standing.WITHIN}


@pytest.mark.parametrize(
    "changes", [{"release": "1.1.0"}, {"format": "onnx"}, {"settings": {"instances": 2}}, {"model": "other"}], ids=str
)
def test_drift_is_read_from_runs_that_differ_in_nothing_but_time(changes: dict[str, object]) -> None:
    """Not from another release, format, setting or model; nor from one result twice."""
    (point, *_) = result_of().by_point()
    assert drift_of([result_of(500.0), result_of(900.0, **changes)], point, "p50_us") is None
    assert drift_of([result_of(), result_of()], point, "p50_us") is None
    assert drift_of([result_of(500.0), result_of(900.0)], point, "p50_us") == pytest.approx(1.8)


def test_different_machines_are_refused_unless_forced() -> None:
    """With what they differ in; forced, it is a caution."""
    other = result_of(fingerprint="b" * 12, identity={"cpu_model": "Another CPU", "cores": 2.0})
    with pytest.raises(UsageError, match="cpu_model: Some CPU and Another CPU"):
        compare(result_of(), other)
    assert any("different machines" in words for words in compare(result_of(), other, force=True).cautions)


def test_results_without_a_common_point_are_refused() -> None:
    """And points that only one has are named."""
    with pytest.raises(UsageError, match="no point in common"):
        compare(result_of(), result_of(points=points_of(clients=(4,))))
    found = compare(result_of(), result_of(points=points_of(clients=(1, 4))))
    assert ([p.level for p in found.only_one], [p.level for p in found.only_other]) == ([8], [4])


def test_whatever_else_differs_is_a_caution() -> None:
    """Versions, settings, format, and a machine that others kept busy."""
    other = result_of(versions={"openvino": "2027.0"}, settings={"instances": 2}, format="onnx", busy_percent=80.0)
    words = " ".join(compare(result_of(), other).cautions)
    assert all(part in words for part in ("openvino: 2026.4.1 and 2027.0", "instances: 1 and 2", "onnx", "80 % busy"))
    assert compare(result_of(500.0), result_of(600.0)).cautions == ()
