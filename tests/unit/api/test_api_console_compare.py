"""The page that puts two releases next to each other: it says what the repository knows of both, and nothing more."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from typing import Any

from bench_results import result_of
from console_browser import MODEL, Browser
from world import CONTRACT, WIDER

from policyctl.card.schema import Card
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.measuring.card_comparison import NOT_STATED, compare_cards
from policyctl.measuring.comparison import LIMITS
from policyctl.measuring.report import comparison_rows
from policyctl.services import kept_results
from policyctl.services.evidence import record_gate, record_measured
from policyctl.services.measure.results import compare as compare_results
from policyctl.services.moves.removal import unserve
from policyctl.services.rollout.promote import promote
from policyctl.services.show.two_releases import two_releases
from policyctl.serving.hardware import detect

EVIDENCE = {"file": "e.json", "digest": f"sha256:{'0' * 64}"}


def _text(page: Any) -> str:
    """What people read of a page."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page.text)).split())


def _card(release: str, returns: dict[str, tuple[float, float, float]], **more: Any) -> Card:
    """A full card with an evaluation in each environment: mean return, low and high end of its interval."""
    evaluation = [
        {
            "environment": environment,
            "episodes": 20,
            "first_seed": 1,
            "returns": {"mean": mean, "low": low, "high": high, "std": 1.0},
            "format": "onnx",
            "evidence": EVIDENCE,
        }
        for environment, (mean, low, high) in returns.items()
    ]
    about = {
        "model": "walker",
        "release": release,
        "slot": 1,
        "manifest_digest": f"sha256:{'1' * 64}",
        "published": "2026-11-20T10:00:00+00:00",
        "by": "alice@edge-7",
    }
    return Card.model_validate({"schema_version": 2, "evaluation": evaluation, "release": about, **more})


def _judged(api: Any, release: str, verdict: Verdict, reason: str) -> None:
    control = api.world.control
    published = control.repository.journal.state().release("walker", release)
    with control.repository.writer("test"):
        record_gate(control, published, GateResult("service_level", verdict, reason, {}))


def test_contracts_and_verdicts_stand_next_to_each_other(api) -> None:
    """What breaks is said first; each verdict leads to its evidence, and a gate that did not run has none."""
    api.world.publish("2.0.0", 3, contract=WIDER)
    _judged(api, "1.0.0", Verdict.PASSED, "fast enough")
    _judged(api, "2.0.0", Verdict.FAILED, "p99 is 9 ms")
    page = Browser(api, "promote").get(f"{MODEL}/compare?one=1.0.0&other=2.0.0")
    text = _text(page)
    assert "Clients of 1.0.0 cannot ask 2.0.0 unchanged." in text
    assert "observation observation had shape (3,), has (4,) (needs major)" in text
    assert "service_level passed fast enough" in text
    assert "failed p99 is 9 ms" in text
    row = next(row for row in page.text.split("<tr") if ">service_level<" in row)
    links = re.findall(r'href="([^"]+/evidence/[^"]+)"', row)
    found = [Browser(api).get(link).json() for link in links]
    assert [(each["release"], each["verdict"]) for each in found] == [("1.0.0", "passed"), ("2.0.0", "failed")]
    assert "did not run" in _text(Browser(api).get(f"{MODEL}/compare?one=1.1.0&other=2.0.0"))


def test_the_direction_counts(api) -> None:
    """What is added one way is taken away the other way."""
    more = replace(CONTRACT, outputs=(*CONTRACT.outputs, replace(CONTRACT.outputs[0], name="value")))
    api.world.publish("1.2.0", 3, contract=more)
    browser = Browser(api)
    forth = browser.get(f"{MODEL}/compare?one=1.0.0&other=1.2.0")
    assert "Clients of 1.0.0 can ask 1.2.0 unchanged." in _text(forth)
    (swap,) = re.findall(r'href="([^"]+)">Swap', forth.text)
    assert "Clients of 1.2.0 cannot ask 1.0.0 unchanged." in _text(browser.get(unescape(swap)))
    assert "The contracts of 1.0.0 and 1.1.0 are the same." in _text(
        browser.get(f"{MODEL}/compare?one=1.0.0&other=1.1.0")
    )


def test_without_names_what_production_serves_is_compared_with_the_latest(api) -> None:
    """Ranges and aliases select, as everywhere; pages of the model, of a release and of a promotion lead there."""
    browser = Browser(api, "promote")
    assert "From 1.0.0 to 1.1.0" in _text(browser.get(f"{MODEL}/compare"))
    assert "From 1.0.0 to 1.1.0" in _text(browser.get(f"{MODEL}/compare?one=production&other=^1.0"))
    plan = browser.send(f"{MODEL}/promote", release="1.1.0", alias="production")
    for page in (browser.get(MODEL), browser.get(f"{MODEL}/releases/1.1.0"), plan):
        (link,) = set(re.findall(r'href="([^"]+/compare[^"]*)"', page.text))
        assert "From 1.0.0 to 1.1.0" in _text(browser.get(unescape(link)))


def test_where_production_serves_the_latest_it_is_compared_with_the_release_before(api) -> None:
    """Of two equal sides nobody learns anything; the trail of production says what came before, else the slots."""
    browser = Browser(api, "promote")
    api.world.publish("1.2.0", 3)
    promote(api.world.control, model="walker", release="1.2.0", alias="production")
    assert "From 1.0.0 to 1.2.0" in _text(browser.get(f"{MODEL}/compare"))
    unserve(api.world.control, model="walker", alias="production")
    assert "From 1.1.0 to 1.2.0" in _text(browser.get(f"{MODEL}/compare"))


def test_an_unknown_release_is_refused_on_the_form(api) -> None:
    """It stays filled in, and says which releases there are."""
    page = Browser(api).get(f"{MODEL}/compare?one=1.0.0&other=9.9.9")
    assert (page.status_code, "Published releases: 1.0.0, 1.1.0" in page.text) == (422, True)
    assert 'name="other" value="9.9.9"' in page.text
    assert Browser(api).get("/ui/models/nobody/compare").status_code == 404


def test_a_card_that_cannot_be_shown_hides_nothing_else(api) -> None:
    """Contracts and verdicts come from the journal."""
    card = api.world.root / "walker" / "2" / "model_card.yaml"
    card.parent.chmod(0o755)
    card.chmod(0o644)
    card.write_text("changed")
    text = _text(Browser(api).get(f"{MODEL}/compare?one=1.0.0&other=1.1.0"))
    assert "The card of 1.1.0 cannot be shown" in text
    assert "The contracts of 1.0.0 and 1.1.0 are the same." in text


def test_what_was_measured_of_both_comes_from_their_evidence(api) -> None:
    """Also what no gate judged; of several measurements of one release the last counts."""
    control = api.world.control
    for release, mean in (("1.0.0", 1.0), ("1.1.0", 5.0), ("1.1.0", 2.0)):
        published = control.repository.journal.state().release("walker", release)
        with control.repository.writer("test"):
            record_measured(control, published, "evaluation", _evaluation(mean))
    found = two_releases(control, model="walker", one="1.0.0", other="1.1.0")
    (pair,) = (pair for pair in found.evidence if pair.what == "evaluation")
    assert pair.other is not None
    last = json.loads((control.repository.control / pair.other.file).read_bytes())
    assert last["evidence"]["served"]["returns"] == [1.0, 3.0]
    assert found.cards is not None
    one, other = found.cards.earned["Walker-v1"]
    assert (one.evaluation.returns.mean, other.evaluation.returns.mean) == (1.0, 2.0)
    text = _text(Browser(api).get(f"{MODEL}/compare?one=1.0.0&other=1.1.0"))
    assert "1.1.0, onnx: mean 2, 95 % interval 1 .. 3, 2 episodes" in text


def _evaluation(mean: float) -> dict[str, Any]:
    """What `policyctl evaluate` keeps."""
    served = {
        "returns": [mean - 1.0, mean + 1.0],
        "seeds": [1, 2],
        "lengths": [10, 10],
        "mean": {"low": mean - 1.0, "high": mean + 1.0, "confidence": 0.95},
    }
    return {"env": "Walker-v1", "format": "onnx", "served": served}


def test_kept_benchmarks_are_compared_as_results_compare_does(api) -> None:
    """The last of each release on this machine, with what cannot be concluded from it; else why there is no such."""
    control, machine = api.world.control, detect().fingerprint
    path = f"{MODEL}/compare?one=1.0.0&other=1.1.0"
    assert f"Nothing is kept of walker 1.0.0 on this machine ({machine})." in _text(Browser(api).get(path))
    kept_results.keep(control.repository, result_of(500.0, fingerprint=machine, release="1.0.0"))
    kept_results.keep(control.repository, result_of(250.0, fingerprint=machine, release="1.1.0", format="onnx"))
    page = Browser(api).get(path)
    text = _text(page)
    assert LIMITS in text
    assert "different format: openvino and onnx." in text
    found = compare_results(control, "walker@1.0.0", "walker@1.1.0")
    for row in comparison_rows(found):
        assert " ".join(row) in text
    assert any(row.metric == "p50_us" and row.ratio == 0.5 for row in found.rows)


def test_the_intervals_of_both_are_drawn_on_one_scale() -> None:
    """The one that earned more lies further right, and equal figures at the same place."""
    first = _card("1.0.0", {"A": (1.0, 0.0, 2.0), "B": (1.0, 1.0, 1.0)})
    second = _card("1.1.0", {"A": (3.0, 2.0, 4.0), "C": (1.0, 1.0, 1.0)})
    found = compare_cards(first, second)
    assert list(found.earned) == ["A"], "only what both were evaluated in can be compared"
    one, other = found.earned["A"]
    assert (one.low, one.high, other.high) == (4.0, other.low, 96.0)
    same = compare_cards(first, _card("1.1.0", {"B": (1.0, 1.0, 1.0)}))
    assert {(each.low, each.mean, each.high) for each in same.earned["B"]} == {(50.0, 50.0, 50.0)}


def test_returns_of_different_artifacts_are_not_drawn_next_to_each_other() -> None:
    """Each artifact has the line of the same one of the other release, and says which it is."""
    both = _card("1.0.0", {"A": (100.0, 99.0, 101.0)})
    tensorrt = both.evaluation[0].model_copy(
        update={"format": "tensorrt", "returns": both.evaluation[0].returns.model_copy(update={"mean": 20.0})}
    )
    both = both.model_copy(update={"evaluation": [*both.evaluation, tensorrt]})
    found = compare_cards(both, _card("1.1.0", {"A": (90.0, 89.0, 91.0)}))
    assert [each.words.partition(", 95")[0] for each in found.earned["A"]] == [
        "1.0.0, onnx: mean 100",
        "1.1.0, onnx: mean 90",
    ]


def test_only_what_differs_is_shown_of_the_rest() -> None:
    """A figure that one of them does not state is not stated; what is the same is named."""
    one = _card("1.0.0", {}, licence="MIT", training={"algorithm": "PPO", "steps": 10})
    other = _card("1.1.0", {}, licence="MIT", training={"algorithm": "PPO", "seed": 7})
    found = compare_cards(one, other)
    (training,) = found.sections
    assert [(row.what, row.one, row.other) for row in training.rows] == [
        ("steps", "10", NOT_STATED),
        ("seed", NOT_STATED, "7"),
    ]
    assert found.same == ("Provenance",)
