"""`bench`, `results compare` and `results history`, without a server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "measuring"))

from bench_results import measurement_of, noisy, result_of

from policyctl.errors import ServerError
from policyctl.measuring import perf_analyzer
from policyctl.measuring.result import BenchResult
from policyctl.services import kept_results
from policyctl.serving.hardware import detect


@pytest.fixture
def keep(quiet_world):
    """Keep a result of this very machine."""
    machine = detect()

    def one(p50_us: float = 500.0, **changes):
        facts = {"fingerprint": machine.fingerprint, "identity": machine.identity(), **changes}
        result = result_of(p50_us, **facts)
        return result, kept_results.keep(quiet_world.control.repository, result)

    return one


@pytest.fixture
def measures(served_world, monkeypatch) -> Callable[[BaseException | None, int], None]:
    """Let perf_analyzer measure some points at once, and fail then."""

    def let(error: BaseException | None, after: int) -> None:
        done = []

        def measure(_tool, load):
            if len(done) == after and error is not None:
                raise error
            done.append(load)
            point = load.point
            return measurement_of(mode=point.mode, level=point.level, batch_size=point.batch_size)

        monkeypatch.setattr(perf_analyzer.PerfAnalyzer, "measure", measure)
        monkeypatch.setattr(perf_analyzer, "locate_perf_analyzer", Path)
        monkeypatch.setattr(perf_analyzer, "link_libraries", Path)

    return let


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ServerError("perf_analyzer did not end in time"), 6, "perf_analyzer did not end in time"),
        (KeyboardInterrupt(), 130, "somebody interrupted it"),
    ],
)
def test_what_was_measured_before_the_end_is_kept(run, measures, served_world, error, code, said) -> None:
    """Eleven good points are not lost with the twelfth: they are shown and kept, with what ended it."""
    measures(error, 3)
    done = run("bench", "walker", "-c", "1,2,4,8", "--json")
    assert (done.code, len(done.document["points"])) == (code, 3)
    assert done.document["stopped"] == f"3 of 4 points were measured: {said}"
    (kept,) = (served_world.root / ".policyctl/bench").rglob("*.json")
    assert BenchResult.from_bytes(kept.read_bytes()).stopped == done.document["stopped"]
    assert f"WARNING: {done.document['stopped']}." in done.err
    assert [line for line in done.err.splitlines() if line.startswith("Measuring")] == [
        f"Measuring {number} of 4: grpc, batch 1, {clients} clients ..."
        for number, clients in enumerate((1, 2, 4, 8), start=1)
    ]
    measures(error, 3)
    assert run("bench", "walker", "-c", "1,2,4,8").out.count("grpc") == 3


def test_a_run_without_a_single_point_is_an_error(run, measures) -> None:
    """Then nothing is kept."""
    measures(ServerError("no luck"), 0)
    done = run("bench", "walker", "--json")
    assert (done.code, done.document["error"]["problem"]) == (6, "no luck")


def test_no_point_begins_that_the_time_limit_leaves_no_time_for(run, measures) -> None:
    """The first is tried all the same."""
    measures(None, 0)
    done = run("bench", "walker", "-c", "1,2,4", "--time-limit", "1", "--interval-ms", "500", "--json")
    assert (done.code, len(done.document["points"])) == (6, 1)
    assert done.document["stopped"] == ("1 of 3 points were measured: the time limit of 1 s left no time for the next")


def test_two_releases_are_held_beside_each_other_by_name(run, keep) -> None:
    """The latest result of each on this machine; with what cannot be concluded."""
    keep(900.0, time="2026-01-01T00:00:00+00:00")
    keep(500.0)
    keep(600.0, release="1.1.0")
    shown = run("results", "compare", "walker@1.0.0", "walker@1.1.0", "--json")
    assert shown.code == 0
    rows = {(row["point"], row["metric"]): row for row in shown.document["rows"]}
    first = rows["grpc, batch 1, 1 clients", "p50_us"]
    assert (first["one"], first["other"], first["ratio"]) == (500.0, 600.0, 1.2)
    assert first["standing"] == "within the machine's drift"
    assert "not paired" in shown.err


def test_a_result_is_named_by_the_beginning_of_its_id_or_its_file(run, keep, tmp_path) -> None:
    """Both name the same; too short a beginning, or one of nothing, is refused with what to do."""
    one, path = keep(500.0)
    other, _ = keep(600.0)
    assert run("results", "compare", one.id[:6], other.id).code == 0
    assert run("results", "compare", path, other.id, "--json").document["one"]["id"] == one.id
    for wrong in ("ffffffff", "no-such-file.json", "walker@9.9.9"):
        refused = run("results", "compare", wrong, other.id)
        assert (refused.code, "Next:" in refused.err) == (2, True)


def test_a_selector_names_a_kept_release(run, keep) -> None:
    """What selects a release for a promotion selects it here; its number needs nothing published."""
    keep(500.0)
    keep(600.0, release="7.0.0")
    found = run("results", "compare", "walker@latest", "walker@7.0.0", "--json").document
    assert (found["one"]["release"], found["other"]["release"]) == ("1.0.0", "7.0.0")
    refused = run("results", "compare", "walker@staging", "walker@7.0.0")
    assert (refused.code, "no release 'staging'" in refused.err) == (2, True)


def test_another_machine_needs_force(run, keep) -> None:
    """And then the difference is named."""
    one, _ = keep()
    foreign, _ = keep(fingerprint="b" * 12, identity={"cpu_model": "Another"})
    refused = run("results", "compare", one.id, foreign.id)
    assert (refused.code, "--force" in refused.err) == (2, True)
    assert "Caution: different machines" in run("results", "compare", one.id, foreign.id, "--force").err


def test_a_kept_file_that_was_changed_is_left_out_and_told(run, keep) -> None:
    """The rest is still shown; the changed one, and one under another's name, never."""
    keep(500.0)
    changed, path = keep(600.0)
    path.write_bytes(path.read_bytes().replace(b"600.0", b"100.0"))
    moved, elsewhere = keep(700.0)
    elsewhere.rename(elsewhere.with_name("20260131T235959Z-" + "a" * 12 + ".json"))
    shown = run("results", "history", "walker", "--json")
    assert [r["value"] for r in shown.document["results"]] == [500.0]
    assert shown.err.count("Left out") == 2
    assert run("results", "compare", changed.id, moved.id).code == 2


def test_history_tells_a_change_with_its_time_and_draws_it(run, keep, tmp_path) -> None:
    """Twelve results before, twelve half as quick; with a page."""
    import numpy as np

    rng = np.random.default_rng(0)
    for day, p50_us in enumerate([*noisy(rng, 12), *noisy(rng, 12, p50_us=1000)], start=1):
        keep(p50_us, time=f"2026-01-{day:02}T00:00:00+00:00", release="1.0.0" if day <= 12 else "1.1.0")
    shown = run("results", "history", "walker", "--json", "--report", tmp_path / "history.html")
    (change,) = shown.document["changes"]
    assert change["time"].startswith("2026-01-13")
    assert change["ratio"] == pytest.approx(2.0, rel=0.15)
    assert "<svg" in (tmp_path / "history.html").read_text()


def test_too_few_results_are_said_to_be_too_few(run, keep) -> None:
    """Silence would read as: nothing changed."""
    keep()
    assert "Too few" in run("results", "history", "walker").err
    assert run("results", "history", "walker", "--metric", "mood").code == 2
    assert run("results", "history", "walker", "--batch", "7").code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--protocol", "smoke"), "grpc, http"),
        (("--shared-memory", "cuda"), "none, system"),
        (("--batch", "0"), "--batch 1,8"),
        (("--batch", "1,1"), "different"),
        (("--report", "no/such/folder/x.html"), "folder that exists"),
    ],
)
def test_what_bench_cannot_do_is_refused_before_it_begins(run, quiet_world, arguments, words: str) -> None:
    """Not after minutes of measuring."""
    refused = run("bench", "walker", *arguments)
    assert (refused.code, words in refused.err) == (2, True)


def test_a_report_that_cannot_be_drawn_is_refused_before_it_begins(run, measures, monkeypatch, tmp_path) -> None:
    """Without matplotlib, nothing is measured and nothing is written."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    measures(None, 1)
    refused = run("bench", "walker", "--report", str(tmp_path / "x.html"))
    assert refused.code == 8
    assert "pip install 'policyctl[report]'" in refused.err
    assert "Measuring" not in refused.err
