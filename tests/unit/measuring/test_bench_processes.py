"""A program that is run cannot hold up the one that runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from policyctl.measuring import processes
from policyctl.measuring.processes import run_bounded

LIMIT_S = 1.0


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture
def up_at_the_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file that a program writes once it is up; its time is over then, however busy the machine is."""
    file = tmp_path / "up"

    class Begun(subprocess.Popen[str]):
        def communicate(self, *more: Any, timeout: float | None = None) -> Any:
            if timeout == LIMIT_S:
                until = time.monotonic() + 300
                while not file.exists() and time.monotonic() < until:
                    time.sleep(0.01)
                timeout = 0.1
            return super().communicate(*more, timeout=timeout)

    monkeypatch.setattr(subprocess, "Popen", Begun)
    return file


def test_both_pipes_are_read_however_much_is_written() -> None:
    """More than any pipe holds, on both, does not block."""
    done = run_bounded(
        python("import sys; sys.stderr.write('e'*300000); sys.stdout.write('o'*300000); sys.exit(3)"),
        time_limit_s=300,
        environment=os.environ,
    )
    assert (done.status, len(done.stdout), len(done.stderr), done.timed_out) == (3, 300000, 300000, False)


def test_what_ignores_the_polite_signal_is_killed_with_its_children(up_at_the_limit: Path, tmp_path: Path) -> None:
    """At the time limit the whole group ends, and what was said until then is kept."""
    child_pid = tmp_path / "pid"
    code = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(3600)"
child = subprocess.Popen([sys.executable, "-c", stubborn])
open({str(child_pid)!r}, "w").write(str(child.pid))
print("begun", flush=True)
open({str(up_at_the_limit)!r}, "w").close()
time.sleep(3600)
"""
    begin = time.monotonic()
    done = run_bounded(python(code), time_limit_s=LIMIT_S, environment=os.environ)
    assert done.timed_out and done.status != 0
    assert "begun" in done.tail()
    assert time.monotonic() - begin < 600
    pid = int(child_pid.read_text())
    assert _dies(pid, within_s=300)


def test_a_program_that_ends_on_the_polite_signal_is_not_killed(
    up_at_the_limit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a moment to write what it knows."""
    monkeypatch.setattr(processes, "_GRACE_S", 300.0)
    code = f"""
import signal, sys, time
def leave(*_):
    print("last words", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
open({str(up_at_the_limit)!r}, "w").close()
time.sleep(3600)
"""
    done = run_bounded(python(code), time_limit_s=LIMIT_S, environment=os.environ)
    assert done.timed_out and done.stdout.split() == ["ready", "last", "words"]


def _dies(pid: int, *, within_s: float) -> bool:
    """Whether a process is gone, or dead and not yet reaped."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False
