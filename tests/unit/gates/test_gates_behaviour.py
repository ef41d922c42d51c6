"""Gates `behaviour` and `replay`: four verdicts, and none of them *passed* without data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from policyctl.domain.criterion import Criterion, judge
from policyctl.domain.verdict import Verdict
from policyctl.gates import behaviour, replay


@pytest.mark.parametrize(
    ("low", "high", "at_least", "verdict"),
    [
        (0.9, 1.0, True, Verdict.PASSED),
        (0.91, 1.0, True, Verdict.PASSED),
        (0.89, 1.0, True, Verdict.INCONCLUSIVE),
        (0.5, 0.9, True, Verdict.INCONCLUSIVE),
        (0.5, 0.89, True, Verdict.FAILED),
        (0.0, 0.9, False, Verdict.PASSED),
        (0.0, 0.91, False, Verdict.INCONCLUSIVE),
        (0.9, 0.95, False, Verdict.INCONCLUSIVE),
        (0.91, 0.95, False, Verdict.FAILED),
        (math.nan, 1.0, True, Verdict.INCONCLUSIVE),
        (0.95, math.inf, True, Verdict.INCONCLUSIVE),
        (None, None, True, Verdict.INCONCLUSIVE),
        (None, None, False, Verdict.INCONCLUSIVE),
    ],
)
def test_only_a_whole_interval_decides(low, high, at_least: bool, verdict: Verdict) -> None:
    """At the limit itself a figure is within it; what is unknown never passes."""
    estimate = None if low is None else 0.9
    assert Criterion("agreement", estimate, low, high, 0.9, at_least).verdict is verdict


def test_without_a_criterion_nothing_passes() -> None:
    """A gate that has nothing to hold a figure against cannot tell."""
    assert judge("replay", [], {}).verdict is Verdict.INCONCLUSIVE


def _judged(incumbent, candidate, margin: float = 10):
    seeds = range(len(incumbent))
    return behaviour.run("Env-v0", seeds, incumbent=list(incumbent), candidate=list(candidate), margin=margin)


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.0, Verdict.PASSED), (-3.0, Verdict.PASSED), (-20.0, Verdict.FAILED), (50, Verdict.PASSED)]
)
def test_a_return_far_from_the_margin_is_decided(shift: float, verdict: Verdict) -> None:
    """Ten may be lost: nothing, three and a gain pass; twenty fail."""
    rng = np.random.default_rng(1)
    incumbent = rng.normal(100, 30, 60)
    assert _judged(incumbent, incumbent + shift + rng.normal(0, 5, 60)).verdict is verdict


def test_a_return_too_close_to_the_margin_is_inconclusive() -> None:
    """An interval across the margin says neither."""
    rng = np.random.default_rng(2)
    incumbent = rng.normal(100, 30, 30)
    result = _judged(incumbent, incumbent - 10 + rng.normal(0, 30, 30))
    assert result.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("episodes", [0, 1, 2, behaviour.FEWEST_EPISODES - 1])
def test_few_episodes_never_pass(episodes: int) -> None:
    """However good they look."""
    returns = [500.0] * episodes
    assert _judged(returns, returns, 1000).verdict is Verdict.INCONCLUSIVE


def test_a_candidate_at_the_margin_passes_rarely_whatever_the_returns_look_like() -> None:
    """True loss equal to the margin: passed in at most 6 % of runs, for bounded, skewed and heavy-tailed returns."""
    draws = {
        "normal": lambda rng, n: rng.normal(0, 10, n),
        "skewed": lambda rng, n: 10 - rng.exponential(10, n),
        "mostly at a cap": lambda rng, n: np.where(rng.random(n) < 0.3, -7.0, 3.0),
    }
    for name, draw in draws.items():
        rng, passed = np.random.default_rng(3), 0
        for _ in range(150):
            incumbent = rng.normal(200, 50, 40)
            passed += _judged(incumbent, incumbent - 10 + draw(rng, 40)).verdict is Verdict.PASSED
        # 6 % of 150 is 9; 15 would be seen by chance less than once in 40 even then.
        assert passed <= 15, name


def _replay(**more):
    criteria = more.pop("criteria", [Criterion("agreement", 1.0, 0.99, 1.0, 0.9, at_least=True)])
    return replay.run(criteria, {"kept": 1}, **{"requests": 500, "reproduced": 1.0, **more})


def test_a_recording_within_limits_passes_with_its_evidence() -> None:
    """The figures and what they were held against are kept."""
    result = _replay()
    assert result.verdict is Verdict.PASSED
    assert result.evidence["kept"] == 1 and result.evidence["criteria"][0]["limit"] == 0.9
    assert _replay(reproduced=None).verdict is Verdict.PASSED


@pytest.mark.parametrize("requests", [0, 1, replay.FEWEST_REQUESTS - 1])
def test_a_short_recording_never_passes(requests: int) -> None:
    """A few observations say nothing about the rest."""
    assert _replay(requests=requests).verdict is Verdict.INCONCLUSIVE


def test_a_recording_that_its_own_release_cannot_reproduce_is_an_error() -> None:
    """Then the recording is wrong, and no verdict about the candidate is worth anything."""
    bad = [Criterion("agreement", 0.1, 0.0, 0.2, 0.9, at_least=True)]
    assert _replay(reproduced=0.5).verdict is Verdict.ERROR
    assert _replay(reproduced=0.5, criteria=bad).verdict is Verdict.ERROR


def test_the_worst_criterion_decides_and_is_named() -> None:
    """One figure beyond its limit is enough."""
    result = _replay(
        criteria=[
            Criterion("agreement", 1.0, 0.99, 1.0, 0.9, at_least=True),
            Criterion("rise of saturation", 0.5, 0.4, 0.6, 0.05, at_least=False),
            Criterion("rise of roughness", None, None, None, 0.05, at_least=False),
        ]
    )
    assert result.verdict is Verdict.FAILED
    assert "saturation" in result.reason and "agreement" not in result.reason
