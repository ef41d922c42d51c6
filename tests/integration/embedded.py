"""A real repository with real releases, and `policyctl serve` on it, for tests.

Releases are tiny policies exported once a session. The server is a process of
its own, as are the commands that a test kills, interrupts or measures. Any
other command runs in this process, through the entry point that a person's
command runs through: nearly all of what one takes is the start of Python.
"""

from __future__ import annotations

import atexit
import contextvars
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import faults
from policyctl import claims
from policyctl.cli.main import main
from policyctl.client import PolicyClient
from policyctl.demo.background_server import BackgroundServer, policyctl
from policyctl.services.control import Control
from policyctl.serving import shared_memory, triton_guard
from policyctl.settings import load


@functools.cache
def exported(seed: int, inputs: int = 4) -> Path:
    """The folder of an exported policy that takes so many numbers; another seed answers otherwise."""
    import gymnasium as gym
    import torch

    from policyctl_exporters import export_policy

    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(inputs, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2), torch.nn.Tanh())
    parent = Path(tempfile.mkdtemp(prefix="policyctl-tests-"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    folder = parent / f"seed{seed}-{inputs}"
    export_policy(
        module,
        folder,
        observation_space=gym.spaces.Box(-1, 1, (inputs,)),
        action_space=gym.spaces.Box(-1, 1, (2,)),
        golden_rows=16,
    )
    return folder


def here(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `policyctl` in this process; it may refuse."""
    command, out, err = ["policyctl", *arguments], io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", command)
        patch.setattr("policyctl.cli.main._leave", sys.exit)  # it would end this process where an export goes on
        patch.setenv("POLICYCTL_REPOSITORY", str(repository))
        try:
            # What a command binds for its log lines ends with it.
            contextvars.copy_context().run(main)
        except SystemExit as stop:
            return subprocess.CompletedProcess(command, int(stop.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("main() always exits")


PATIENCE_S = 300.0
"""For what must happen: a test ends when it does, so only a failure takes this long, on a busy machine too."""


def allow_faults(patch: pytest.MonkeyPatch) -> None:
    """Let servers that start from now on serve by backends with faults."""
    patch.setenv("PYTHONPATH", str(faults.HERE))


needs_guard = pytest.mark.skipif(triton_guard.find() is None, reason="the guard of Triton is not built: make native")


class Embedded(BackgroundServer):
    """One repository; its server may be started and stopped.

    Args:
        folder: Where the repository and the server's log are.
        apart: Run every command in a process of its own, for whoever measures.
    """

    def __init__(self, folder: Path, *, apart: bool = False) -> None:
        super().__init__(folder / "model_repository", folder / "serve.log")
        self.root = self.repository
        self._apart = apart

    @property
    def control(self) -> Control:
        """The control plane, in this process."""
        return Control.of(load(repository=self.root))

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `policyctl`; with `check`, a refusal fails the test."""
        done = policyctl(self.root, *arguments, timeout_s=PATIENCE_S) if self._apart else here(self.root, *arguments)
        assert not check or done.returncode == 0, done.stderr + self.log_text
        return done

    def json(self, *arguments: str) -> Any:
        """Run `policyctl ... --json` and read what it prints."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def end(self) -> None:
        """Leave nothing of the server, at once: whoever tests an orderly stop has stopped it by now.

        Raises:
            AssertionError: Some of its processes or of its shared memory stays.
        """
        family = psutil.Process(self.process.pid).children(recursive=True) if self.is_running else []
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        wait_for(lambda: not any(map(runs, family)))
        wait_for(self._has_no_memory)

    def memory_left(self) -> list[Path]:
        """What servers of this repository hold of shared memory, or left there."""
        return list(shared_memory.FOLDER.glob(f"{shared_memory.prefix_base(self.root)}*"))

    def _has_no_memory(self) -> bool:
        """Remove what is nobody's; a process that was killed lets go of its claim a little after it is a zombie."""
        shared_memory.cleanup_stale(self.root)
        return not self.memory_left()

    @property
    def triton(self) -> int | None:
        """The process id of the announced tritonserver; None while there is none."""
        with suppress(FileNotFoundError):
            return int(self.endpoint["pid"])
        return None

    def has_said(self, words: str) -> None:
        """Wait until its log holds `words`: a thread writes them, a moment after what they are about."""
        try:
            wait_for(lambda: words in self.log_text)
        except AssertionError as error:
            raise AssertionError(f"{error}: {words!r} in {self.log_text}") from None

    def publish(self, release: str, seed: int, *, inputs: int = 4) -> None:
        """Publish the policy of `seed` as `release` of walker."""
        self.run("publish", str(exported(seed, inputs)), "--model", "walker", "--release", release)

    def answered_by(self, alias: str = "production") -> str:
        """The release that answers an inference; on a busy machine the first question may get no answer in time."""
        found: list[str | None] = []
        wait_for(lambda: found.append(self.answers(alias)) or found[-1])
        return str(found[-1])

    def answers(self, alias: str = "production") -> str | None:
        """The release that answers an inference now; None where nothing does in the time that `status` allows."""
        (row,) = [a for a in self.json("status")["aliases"] if a["alias"] == alias]
        return row["answers"]


@dataclass
class Callers:
    """What callers of `asking` saw: answers by release, and what ended a caller."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[BaseException] = field(default_factory=list)


def runs(process: psutil.Process) -> bool:
    """Whether it is there and no zombie: whoever inherits one may take its time to reap it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_measuring(process: psutil.Process) -> bool:
    """Whether `process` runs perf_analyzer now."""
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it may end while one looks
            if child.name() == "perf_analyzer":
                return True
    return False


def wait_for(condition: Callable[[], object], *, every_s: float = 0.05) -> None:
    """Wait until `condition()` holds.

    Raises:
        AssertionError: It does not within `PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s"
        time.sleep(every_s)


@contextmanager
def unwatched(server: Embedded) -> Iterator[None]:
    """Stop the supervisor meanwhile: on a busy machine it would take what a test stops for what hangs, and end it."""
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def stands_still(task: Path) -> bool:
    """Whether a thread is stopped, or has ended; the signal that stops a process reaches one after another."""
    with suppress(OSError):
        return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    return True


@contextmanager
def stopped(server: Embedded) -> Iterator[None]:
    """The server and whoever would rescue it stand still."""
    with unwatched(server):
        pid = server.endpoint["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: all(map(stands_still, Path(f"/proc/{pid}/task").iterdir())))
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextmanager
def asking(clients: Sequence[PolicyClient], observations: Any, right: Mapping[str, Any]) -> Iterator[Callers]:
    """Let each client ask without pause while the block runs, and hold every answer against its release's.

    Args:
        clients: Of one policy; one that stands there twice is shared by two callers.
        observations: What they ask for, in turn.
        right: The actions of each release, in the order of `observations`.
    """
    callers, stop = Callers(), threading.Event()

    def ask(client: PolicyClient) -> None:
        try:
            while not stop.is_set():
                for row, observation in enumerate(observations):
                    action = client.act(observation)
                    np.testing.assert_allclose(action.value, right[action.release][row], rtol=0, atol=1e-4)
                    callers.answers[action.release] += 1
        except BaseException as error:
            callers.failures.append(error)

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    try:
        for thread in threads:
            thread.start()
        yield callers
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)


@contextmanager
def client_file(name: str, content: bytes) -> Iterator[None]:
    """A file in /dev/shm, locked as a client's is: every server on this machine sweeps those that nobody locks."""
    path = claims.FOLDER / name
    while (descriptor := claims.make(path)) is None:
        pass
    try:
        os.write(descriptor, content)
        yield
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


@contextmanager
def embedded(folder: Path, *, apart: bool = False) -> Iterator[Embedded]:
    """A repository in `folder`; whatever serves it at the end is stopped."""
    server = Embedded(folder, apart=apart)
    try:
        yield server
    finally:
        server.end()
        shutil.rmtree(folder, ignore_errors=True)
