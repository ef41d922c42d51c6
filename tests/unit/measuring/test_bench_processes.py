"""A program that is run cannot hold up the one that runs it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil

from policyctl.measuring.processes import run_bounded


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_both_pipes_are_read_however_much_is_written() -> None:
    """More than any pipe holds, on both, does not block."""
    done = run_bounded(
        python("import sys; sys.stderr.write('e'*300000); sys.stdout.write('o'*300000); sys.exit(3)"),
        time_limit_s=20,
        environment=os.environ,
    )
    assert (done.status, len(done.stdout), len(done.stderr), done.timed_out) == (3, 300000, 300000, False)


def test_what_ignores_the_polite_signal_is_killed_with_its_children(tmp_path: Path) -> None:
    """At the time limit the whole group ends, and what was said until then is kept."""
    child_pid = tmp_path / "pid"
    code = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", stubborn])
open({str(child_pid)!r}, "w").write(str(child.pid))
print("begun", flush=True)
time.sleep(60)
"""
    begin = time.monotonic()
    done = run_bounded(python(code), time_limit_s=1.0, environment=os.environ)
    assert done.timed_out and done.status != 0
    assert "begun" in done.tail()
    assert time.monotonic() - begin < 50
    pid = int(child_pid.read_text())
    assert _dies(pid, within_s=300)


def test_a_program_that_ends_on_the_polite_signal_is_not_killed() -> None:
    """It has a second to write what it knows."""
    code = """
import signal, sys, time
def leave(*_):
    print("last words", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(60)
"""
    done = run_bounded(python(code), time_limit_s=1.0, environment=os.environ)
    assert done.timed_out and done.stdout.split() == ["ready", "last", "words"]


def _dies(pid: int, *, within_s: float) -> bool:
    """Whether a process is gone, or dead and not yet reaped."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False
