"""Gates `parity` and `integrity`: four verdicts, each from what was really seen."""

from __future__ import annotations

import itertools
import json

import pytest
from world import World

from policyctl.domain.artifacts import Format
from policyctl.domain.verdict import Verdict, worst
from policyctl.gates import integrity, parity
from policyctl.services.moves.validate import validate


def _report(**formats: object) -> bytes:
    return json.dumps({"schema": 1, "formats": formats}).encode()


DIGESTS = {"model.onnx": "sha256:a", "model.xml": "sha256:b", "model.bin": "sha256:c"}


def _batches(*seen: tuple[object, object]) -> dict:
    return {"comparisons": [{"agrees": agrees, "rows": rows} for agrees, rows in seen], "files": DIGESTS}


GOOD = _batches((True, 5), (True, 64))
CASES = [
    (_report(onnx=GOOD), Verdict.PASSED, "onnx on 69 observations"),
    (_report(onnx=GOOD, openvino=_batches((False, 5))), Verdict.PASSED, "onnx"),  # not in this release
    (_report(onnx=_batches((True, 5), (False, 64))), Verdict.FAILED, "onnx did not agree"),
    (_report(onnx=_batches(("yes", 5))), Verdict.FAILED, "onnx did not agree"),
    (_report(onnx=_batches((1, 5))), Verdict.FAILED, "onnx did not agree"),
    (_report(onnx=_batches((None, 5))), Verdict.FAILED, "onnx did not agree"),
    (_report(), Verdict.INCONCLUSIVE, "onnx was not compared"),
    (_report(openvino=GOOD), Verdict.INCONCLUSIVE, "onnx was not compared"),
    (_report(onnx={"comparisons": [], "files": DIGESTS}), Verdict.INCONCLUSIVE, "onnx was not compared"),
    (_report(onnx=_batches((True, 0))), Verdict.INCONCLUSIVE, "onnx was not compared"),
    (_report(onnx=_batches((True, -5))), Verdict.INCONCLUSIVE, "onnx was not compared"),
    (_report(onnx={}), Verdict.ERROR, "comparisons"),
    (_report(onnx={"comparisons": {"1": GOOD}}), Verdict.ERROR, "cannot be read"),
    (_report(onnx={"comparisons": None}), Verdict.ERROR, "cannot be read"),
    (_report(onnx=[]), Verdict.ERROR, "cannot be read"),
    (_report(onnx=_batches((True, "many"))), Verdict.ERROR, "cannot be read"),
    (_report(onnx={"comparisons": [{"rows": 5}], "files": DIGESTS}), Verdict.ERROR, "agrees"),
    (_report(onnx={"comparisons": [{"agrees": True}], "files": DIGESTS}), Verdict.ERROR, "rows"),
    (_report(onnx=_batches((True, float("inf")))), Verdict.ERROR, "cannot be read"),
    (_report(onnx=_batches((True, float("nan")))), Verdict.ERROR, "cannot be read"),
    (b"", Verdict.ERROR, "cannot be read"),
    (b"{", Verdict.ERROR, "cannot be read"),
    (b"[]", Verdict.ERROR, "cannot be read"),
    (b"{}", Verdict.ERROR, "formats"),
    (b'{"formats": null}', Verdict.ERROR, "cannot be read"),
    (b'{"formats": "onnx"}', Verdict.ERROR, "cannot be read"),
    (b"\xff", Verdict.ERROR, "cannot be read"),
    (b"[" * 100_000, Verdict.ERROR, "cannot be read"),
]


@pytest.mark.parametrize(("content", "verdict", "said"), CASES, ids=range(len(CASES)))
def test_a_parity_report_gets_the_verdict_that_it_supports(content: bytes, verdict: Verdict, said: str) -> None:
    """A difference fails, what was not compared is inconclusive, what cannot be read is an error."""
    result = parity.run(content, formats=[Format.ONNX], digests=DIGESTS)
    assert result.verdict is verdict
    assert said in result.reason


def test_every_artifact_of_a_release_needs_its_comparison() -> None:
    """One that agrees does not stand for another; a disagreement outweighs an absence."""
    both = [Format.ONNX, Format.OPENVINO]
    assert parity.run(_report(onnx=GOOD), formats=both, digests=DIGESTS).verdict is Verdict.INCONCLUSIVE
    assert parity.run(_report(onnx=_batches((False, 1))), formats=both, digests=DIGESTS).verdict is Verdict.FAILED
    assert parity.run(_report(onnx=GOOD, openvino=GOOD), formats=both, digests=DIGESTS).verdict is Verdict.PASSED
    assert parity.run(_report(onnx=GOOD), formats=[], digests=DIGESTS).verdict is Verdict.INCONCLUSIVE


def test_a_report_speaks_of_the_bytes_that_were_compared_and_of_no_others() -> None:
    """An artifact that was exchanged after the comparison fails; a report that names no files is an error."""
    for path in ("model.xml", "model.bin"):
        result = parity.run(_report(openvino=GOOD), formats=[Format.OPENVINO], digests={**DIGESTS, path: "sha256:x"})
        assert result.verdict is Verdict.FAILED
        assert path in result.reason
    silent = {"comparisons": GOOD["comparisons"]}
    assert parity.run(_report(onnx=silent), formats=[Format.ONNX], digests=DIGESTS).verdict is Verdict.ERROR


def test_the_worst_verdict_wins_and_none_is_no_pass() -> None:
    """A gate that did not run has not passed."""
    assert worst(()) is Verdict.INCONCLUSIVE
    for found in itertools.product(Verdict, repeat=2):
        assert (worst(found) is Verdict.PASSED) == (set(found) == {Verdict.PASSED})
        assert worst(found) is worst(found[::-1])
    assert worst((Verdict.ERROR, Verdict.FAILED)) is Verdict.FAILED
    assert worst((Verdict.ERROR, Verdict.INCONCLUSIVE)) is Verdict.ERROR


def test_integrity_passes_the_published_bytes_alone(tmp_path, monkeypatch) -> None:
    """The gate's verdict is the reader's, with the digests as evidence; without it no other gate runs."""
    world = World(tmp_path, monkeypatch)
    world.publish("1.0.0", 1)
    passed, *_ = validate(world.control, model="walker", release="1.0.0")
    assert (passed.gate, passed.verdict, len(passed.evidence["files"])) == (integrity.NAME, Verdict.PASSED, 5)
    artifact = world.root / "walker" / "1" / "model.onnx"
    artifact.chmod(0o644)
    artifact.write_bytes(b"x")
    (failed,) = validate(world.control, model="walker", release="1.0.0")
    assert (failed.verdict, "model.onnx" in failed.reason) == (Verdict.FAILED, True)
    assert world.state.gates["walker", "1.0.0", integrity.NAME].verdict is Verdict.FAILED
