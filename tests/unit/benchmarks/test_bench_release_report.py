"""What is said of two commits: verdicts, exit codes and reports; nothing is measured."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import against_release
from policyctl.domain.artifacts import Format
from policyctl.domain.paired import Burst, Order, Round
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import UsageError
from policyctl.gates.non_inferiority import Plan, judge
from policyctl_benchmarks.checkouts import CheckoutError
from policyctl_benchmarks.release_report import Compared, Comparison, Way, markdown, page
from release_pair import NothingToCompareError, Options, Pair

WAY = Way(Format.OPENVINO, 1)
PASSED, FAILED, INCONCLUSIVE, ERROR = Verdict.PASSED, Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.ERROR


def said(*verdicts: Verdict) -> Compared:
    """What attempts with these verdicts come to."""
    return Compared(WAY, tuple(GateResult("g", v, f"reason {n}") for n, v in enumerate(verdicts)))


@pytest.mark.parametrize(
    ("attempts", "verdict"),
    [
        ((PASSED,), PASSED),
        ((INCONCLUSIVE,), INCONCLUSIVE),
        ((ERROR,), ERROR),
        ((FAILED, FAILED), FAILED),
        ((FAILED,), INCONCLUSIVE),
        ((FAILED, PASSED), INCONCLUSIVE),
        ((FAILED, INCONCLUSIVE), INCONCLUSIVE),
        ((FAILED, ERROR), ERROR),
    ],
)
def test_a_way_is_failed_only_where_it_failed_twice(attempts: tuple[Verdict, ...], verdict: Verdict) -> None:
    """And one failure is never a pass either; the reason tells of both attempts."""
    found = said(*attempts)
    assert found.verdict is verdict
    assert "reason 0" in found.reason or verdict is ERROR
    assert len(attempts) == 1 or f"reason {len(attempts) - 1}" in found.reason


def test_the_worst_of_all_ways_is_the_verdict_and_nothing_is_no_pass() -> None:
    """With the reasons of those ways that decided it."""
    assert Comparison(base="", candidate="x").verdict is INCONCLUSIVE
    mixed = Comparison(base="a", candidate="b", compared=(said(PASSED), said(FAILED, FAILED), said(INCONCLUSIVE)))
    assert mixed.verdict is FAILED
    assert "reason 1" in mixed.reason
    stopped = Comparison(base="a", candidate="b", stopped=GateResult("g", ERROR, "it does not serve"))
    assert (stopped.verdict, stopped.reason) == (ERROR, "it does not serve")


def result(slower: float) -> GateResult:
    """The gate's own verdict on rounds with a known slow-down."""
    rng = np.random.default_rng(1)

    def burst(level: float) -> Burst:
        level *= float(np.exp(rng.normal(0, 0.01)))
        return Burst(500 * level, 700 * level, 900 * level, 1800 / level, 600)

    rounds = [
        Round(Order.ABBA, (burst(1), burst(1)), (burst(slower), burst(slower)), 1.7 * n, 1.7 * (n + 1))
        for n in range(35)
    ]
    found = judge(rounds, Plan(), is_over=True)
    assert found is not None
    return found


def test_a_report_holds_every_figure_and_can_be_read_back() -> None:
    """Markdown and the page show the slow-down, its interval and its margin; JSON holds every burst."""
    compared = Compared(WAY, (result(1.2), result(1.2)))
    found = Comparison(
        base="v0.1.0 (abc)",
        candidate="def <b>",
        compared=(compared, Compared(Way(Format.ONNX, 8), (result(1.0),))),
        cautions=("pinned versions differ",),
        figures={"switch of a promotion, ms": (40.0, 60.0)},
        context={"machine": "m: EPYC"},
    )
    text = markdown(found)
    assert text.startswith("# def <b> beside v0.1.0 (abc): failed\n")
    assert "| openvino:1 (started anew) | p50 | 50" in text
    assert "| onnx:8 | throughput | 1" in text
    assert "| switch of a promotion, ms | 40 | 60 |" in text
    assert "caution: pinned versions differ" in text
    document = json.loads(json.dumps(found.to_json()))
    rounds = document["compared"][0]["attempts"][0]["evidence"]["rounds"]
    assert judge([Round.from_json(r) for r in rounds], Plan(), is_over=True).verdict is FAILED
    shown = page(found)
    assert "def &lt;b&gt;" in shown
    assert shown.count("<svg") == 3
    assert "<script" not in shown


def test_a_report_of_nothing_says_why() -> None:
    """No table, no plot, and the reason."""
    found = Comparison(base="", candidate="x", stopped=GateResult("g", INCONCLUSIVE, "there is no release"))
    assert "there is no release." in markdown(found)
    assert "|" not in markdown(found)
    assert "there is no release." in page(found)


@pytest.mark.parametrize("text", ["", "openvino:0", "openvino:some", "wasm:1", "openvino:1:2", "onnx:5000"])
def test_a_way_that_is_none_is_refused(text: str) -> None:
    """With those that there are."""
    with pytest.raises(UsageError, match="no way to ask") as caught:
        Way.parse(text)
    assert "openvino:1" in caught.value.remedy
    assert Way.parse("openvino:8") == Way(Format.OPENVINO, 8)
    assert Way.parse("onnx") == Way(Format.ONNX, 1)


@pytest.mark.parametrize(
    ("compared", "code"), [((PASSED,), 0), ((INCONCLUSIVE,), 0), ((FAILED,), 0), ((FAILED, FAILED), 4), ((ERROR,), 1)]
)
def test_only_failed_and_broken_are_told_by_the_exit_code(monkeypatch, capsys, tmp_path, compared, code) -> None:
    """Inconclusive is no failure; the report is there in any case, and the verdict on stderr."""
    found = Comparison(base="v0.1.0", candidate="x", compared=(said(*compared),))
    monkeypatch.setattr(against_release, "run", lambda _: found)
    monkeypatch.setattr(sys, "argv", ["against_release.py", "--report", str(tmp_path / "deep" / "er"), "--json"])
    assert against_release.main() == code
    printed = capsys.readouterr()
    assert json.loads(printed.out)["verdict"] == found.verdict
    assert f"{found.verdict.upper()}: " in printed.err
    assert sorted(p.name for p in (tmp_path / "deep" / "er").iterdir()) == [
        "compare.html",
        "compare.json",
        "compare.md",
    ]


def test_without_a_release_it_says_so_and_does_not_fail(monkeypatch, capsys, tmp_path) -> None:
    """With what to do about it."""

    def none(root: Path, given: str) -> tuple[str, str]:
        raise NothingToCompareError("there is no release to compare with; --base REF")

    monkeypatch.setattr(against_release, "base_of", none)
    monkeypatch.setattr(sys, "argv", ["against_release.py", "--report", str(tmp_path)])
    assert against_release.main() == 0
    assert "INCONCLUSIVE: there is no release to compare with; --base REF" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"limit_s": 100.0}, {"seconds": 0.0}, {"seconds": float("nan")}])
def test_a_time_that_cannot_do_is_refused_before_anything_is_built(wrong: dict[str, float]) -> None:
    """Two ways, one of them again, and the preparation need more."""
    given = {"base": "", "ways": (WAY, Way(Format.ONNX, 1)), "seconds": 40.0, "limit_s": 290.0, "slow_us": 0}
    Options(**given, moves=0, seed=0, say=print)
    with pytest.raises(UsageError, match="too few"):
        Options(**{**given, **wrong}, moves=0, seed=0, say=print)


ONNX = Way(Format.ONNX, 1)


def pair(tmp_path: Path, verdicts: dict[Way, list[Verdict]], *, broken: str = "", left_s: float = 300.0) -> Pair:
    """Two sides that give these verdicts, one after the other; one of them may not start anew."""

    def side(name: str) -> SimpleNamespace:
        def start_anew() -> None:
            if name == broken:
                raise CheckoutError(f"{name} cannot be started anew")

        return SimpleNamespace(name=name, repository=tmp_path, start_anew=start_anew)

    options = Options(
        base="", ways=tuple(verdicts), seconds=20.0, limit_s=290.0, slow_us=0, moves=0, seed=0, say=lambda _: None
    )
    made = Pair(options, side("base"), side("this tree"), time.monotonic() + left_s)
    made._measure = lambda way: GateResult("g", verdicts[way].pop(0), "measured")  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize(
    ("verdicts", "broken", "found"),
    [
        ({WAY: [PASSED], ONNX: [PASSED]}, "", [PASSED, PASSED]),
        ({WAY: [FAILED, FAILED], ONNX: [PASSED]}, "", [FAILED, PASSED]),
        ({WAY: [FAILED, PASSED], ONNX: [FAILED, FAILED]}, "", [INCONCLUSIVE, FAILED]),
        ({WAY: [FAILED, FAILED], ONNX: [FAILED]}, "", [FAILED, INCONCLUSIVE]),
        ({WAY: [FAILED], ONNX: [PASSED]}, "base", [INCONCLUSIVE, PASSED]),
        ({WAY: [FAILED], ONNX: [PASSED]}, "this tree", [ERROR, PASSED]),
    ],
)
def test_what_failed_is_measured_once_more_until_one_is_proved(tmp_path, verdicts, broken, found) -> None:
    """Every way is measured; a side that does not come back is told by whose it is."""
    assert [each.verdict for each in pair(tmp_path, verdicts, broken=broken).judge()] == found
    assert not any(verdicts.values())


def test_without_time_to_measure_again_a_failure_is_not_called_one(tmp_path) -> None:
    """And without time to measure at all, nothing is."""
    slow = pair(tmp_path, {WAY: [FAILED]}, left_s=60.0)
    measure = slow._measure

    def measure_slowly(way: Way) -> GateResult:
        slow._until -= 35.0
        return measure(way)

    slow._measure = measure_slowly  # type: ignore[method-assign]
    (one,) = slow.judge()
    assert (one.verdict, len(one.attempts)) == (INCONCLUSIVE, 1)
    assert "no time to see" in one.reason
    with pytest.raises(NothingToCompareError, match="too long"):
        tuple(pair(tmp_path, {WAY: [FAILED]}, left_s=45.0).judge())
