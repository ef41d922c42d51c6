"""Start, watch and stop one tritonserver.

What this module promises:

- The server listens on the addresses that it was given, and never outlives
  the process that started it, however that one ends.
- Loading and unloading needs the key (Triton's restricted APIs), over HTTP as
  header ``policyctl-key``, over gRPC as ``triton-grpc-protocol-policyctl-key``.
- `TritonProcess.stop` is over in about `STOP_TIMEOUT_S`, also where a stub is
  dead or the server hangs, and leaves no process and no shared memory.

The key on the command line. Triton 2.51 takes its key as an argument and from
nowhere else, and ``/proc/<pid>/cmdline`` is readable by every local user
unless ``/proc`` is mounted with ``hidepid``. So once the server has read its
arguments, the key is overwritten in the server's own memory, where the kernel
reads that file from. What remains is a window of some tens of milliseconds at
each start; and where the kernel forbids the write (``ptrace_scope`` 2 or 3)
`TritonProcess.key_hidden` stays false and the log says so.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil

from policyctl.errors import ServerError, UnsupportedError
from policyctl.serving import ports, shared_memory, triton_lane
from policyctl.serving.backend_directory import assemble, code_folder
from policyctl.serving.command import ServerOptions, command, environment, hide_argument
from policyctl.serving.locate import TritonInstall, locate
from policyctl.serving.logs import Level, LogLine, OnLog, ignore
from policyctl.serving.run import ServerRun

STOP_TIMEOUT_S: Final = 10.0
_KILL_RESERVE_S: Final = 3.0
_START_TIMEOUT_S: Final = 10.0
_IDLE: Final = "All models are stopped, unloading models"
"""What Triton logs once no request is in flight any more."""
_SETTLE_S: Final = 0.3
"""For the last answers to leave."""
_LAUNCH: Final = Path(__file__).resolve().parent / "launch.py"


class TritonProcess(ServerRun):
    """One server as a child of this process.

    Args:
        options: How it runs.
        on_log: Called with every line of its log, on a thread of ours.
        install: Where its binaries are; looked up when it starts, if not given.
    """

    name = "tritonserver"
    poll_s = 0.02
    remedy = "Run policyctl doctor: an unusable libpython or library makes it wait for ever."

    def __init__(self, options: ServerOptions, *, on_log: OnLog = ignore, install: TritonInstall | None = None) -> None:
        super().__init__(options, on_log)
        self.key_hidden = False
        self._install = install
        self._popen: subprocess.Popen[bytes] | None = None
        self._claim: shared_memory.Claim | None = None
        self._started = threading.Event()
        self._failure: OSError | None = None
        self._thread: threading.Thread | None = None
        self._changing = threading.Lock()
        self._idle_at = math.inf

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            ServerError: It was not started.
        """
        if self._popen is None:
            raise ServerError("the server was not started")
        return self._popen.pid

    @property
    def shm_prefix(self) -> str:
        """What the names of its shared memory begin with; empty before the start."""
        return "" if self._claim is None else self._claim.prefix

    def start(self) -> None:
        """Start it; `wait_live` says when it answers.

        Raises:
            ServerError: It was started before, a port is taken, or the process
                cannot be made.
            UnsupportedError: Triton is not installed, or shared memory cannot be written.
        """
        if self._popen is not None:
            raise ServerError("this server was started before", remedy="Make a new TritonProcess.")
        install = self._install or locate()
        self._refuse_taken_ports()
        with self._changing:
            self._start(install)

    def _start(self, install: TritonInstall) -> None:
        repository = self.options.repository.absolute()
        shared_memory.cleanup_stale(repository, also=code_folder())
        claim = self._claim = shared_memory.claim(repository)
        options = self.options
        if options.backend_directory is None:
            folder = assemble(install, code_folder(), native=options.native, prefix=f"{claim.prefix}backends-")
            options = replace(options, backend_directory=folder)
        arguments = command(options, install, shm_prefix=claim.prefix)
        # The thread that makes the process must live as long as it: see launch.py.
        self._thread = threading.Thread(
            target=self._run,
            args=(arguments, environment(install, options), options.backend_directory),
            name="triton-log",
            daemon=True,
        )
        self._thread.start()
        if not self._started.wait(_START_TIMEOUT_S) or self._failure is not None:
            self._release_memory()
            raise ServerError(f"tritonserver cannot be started: {self._failure or 'no answer of its thread'}")

    def is_running(self) -> bool:
        """Whether the process is there (which says nothing about its answers)."""
        return self._popen is not None and self.exit_code() is None

    def may_have_ended(self) -> bool:
        """Whether it has ended: the kernel says so at once."""
        return not self.is_running()

    def exit_code(self) -> int | None:
        """What it ended with, negative for a signal; None while it runs."""
        process = self._popen
        if process is None or process.returncode is not None:
            return None if process is None else process.returncode
        # Not reaped here: while it is a zombie, nobody else can get its group's id.
        try:
            status = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return process.poll()
        if status is None:
            return None
        return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status

    def ended(self) -> str:
        """How it ended, as a phrase."""
        return f"exit code {self.exit_code()}"

    def _answers(self) -> bool:
        # Another server on the port would answer as well, so it has to be ours that listens.
        if not (super()._answers() and ports.listens(self.pid, self._port)):
            return False
        if self.options.api_key and not self.key_hidden:
            self._hide_key(self.pid)  # a server that logs nothing gave no sign before
        return True

    def stop(self, timeout_s: float = STOP_TIMEOUT_S, *, at_once: bool = False) -> None:
        """End it and all of its processes, and remove its shared memory.

        It is asked first; what is left some seconds before `timeout_s` is
        killed. Does nothing where there is nothing left to stop.

        Args:
            timeout_s: When it has to be over; the process is gone by then.
            at_once: Kill it, without asking it first.
        """
        with self._changing:
            process = self._popen
            if process is not None and process.returncode is None:
                deadline = time.monotonic() + timeout_s
                if self.is_running() and not at_once:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGTERM)
                    self._wait_exit(deadline - min(_KILL_RESERVE_S, timeout_s / 2), idle_is_enough=True)
                stubs = _group(process.pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                self._wait_exit(deadline)
                _wait_ended(stubs, max(deadline, time.monotonic() + 0.1))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=max(0.1, deadline - time.monotonic()))
            self._release_memory()
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join(timeout=1.0)

    def _run(self, arguments: list[str], variables: dict[str, str], folder: Path | None) -> None:
        """Make the process and drain its log for as long as it lives."""
        assert self._claim is not None  # noqa: S101 - start() has just taken it
        launch = [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), *arguments]
        try:
            process = subprocess.Popen(
                launch,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # Python puts the working directory on the stub's path: this one holds no module.
                cwd=folder,
                env=variables,
                start_new_session=True,
                pass_fds=(self._claim.descriptor,),
            )
        except OSError as error:
            self._failure = error
            self._started.set()
            return
        self._popen = process
        self._started.set()
        self._drain(process)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        """Forward every line; a full pipe would stop the server."""
        assert process.stdout is not None  # noqa: S101 - made with a pipe
        shows = bool(self.options.api_key)
        with process.stdout as stream:
            for raw in stream:
                line = self._take_line(raw)
                if shows and line.source:
                    self._hide_key(process.pid)
                    shows = False
                if line.message == _IDLE:
                    self._idle_at = time.monotonic()

    def _hide_key(self, pid: int) -> None:
        # Triton's first line comes after it has read its arguments.
        self.key_hidden = hide_argument(pid, self.options.api_key)
        if not self.key_hidden:
            self._forward(
                LogLine(Level.WARNING, "", "the key shows in /proc/<pid>/cmdline to other users of this machine")
            )

    def _wait_exit(self, deadline: float, *, idle_is_enough: bool = False) -> None:
        while self.is_running() and time.monotonic() < deadline:
            # What is left then is to take down every model, one by one, which is nothing to anybody.
            if idle_is_enough and self.options.spans is None and time.monotonic() > self._idle_at + _SETTLE_S:
                return
            time.sleep(TritonProcess.poll_s)

    def _last_words(self) -> str:
        if not self.is_running() and self._thread is not None:
            self._thread.join(timeout=1.0)  # it may not have read everything yet
        return super()._last_words()

    def _release_memory(self) -> None:
        if self.options.lane:
            triton_lane.forget(self.options.lane)
        if self._claim is not None:
            with contextlib.suppress(UnsupportedError):
                shared_memory.remove(code_folder(), self._claim.prefix)
            self._claim.remove()
            self._claim.close()
            self._claim = None


def _wait_ended(processes: list[psutil.Process], deadline: float) -> None:
    """Wait until none of them runs. A zombie does not, and who inherited it may never ask after it."""
    while any(map(_runs, processes)) and time.monotonic() < deadline:
        time.sleep(TritonProcess.poll_s)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _group(leader: int) -> list[psutil.Process]:
    """The other processes of the leader's group."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if process.pid != leader and os.getpgid(process.pid) == leader:
                members.append(process)
    return members
