"""Replays of recorded rounds: what they count, and what they refuse."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from policyctl.domain.json_values import to_json
from policyctl.domain.paired import Burst, Order, Round
from policyctl.domain.state import State
from policyctl.domain.verdict import Verdict
from policyctl.errors import ServerError, UsageError
from policyctl.gates.non_inferiority import ComparisonPlan
from policyctl.services.control import Control
from policyctl.services.experiments import calibrate
from policyctl.services.experiments.calibrate import Calibration, Run, recalibrate, replay, save, tally
from policyctl.settings import load

PLAN = ComparisonPlan()


def recorded(seed: int, *, noise: float = 0.04) -> Run:
    """A live A/A run of 35 rounds on a machine with that much noise."""
    rng = np.random.default_rng(seed)

    def burst() -> Burst:
        level, tail = math.exp(rng.normal(0, noise)), math.exp(rng.normal(0, 2 * noise))
        return Burst(500 * level, 700 * level, 900 * level * tail, 1800 / level, 600)

    rounds = tuple(Round(Order.ABBA, (burst(), burst()), (burst(), burst()), 1.7 * i, 1.7 * (i + 1)) for i in range(35))
    return Run(rounds)


def replayed(runs: list[Run], changes: tuple[float, ...], replays: int = 60):
    found = Calibration("walker", "1.0.0", PLAN, 1, tuple(runs), (), {}, "2026-01-01T00:00:00+00:00")
    rng = np.random.default_rng(0)
    return replay(found, replays=replays, rng=rng, progress=lambda _: None, changes=changes).replays


def test_replays_of_equal_models_fail_almost_never_and_a_slow_down_is_found() -> None:
    """None of 200 without one, at least 95 % with 12 %; a large one is found at an earlier look."""
    same, slower, large = replayed([recorded(1), recorded(2), recorded(3)], (0.0, 0.12, 0.5), 200)
    assert same.counts[Verdict.FAILED] <= 2
    assert slower.rate(Verdict.FAILED) >= 0.95
    assert large.decided_s < slower.decided_s


def test_a_replay_is_as_long_as_the_gate() -> None:
    """Each fills the time cap and no more, whatever the length of the recorded run."""
    (short,) = replayed([Run(recorded(1).rounds[:8])], (0.0,), 20)
    assert 0.0 < short.decided_s <= PLAN.time_cap_s


def test_nothing_recorded_gives_no_replays() -> None:
    """No rate is made up from nothing."""
    assert replayed([], (0.0,)) == ()
    assert replayed([Run(())], (0.0,)) == ()


def test_the_smallest_change_that_is_seen_is_seen_from_there_on() -> None:
    """A lucky small one below a missed larger one does not count."""
    counts = [(0.05, 96), (0.1, 90), (0.15, 95), (0.2, 100)]
    tallies = tuple(
        tally([(Verdict.FAILED, 1.0)] * n + [(Verdict.PASSED, 1.0)] * (100 - n), change=c) for c, n in counts
    )
    found = Calibration("walker", "1.0.0", PLAN, 1, (recorded(1),), tallies, {}, "2026-01-01T00:00:00+00:00")
    assert found.smallest_seen == 0.15


def test_saved_rounds_are_judged_again_by_other_settings(tmp_path) -> None:
    """What was recorded once can be asked what another margin would have said; nothing is measured."""
    runs = (recorded(1), recorded(2))
    path = tmp_path / "calibration.json"
    save(Calibration("walker", "1.0.0", PLAN, 1, runs, (), {"words": "m"}, "2026-01-01T00:00:00+00:00"), path)
    gates = {"non_inferiority": {"p50": 0.001, "p99": 0.001, "throughput": 0.001}}
    for given, wanted in ((None, Verdict.PASSED), (gates, Verdict.INCONCLUSIVE)):
        control = Control.of(load(repository=tmp_path, gates=given))
        again = recalibrate(control, path, replays=0, seed=0, progress=lambda _: None)
        assert [result.verdict for result, _ in again.judged] == [wanted] * 2
        assert again.live == runs


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"recorded": []}), json.dumps({"recorded": [{}]})])
def test_a_file_without_recorded_runs_is_refused(tmp_path, content) -> None:
    """It is named, and so is the option that writes one."""
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="holds no recorded runs"):
        recalibrate(Control.of(load(repository=tmp_path)), path, replays=1, seed=0, progress=lambda _: None)


@pytest.fixture
def measured(monkeypatch, tmp_path) -> list[str]:
    """Live runs that cost nothing, and the list of their releases."""
    asked: list[str] = []

    def against_itself(_control, _model, _alias, release, _plan, _rng) -> Run:
        if len(asked) == 2:
            raise ServerError("the server died")
        asked.append(release)
        return recorded(len(asked))

    named = SimpleNamespace(placement=SimpleNamespace(release="1.0.0"))
    monkeypatch.setattr(calibrate, "_against_itself", against_itself)
    monkeypatch.setattr(State, "named", lambda *_: named)
    return asked


def calibrated(tmp_path, live: int, **settings) -> Calibration:
    control = Control.of(load(repository=tmp_path, **settings))
    path = tmp_path / "calibration.json"
    return calibrate.calibrate(
        control, model="walker", alias="staging", live=live, replays=0, seed=0, progress=lambda _: None, path=path
    )


def test_what_was_measured_before_the_server_died_is_not_measured_again(tmp_path, measured) -> None:
    """Two of three runs are in the file; the same command measures the third alone."""
    with pytest.raises(ServerError):
        calibrated(tmp_path, 3)
    kept = json.loads((tmp_path / "calibration.json").read_text())["recorded"]
    assert len(kept) == 2
    measured[:] = []
    found = calibrated(tmp_path, 3)
    assert len(measured) == 1
    assert to_json(found.live[:2]) == kept
    assert len(found.live) == 3


def test_runs_of_another_plan_are_not_mixed_in(tmp_path, measured) -> None:
    """A file that holds runs under other margins is refused and stays as it is."""
    calibrated(tmp_path, 1)
    before = (tmp_path / "calibration.json").read_bytes()
    with pytest.raises(UsageError, match="another plan"):
        calibrated(tmp_path, 2, gates={"non_inferiority": {"p50": 0.2}})
    assert (tmp_path / "calibration.json").read_bytes() == before
