"""A figure counts only with its evidence: in a card that is published, and in one that is shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_results import result_of
from card_world import FakeClient, write_card_export
from world import CONTRACT, World, write_export

from policyctl.card.check import agrees
from policyctl.card.reading import parse
from policyctl.documents.yaml_text import dump
from policyctl.domain.artifacts import CARD_FILE
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import ServerError, UsageError
from policyctl.measuring.environments import Environment
from policyctl.services import kept_results
from policyctl.services.cards import full_card as cards
from policyctl.services.cards.check import check_file, check_folder, check_release
from policyctl.services.cards.citing import cite
from policyctl.services.cards.draft import draft
from policyctl.services.control import open_release
from policyctl.services.evidence import record_gate
from policyctl.services.integrity.verify import verify
from policyctl.services.measure import evaluate as measure
from policyctl.services.measure.evaluate import evaluate
from policyctl.services.measure.performance import limits_of
from policyctl.services.releases.publish import publish
from policyctl.services.rollout.promote import promote

ENV = "Pendulum-v1"


@pytest.fixture
def served(tmp_path, monkeypatch) -> World:
    """Release 1.0.0 in production, with a card, and a client that asks nobody."""
    return _served(tmp_path, monkeypatch)


def _served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(folder, monkeypatch)
    monkeypatch.setattr(measure, "PolicyClient", FakeClient)
    monkeypatch.setattr(FakeClient, "releases", ("1.0.0",))
    source = write_card_export(world.folder / "first", 1)
    publish(world.control, source, model="walker", release="1.0.0")
    promote(world.control, model="walker", release="1.0.0", alias="production")
    return world


def _evaluate(world: World, **kwargs: Any):
    return evaluate(world.control, model="walker", alias="production", env=Environment(ENV), episodes=2, **kwargs)


def _service_level(world: World) -> None:
    """Evidence as the gate leaves it."""
    burst = {"p50_us": 500.0, "p95_us": 700.0, "p99_us": 900.0, "throughput_per_s": 2000.0, "request_count": 100}
    burst |= {"failed_requests": 0, "delayed_percent": 0.0}
    late = {**burst, "p50_us": 9999.0, "delayed_percent": 50.0}
    machine = {"fingerprint": "0123456789ab", "cpu_model": "Some CPU", "usable_cores": 2, "logical_cores": 2}
    evidence = {
        "limits": {"batch_size": 1, "rate": 1000.0, "clients": 8},
        "latency": [burst, {**burst, "p50_us": 520.0}, {**burst, "p50_us": 540.0}, late],
        "throughput": [burst] * 3,
        "memory_mb": 94.5,
        "machine": machine,
        "candidate": {"format": "onnx"},
    }
    published = world.control.repository.journal.state().release("walker", "1.0.0")
    with world.control.repository.writer("test"):
        record_gate(world.control, published, GateResult("service_level", Verdict.PASSED, "fine", evidence))


def test_an_evaluation_that_is_kept_stands_in_the_full_card(served: World) -> None:
    """Returns with interval and episodes, and what the actions looked like, with file and digest of the evidence."""
    assert _evaluate(served).evidence == ""
    before = len(served.control.repository.journal.records())
    found = _evaluate(served, keep=True)
    assert len(served.control.repository.journal.records()) == before + 1
    card = cards.full(served.control, model="walker", release="1.0.0")
    (entry,) = card.evaluation
    assert entry.environment == ENV
    assert (entry.episodes, entry.first_seed, entry.format) == (2, 0, "onnx")
    assert entry.returns.mean == pytest.approx(found.served.returns.mean(), rel=1e-5)
    assert entry.returns.std == pytest.approx(found.served.returns.std(), rel=1e-5)
    assert entry.returns.low <= entry.returns.mean <= entry.returns.high
    golden, acted = card.behaviour
    assert golden.evidence.file == "golden.npz"
    assert (acted.rows, acted.pairs) == (400, 398)
    # 0 and 1 in turn within -1 .. 1: at a bound half of the time, half of the range each step.
    assert acted.saturation == 0.5
    assert acted.roughness == 0.5
    for each in (entry, acted):
        kept = served.control.repository.control / each.evidence.file
        assert str(kept) == found.evidence
        assert cards.digest_of(kept.read_bytes()) == each.evidence.digest
        assert each.evidence.kept_in == "journal"


def test_a_release_of_one_row_is_evaluated_row_by_row(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more episodes run at once than the server takes rows of one request."""
    monkeypatch.setattr(FakeClient, "max_batch", 1)
    found = _evaluate(served)
    assert found.served.lengths.tolist() == [200, 200]


def test_an_evaluation_of_two_releases_is_not_kept(served: World, monkeypatch) -> None:
    """If the alias moves meanwhile the return is of no one release: refused, and the journal is as it was."""
    monkeypatch.setattr(FakeClient, "releases", ("1.0.0", "1.1.0"))
    before = served.control.repository.journal.records()
    with pytest.raises(ServerError, match=r"1\.0\.0, 1\.1\.0 answered"):
        _evaluate(served, keep=True)
    assert served.control.repository.journal.records() == before


def test_performance_stands_by_machine_with_its_evidence(served: World) -> None:
    """Of a gate the median of the bursts that held their rate; of a benchmark each point; each names its file."""
    _service_level(served)
    kept_results.keep(served.control.repository, result_of(fingerprint="fedcba987654", format="onnx"))
    kept_results.keep(served.control.repository, result_of(release="9.9.9"))
    card = cards.full(served.control, model="walker", release="1.0.0")
    opened, closed, one, eight = card.performance
    assert opened.latency_us.p50 == 520.0
    assert opened.load == "grpc, batch 1, 1000 requests/s (open loop)"
    assert closed.throughput_per_s == 2000.0
    assert {opened.memory_mb, closed.memory_mb} == {94.5}
    assert {e.machine.fingerprint for e in (opened, closed)} == {"0123456789ab"}
    assert {e.machine.fingerprint for e in (one, eight)} == {"fedcba987654"}
    assert one.memory_mb == 94.0
    assert one.evidence.kept_in == "bench"
    assert [g.gate for g in card.release.gates] == ["golden", "integrity", "parity", "service_level"]


@pytest.mark.parametrize("spoil", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes().replace(b"0", b"1"))])
def test_evidence_that_was_changed_supports_nothing(served: World, spoil: Callable[[Path], Any]) -> None:
    """A figure whose evidence is missing or edited is not shown; the card and `verify` say so."""
    found = _evaluate(served, keep=True)
    path = Path(found.evidence)
    spoil(path)
    card = cards.full(served.control, model="walker", release="1.0.0")
    assert card.evaluation == []
    assert len(card.behaviour) == 1
    (words,) = card.release.problems
    assert path.name in words
    assert any(path.name in f.what and not f.intact for f in verify(served.control))


def test_a_changed_benchmark_supports_nothing(served: World) -> None:
    """A kept result whose id is not that of its content is reported, not shown."""
    path = kept_results.keep(served.control.repository, result_of())
    path.write_bytes(path.read_bytes().replace(b'"p50_us":500.0', b'"p50_us":400.0'))
    card = cards.full(served.control, model="walker", release="1.0.0")
    assert card.performance == []
    assert "was changed" in card.release.problems[0]


def test_a_release_is_published_with_the_figures_of_one_with_the_same_artifacts(served: World) -> None:
    """Measured once, cited, published: the evidence travels with the release, and the check accepts it."""
    _evaluate(served, keep=True)
    _service_level(served)
    folder = write_card_export(served.folder / "second", 1)
    before = (folder / CARD_FILE).read_bytes()
    planned = cite(served.control, folder, model="walker", release="1.0.0", dry_run=True)
    assert (folder / CARD_FILE).read_bytes() == before
    done = cite(served.control, folder, model="walker", release="1.0.0")
    assert (planned.evidence, planned.figures) == (done.evidence, done.figures)
    assert done.figures == {"evaluation": 1, "behaviour": 1, "performance": 2}
    assert "# We chose this." in (folder / CARD_FILE).read_text()
    assert check_folder(folder).problems == ()
    with pytest.raises(UsageError, match="does not cite already"):
        cite(served.control, folder, model="walker", release="1.0.0")
    publish(served.control, folder, model="walker", release="1.0.1")
    assert check_release(served.control, model="walker", release="1.0.1").problems == ()
    card = cards.full(served.control, model="walker", release="1.0.1")
    assert [e.evidence.kept_in for e in card.evaluation] == ["release"]
    assert len(card.performance) == 2


def test_figures_of_other_artifacts_are_not_cited(served: World) -> None:
    """What one network earned says nothing of another; the message names the file that differs."""
    _evaluate(served, keep=True)
    folder = write_card_export(served.folder / "other", 2)
    before = (folder / CARD_FILE).read_bytes()
    with pytest.raises(UsageError, match=r"model\.onnx is sha256:.*says nothing of the other"):
        cite(served.control, folder, model="walker", release="1.0.0")
    assert (folder / CARD_FILE).read_bytes() == before
    assert not (folder / "evidence").exists()


def _set(path: str, value: Any):
    """Change one value of a card's data."""

    def change(data: dict[str, Any], _: Path) -> None:
        *parents, last = path.split("/")
        for part in parents:
            data = data[int(part) if part.isdigit() else part]
        data[last] = value

    return change


def _swap_artifact(_: dict[str, Any], folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"another network")


def _forge_evidence(data: dict[str, Any], folder: Path) -> None:
    """Edit the cited file, and put its new digest into the card."""
    cited = data["evaluation"][0]["evidence"]
    path = folder / cited["file"]
    content = json.loads(path.read_text())
    content["content"] = content["content"].replace('"returns"', '"earned"', 1)
    path.write_text(json.dumps(content))
    for section in ("evaluation", "behaviour"):
        for entry in data[section]:
            if entry["evidence"]["file"] == cited["file"]:
                entry["evidence"]["digest"] = cards.digest_of(path.read_bytes())


def _no_citation(data: dict[str, Any], folder: Path) -> None:
    (folder / "evidence" / "mine.json").write_text('{"mean": 0}')
    digest = cards.digest_of(b'{"mean": 0}')
    data["evaluation"][0]["evidence"] = {"file": "evidence/mine.json", "digest": digest}


LIES: dict[str, tuple[Callable[[dict[str, Any], Path], None], str]] = {
    "a better return": (_set("evaluation/0/returns/mean", 0.5), r"evaluation\[0\]\.returns\.mean"),
    "more episodes": (_set("evaluation/0/episodes", 100), r"evaluation\[0\]\.episodes"),
    "a narrower interval": (_set("evaluation/0/returns/low", 0.0), r"evaluation\[0\]\.returns\.low"),
    "another environment": (_set("evaluation/0/environment", "Walker2d-v5"), r"evaluation\[0\]\.environment"),
    "a quicker answer": (_set("performance/0/latency_us/p99", 1.0), r"performance\[0\]\.latency_us\.p99"),
    "another machine": (_set("performance/0/machine/fingerprint", "f" * 12), r"performance\[0\]\.machine"),
    "less memory": (_set("performance/1/memory_mb", 1.0), r"performance\[1\]\.memory_mb"),
    "a smoother policy": (_set("behaviour/1/roughness", 0.0), r"behaviour\[1\]\.roughness"),
    "never at a bound": (_set("behaviour/0/saturation", 0.1), r"behaviour\[0\]\.saturation"),
    "other actions": (_set("behaviour/0/rows", 6), r"behaviour\[0\]\.rows"),
    "another digest": (_set("evaluation/0/evidence/digest", "sha256:" + "1" * 64), r"evidence\.digest"),
    "a file that is not there": (_set("evaluation/0/evidence/file", "evidence/x.json"), r"a file of the release"),
    "a file outside": (_set("evaluation/0/evidence/file", "../x.json"), r"relative path"),
    "evidence of something else": (_set("evaluation/0/evidence/file", "parity.json"), r"evidence\.digest"),
    "evidence that is kept elsewhere": (_set("evaluation/0/evidence/kept_in", "journal"), r"cites files next to it"),
    "a home-made file": (_no_citation, r"policyctl card cite"),
    "an edited file": (_forge_evidence, r"policyctl card cite"),
    "other artifacts": (_swap_artifact, r"whose model\.onnx differs"),
    "another contract": (_set("contract/observations", ["observation: float32[4]"]), r"contract\.observations\[0\]"),
    "another law": (_set("contract/distribution", "gaussian"), r"contract\.distribution"),
    "another release's facts": (_set("release", {}), r"release"),
    "a figure without evidence": (
        _set("evaluation", [{"environment": "x"}]),
        r"evaluation\[0\]\.evidence \(line \d+\): missing",
    ),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Iterator[World]:
    """A release that was evaluated and judged, and in ``second`` an export whose card cites that."""
    with pytest.MonkeyPatch.context() as patched:
        world = _served(tmp_path_factory.mktemp("measured"), patched)
        _evaluate(world, keep=True)
        _service_level(world)
        folder = write_card_export(world.folder / "second", 1)
        cite(world.control, folder, model="walker", release="1.0.0")
        yield world


@pytest.fixture
def cited(measured: World, tmp_path: Path) -> Path:
    """A copy of that export, to tell lies in."""
    return shutil.copytree(measured.folder / "second", tmp_path / "cited")


@pytest.mark.parametrize("name", LIES)
def test_a_figure_that_no_evidence_supports_is_refused(measured: World, cited: Path, name: str) -> None:
    """Publishing refuses each lie by its field, and leaves neither slot nor record."""
    served = measured
    tell, words = LIES[name]
    data = parse((cited / CARD_FILE).read_bytes()).data
    tell(data, cited)
    (cited / CARD_FILE).write_text(dump(data))
    before = served.control.repository.journal.records()
    for dry_run in (True, False):
        with pytest.raises(UsageError, match=words):
            publish(served.control, cited, model="walker", release="1.0.1", dry_run=dry_run)
    assert served.control.repository.journal.records() == before
    assert not served.control.repository.slot("walker", 2).exists()


def test_every_lie_is_told_at_once(cited: Path) -> None:
    """One refusal names all of them, each with its line."""
    data = parse((cited / CARD_FILE).read_bytes()).data
    for name in ("a better return", "less memory", "another law"):
        LIES[name][0](data, cited)
    (cited / CARD_FILE).write_text(dump(data))
    problems = check_folder(cited).problems
    assert [p.path for p in problems] == [
        "contract.distribution",
        "evaluation[0].returns.mean",
        "performance[1].memory_mb",
    ]
    lines = (cited / CARD_FILE).read_text().splitlines()
    assert [lines[p.line - 1].split(":")[0].strip() for p in problems] == ["distribution", "mean", "memory_mb"]


def test_figures_may_be_rounded_and_not_bent() -> None:
    """Fewer digits say less; other digits say something else."""
    assert agrees(-153.5, -153.489)
    assert agrees(-153.489, -153.489)
    assert agrees(100, 100)
    assert not agrees(-153.4, -153.489)
    assert not agrees(-153, -153.489)
    assert not agrees(101, 100)
    assert not agrees(True, 1)
    assert not agrees("1", 1)
    assert not agrees(1, "1")


def test_a_card_alone_is_held_against_the_schema(cited: Path, tmp_path: Path) -> None:
    """A file elsewhere has no evidence next to it; the same file in its folder has."""
    data = parse((cited / CARD_FILE).read_bytes()).data
    data["evaluation"][0]["returns"]["mean"] = 0.5
    for path in (cited / CARD_FILE, tmp_path / "card.yaml"):
        path.write_text(dump(data))
    assert check_file(tmp_path / "card.yaml").problems == ()
    assert len(check_file(cited / CARD_FILE).problems) == 1


def test_the_limits_of_a_card_are_those_that_its_gate_holds(world: World) -> None:
    """The gate reads the section service_level; a card of an unknown schema is not published."""
    source = write_export(world.folder / "limited", 1)
    (source / CARD_FILE).write_text("service_level: {p99_ms: 5}\n")
    with pytest.raises(UsageError, match="has no schema_version, this policyctl reads 2"):
        publish(world.control, source, model="walker", release="1.0.0")
    (source / CARD_FILE).write_text("schema_version: 2\nservice_level: {p99_ms: 5}\n")
    publish(world.control, source, model="walker", release="1.0.0")
    published = world.control.repository.journal.state().release("walker", "1.0.0")
    assert limits_of(world.control, open_release(world.control.repository, published)).p99_ms == 5


def test_a_card_is_written_for_an_export_that_has_none(world: World) -> None:
    """What follows from the files is there and right; a card that is there is not overwritten by accident."""
    folder = write_export(world.folder / "export", 1)
    (folder / CARD_FILE).unlink()
    (folder / CARD_FILE).write_text(draft(folder))
    found = check_folder(folder)
    assert found.problems == ()
    assert set(found.missing) == {"summary", "training", "limits_of_use", "licence", "owners"}
    assert found.card is not None
    assert found.card.contract is not None
    assert found.card.contract.observations == ["observation: float32[3]"]
    with pytest.raises(UsageError, match="exists already"):
        draft(folder)
    (folder / CARD_FILE).write_text("schema_version: 2\nlicence: MIT\ncontract: {}\n")
    text = draft(folder, force=True)
    data = parse(text.encode()).data
    assert data["licence"] == "MIT"
    assert data["contract"]["action_kind"] == CONTRACT.action_kind.value
