"""Run another program that must not be able to hold this one up.

The program gets its own process group, and both of its pipes are read while it
runs. At its time limit the whole group is asked to end, and then killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended.

    Attributes:
        status: Exit status; negative for a signal.
    """

    status: int
    stdout: str
    stderr: str
    timed_out: bool
    duration_s: float

    def tail(self, *, lines: int = 12) -> str:
        """The end of what it said, for a message."""
        said = [line for line in (self.stdout + "\n" + self.stderr).splitlines() if line.strip()]
        return "\n".join(said[-lines:])


def run_bounded(command: Sequence[str | Path], *, time_limit_s: float, environment: Mapping[str, str]) -> Finished:
    """Run `command` for at most `time_limit_s` and a second or two.

    Raises:
        OSError: It cannot be started.
    """
    begin = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    timed_out = False
    try:
        stdout, stderr = process.communicate(timeout=max(0.0, time_limit_s))
    except subprocess.TimeoutExpired:
        timed_out = True
        stdout, stderr = _end(process)
    finally:
        # Also on an interrupt of ours, and for children that outlived their parent.
        _signal_group(process, signal.SIGKILL)
        process.wait()
    return Finished(process.returncode, stdout, stderr, timed_out, time.monotonic() - begin)


def _end(process: subprocess.Popen[str]) -> tuple[str, str]:
    _signal_group(process, signal.SIGTERM)
    try:
        return process.communicate(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        _signal_group(process, signal.SIGKILL)
        return process.communicate()


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
