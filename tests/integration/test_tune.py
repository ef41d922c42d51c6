"""Tuning on the real Triton: what it finds is served by the next promotion, and no alias moves before."""

from __future__ import annotations

import signal
import subprocess
import time

import psutil
import pytest
from embedded import PATIENCE_S, Embedded, is_measuring, wait_for

from policyctl.adapters.pbtxt import options_of
from policyctl.demo.background_server import COMMAND
from policyctl.serving.native import choose
from policyctl.settings import NativeMode

pytest.importorskip("optuna", reason="policyctl[tune] is not installed")
pytestmark = pytest.mark.server


def config(served: Embedded) -> str:
    return served.control.repository.journal.state().aliases[("walker", "production")].placement.config


@pytest.mark.long
def test_a_bounded_search_moves_nothing_and_is_resumed(served: Embedded, tmp_path, monkeypatch) -> None:
    """It ends in time, measures what it promises, withdraws its candidate; what was tried is not tried again."""
    monkeypatch.setattr("policyctl.services.experiments.tuning_bench.BATCHES", (1, 64))
    before, file = config(served), tmp_path / "trials"
    arguments = ["tune", "walker", "--p99-limit", "1000ms", "--clients", "2", "--resume", str(file), "--gain", "9"]
    began = time.monotonic()
    first = served.json(*arguments, "--time", "55s")
    assert time.monotonic() - began < 55 + 60
    assert first["trials"] and first["batches"]
    assert any(trial["log_gain"] is not None for trial in first["trials"])
    assert first["winner"] is None  # nobody is ten times as good
    assert config(served) == before and served.answered_by() == "1.0.0"
    assert served.control.repository.candidates() == ()
    again = served.json(*arguments, "--time", "40s")
    assert again["trials"][: len(first["trials"])] == first["trials"]


def test_what_was_kept_is_served_by_the_next_promotion_and_forgotten_on_demand(served: Embedded) -> None:
    """By the same release too: it is another configuration, so it is another move."""
    from policyctl.services.moves import serving_options as tuned

    control = served.control
    with control.repository.writer("test", wait_s=PATIENCE_S):
        tuned.keep(control, "walker", {"max_queue_delay_us": 50, "preferred_batch_sizes": [4]}, reason="test")
    assert options_of(config(served)).max_queue_delay_us == 0
    assert served.json("promote", "walker", "1.0.0")["changed"]
    assert options_of(config(served)).preferred_batch_sizes == (4,)
    assert served.json("tune", "walker", "--forget")["forgotten"]
    served.run("promote", "walker", "1.0.0")
    assert options_of(config(served)).preferred_batch_sizes == ()
    assert served.answered_by() == "1.0.0"


def test_an_interrupt_leaves_the_incumbent_serving_and_no_candidate(served: Embedded) -> None:
    """Ctrl-C in the middle of a trial."""
    repository = served.control.repository
    command = [*COMMAND, "tune", "walker", "--time", "60s", "--repository", str(served.root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(repository.candidates)
    wait_for(lambda: is_measuring(psutil.Process(process.pid)))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert repository.candidates() == ()
    assert served.answered_by() == "1.0.0"


def test_a_dry_run_says_what_would_be_searched(served: Embedded) -> None:
    """And asks no server for anything."""
    found = served.json("tune", "walker", "--dry-run")
    assert found["configurations"] >= 9
    assert set(found["space"]) >= {"instances", "max_queue_delay_us", "preferred_batch_sizes"}


def test_memory_is_measured_of_every_process_and_says_what_follows(served: Embedded) -> None:
    """Server, supervisor and the model's instance: each with a peak that is no less than what it holds."""
    found = served.json("memory", "walker")
    (cost,) = [c for c in found["served"] if c["alias"] == "production"]
    uses = {**cost["instances"], **found["shared"]}
    assert set(found["shared"]) == {"tritonserver", "policyctl serve"}
    natively = choose(NativeMode.AUTO).backend is not None
    assert list(cost["instances"]) == ([] if natively else ["walker_0_0"])
    for use in uses.values():
        assert 0 < use["own_bytes"] <= use["rss_bytes"] <= use["peak_bytes"] * 1.01
        assert use["descriptors"] > 0
    wanted = "memory of production" if natively else "INSTANCES"
    assert any(wanted in r["setting"] for r in found["recommendations"])
