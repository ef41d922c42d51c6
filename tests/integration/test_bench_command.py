"""`policyctl bench` on the real server: what it measures and keeps, and that nothing can hold it up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
from embedded import Embedded, embedded, is_measuring, stopped, wait_for

from policyctl.client import regions
from policyctl.measuring.result import BenchResult
from policyctl.serving.native import choose
from policyctl.settings import NativeMode

SERVES_NATIVELY = choose(NativeMode.AUTO).backend is not None
"""Then an instance has no process of its own."""

pytestmark = pytest.mark.server

SHORT = ("--interval-ms", "150", "--warmup", "20", "--time-limit", "600")
LIMIT_S = 5.0
GRACE_S = 60.0
"""Starting Python, and ending perf_analyzer politely, on a busy machine too."""


@pytest.mark.alone  # perf_analyzer's regions in /dev/shm have the same names in every process
def test_one_run_measures_keeps_and_draws(served: Embedded, tmp_path: Path) -> None:
    """Both protocols, two levels, two batches; the same figures in JSON, in the store and in both reports."""
    files = ("--report", str(tmp_path / "walker.html"), "--markdown", str(tmp_path / "walker.md"))
    points = ("--protocol", "grpc,http", "-c", "1,2", "--batch", "1,8", "--shared-memory", "none,system")
    document = served.json("bench", "walker", *points, *SHORT, *files)
    result = BenchResult.from_json(document)
    assert len(result.points) == len(result.by_point()) == 2 * 2 * 2 * 2
    for each in result.points:
        m = each
        assert m.failed_requests == 0
        assert m.distribution_us[0] <= m.p50_us <= m.p99_us <= m.distribution_us[-1]
        assert len(m.window_requests_per_s) == 3
    assert (result.release, result.format, result.profile) == ("1.0.0", "openvino", "quick, changed")
    assert result.settings["instances"] == 1
    seen = set(result.memory[-1].resident_mb)
    assert "tritonserver" in seen
    assert ("walker_0_0" in seen) is not SERVES_NATIVELY
    assert result.fingerprint == served.json("hardware", "--no-runtimes")["hardware"]["fingerprint"]
    (kept,) = (served.root / ".policyctl/bench" / result.fingerprint / "walker").glob(f"*-{result.id}.json")
    assert BenchResult.from_bytes(kept.read_bytes()) == result
    assert (tmp_path / "walker.html").read_text().count("<svg") == 3
    assert f"| {result.points[0].p50_us:.0f} |" in (tmp_path / "walker.md").read_text()


@pytest.mark.alone
def test_rates_open_the_loop_and_two_runs_can_be_compared(served: Embedded) -> None:
    """At a rate that can be kept the rate is kept; two runs of one release show the machine's drift."""
    first, second = (
        served.json("bench", "walker", "--rate", "20,40", "--interval-ms", "500", "--time-limit", "600")
        for _ in range(2)
    )
    for point in first["points"]:
        assert point["mode"] == "request_rate"
        assert point["requests_per_s"] == pytest.approx(point["level"], rel=0.5)
    found = served.json("results", "compare", first["id"][:8], second["id"])
    assert {row["standing"] for row in found["rows"]} == {"within the machine's drift"}
    assert found["cautions"] == [words for words in found["cautions"] if "busy" in words]


def test_shares_of_what_was_reached_become_rates(served: Embedded) -> None:
    """As the standard profile does, in short: through the service, and nothing is kept unless asked."""
    from policyctl.measuring.profiles import Profile
    from policyctl.services.measure.bench import bench

    before = list((served.root / ".policyctl/bench").rglob("*.json"))
    profile = Profile(name="x", concurrency=(1,), rate_shares=(0.5,), interval_ms=500, warmup_requests=20)
    closed, opened = bench(served.control, profile, model="walker", alias="production", keep=False).points
    assert opened.level == pytest.approx(0.5 * closed.requests_per_s, rel=0.06)
    assert list((served.root / ".policyctl/bench").rglob("*.json")) == before


def bench_until(
    server: Embedded, *, blow: contextlib.ExitStack, strike, limit_s: float
) -> subprocess.CompletedProcess[str]:
    """`policyctl bench` with a limit, struck while perf_analyzer runs."""
    over = threading.Event()

    def wait_and_strike() -> None:
        wait_for(lambda: over.is_set() or is_measuring(psutil.Process()))
        if not over.is_set():
            strike()

    thread = threading.Thread(target=wait_and_strike)
    blow.callback(thread.join)
    thread.start()
    arguments = ("bench", "walker", "-c", "2", "--interval-ms", "3000", "--time-limit", str(limit_s), "--json")
    try:
        return server.run(*arguments, check=False)
    finally:
        over.set()


def refused(done: subprocess.CompletedProcess[str], *, code: int = 6) -> str:
    """The problem that a refusal named."""
    assert done.returncode == code, done.stdout + done.stderr
    return str(json.loads(done.stdout)["error"]["problem"])


def test_a_server_that_stands_still_holds_nothing_up(served: Embedded) -> None:
    """Stopped midway, with nobody to rescue it: an error within the limit, nothing kept, no process left."""
    kept = list((served.root / ".policyctl/bench").rglob("*.json"))
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        done = bench_until(served, blow=stack, strike=lambda: stack.enter_context(stopped(served)), limit_s=LIMIT_S)
        assert time.monotonic() - begin < LIMIT_S + GRACE_S
    assert "did not end in time" in refused(done)
    assert list((served.root / ".policyctl/bench").rglob("*.json")) == kept
    assert not is_measuring(psutil.Process())
    wait_for(lambda: served.answered_by() == "1.0.0")


def test_a_server_that_stands_still_beforehand_is_told_at_once(served: Embedded, monkeypatch) -> None:
    """Before anything is measured, whatever the limit is."""
    monkeypatch.setenv("POLICYCTL_SERVER__TIMEOUT_S", "5")
    begin = time.monotonic()
    with stopped(served):
        done = served.run("bench", "walker", "--time-limit", "300", "--json", check=False)
        assert time.monotonic() - begin < 5 + GRACE_S
    assert "no Triton answers" in refused(done)
    wait_for(lambda: served.answered_by() == "1.0.0")


def test_a_server_that_is_killed_ends_the_run_with_an_error(tmp_path: Path) -> None:
    """Long before the limit; the supervisor then brings another server, and the same command works."""
    with embedded(tmp_path) as server:
        server.publish("1.0.0", 1)
        server.start()
        server.run("promote", "walker", "1.0.0")
        begin, limit_s, pid = time.monotonic(), 300.0, server.endpoint["pid"]
        with contextlib.ExitStack() as stack:
            done = bench_until(server, blow=stack, strike=lambda: os.kill(pid, signal.SIGKILL), limit_s=limit_s)
        assert time.monotonic() - begin < limit_s
        assert "perf_analyzer ended with" in refused(done)
        wait_for(lambda: server.triton not in {None, pid})
        assert server.answered_by() == "1.0.0"
        server.run("bench", "walker", "-c", "1", *SHORT)


def test_shared_memory_that_the_server_cannot_open_is_refused_before_anything_is_measured(
    served: Embedded, tmp_path, monkeypatch
) -> None:
    """As in a container, or by a Triton that forbids it: exit code 8, with what shared memory needs."""
    monkeypatch.setattr(regions.Regions.__init__, "__defaults__", (tmp_path,))
    done = served.run("bench", "walker", "--shared-memory", "system", check=False)
    assert done.returncode == 8, done.stdout + done.stderr
    assert "cannot open this machine's shared memory" in done.stderr
    assert "--allow-client-shm=true" in done.stderr
