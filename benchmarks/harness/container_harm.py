"""What can happen to a container that serves, done to it on purpose, and how long nobody was answered."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import psutil

from harness.docker_engine import Engine
from policyctl.client import PolicyClient
from policyctl.errors import PolicyctlError
from policyctl.serving.container_request import container_name

PATIENCE_S: Final = 300.0
"""For what must happen, on a busy machine too."""
_EVERY_S: Final = 0.01
_ANSWER_S: Final = 0.5
_QUIET_S: Final = 2.0
"""Answers must go on for so long before a container counts as back."""
_HOG: Final = "x = b'x' * (8 << 30)"


@dataclass(frozen=True, slots=True)
class Harmed:
    """The container of one repository, on its engine."""

    engine: Engine
    repository: Path

    @property
    def name(self) -> str:
        """Of the container."""
        return container_name(self.repository.absolute())

    @property
    def id(self) -> str:
        """Of the container that serves now; empty while none serves."""
        return self.engine.docker("inspect", "--format", "{{.Id}}", self.name, check=False).stdout.strip()

    def triton(self) -> psutil.Process:
        """The process of tritonserver, as this machine sees it."""
        (first,) = self.engine.docker("inspect", "--format", "{{.State.Pid}}", self.name).stdout.split()
        (found,) = (p for p in psutil.Process(int(first)).children(recursive=True) if p.name() == "tritonserver")
        return found

    def kill(self) -> None:
        """`docker kill`."""
        self.engine.docker("kill", self.name)

    def stop(self) -> None:
        """`docker stop`."""
        self.engine.docker("stop", self.name)

    def restart(self) -> None:
        """`docker restart`, by somebody who does not know of policyctl."""
        self.engine.docker("restart", self.name, check=False)  # it may be replaced meanwhile

    def pause(self) -> None:
        """`docker pause`."""
        self.engine.docker("pause", self.name)

    def freeze(self) -> None:
        """SIGSTOP to tritonserver: it is there, and silent."""
        self.triton().suspend()

    def run_out(self) -> None:
        """The kernel ends tritonserver at the container's limit of memory."""
        Path(f"/proc/{self.triton().pid}/oom_score_adj").write_text("1000")
        self.hog()

    def hog(self) -> None:
        """Another process of the container takes all memory there is."""
        self.engine.docker("exec", self.name, "python3", "-c", _HOG, check=False)

    def restart_engine(self) -> None:
        """Docker itself is stopped and started again."""
        self.engine.restart()


HARMS: Final[dict[str, Callable[[Harmed], None]]] = {
    "docker kill": Harmed.kill,
    "docker stop": Harmed.stop,
    "docker restart": Harmed.restart,
    "docker pause": Harmed.pause,
    "tritonserver is stopped by SIGSTOP": Harmed.freeze,
    "tritonserver runs out of memory": Harmed.run_out,
    "Docker is stopped and started again": Harmed.restart_engine,
}
"""Each kind, by what a table calls it."""


class Answers:
    """A client that asks all the time, and when it was answered.

    Args:
        url: Where Triton answers gRPC.
        observation: What it asks with.
        answer_s: How long it waits for each answer.

    Attributes:
        failures: Requests without an answer.
    """

    def __init__(self, url: str, observation: list[float], *, answer_s: float = _ANSWER_S) -> None:
        self._url, self._observation, self._answer_s = url, observation, answer_s
        self._times = [time.monotonic()]
        self.failures = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def longest_s(self, since: float, until: float) -> float:
        """The longest time without an answer between two moments of the monotonic clock."""
        times = [since, *(each for each in list(self._times) if since <= each <= until), until]
        return max(later - earlier for earlier, later in pairwise(times))

    def is_back(self, since: float) -> bool:
        """Whether answers have come without a break for a while, and not from before `since`."""
        now = time.monotonic()
        return now - _QUIET_S > since and self.longest_s(now - _QUIET_S, now) < _ANSWER_S

    def _ask(self) -> None:
        with PolicyClient("walker", url=self._url, deadline_s=self._answer_s) as client:
            while not self._stop.wait(_EVERY_S):
                try:
                    client.act(self._observation)
                except PolicyctlError:
                    self.failures += 1
                else:
                    self._times.append(time.monotonic())

    def begin(self) -> None:
        """Start to ask."""
        self._thread.start()

    def end(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join()


@contextmanager
def asking(url: str, observation: list[float], *, answer_s: float = _ANSWER_S) -> Iterator[Answers]:
    """A client at work."""
    answers = Answers(url, observation, answer_s=answer_s)
    answers.begin()
    try:
        yield answers
    finally:
        answers.end()


def outage_s(harmed: Harmed, answers: Answers, harm: Callable[[Harmed], None]) -> float:
    """Do harm, wait until another container answers, and say how long nobody was answered.

    Raises:
        AssertionError: None does within `PATIENCE_S`.
    """
    before, since = harmed.id, time.monotonic()
    harm(harmed)
    deadline = time.monotonic() + PATIENCE_S
    while harmed.id in {"", before} or not answers.is_back(since):
        assert time.monotonic() < deadline, f"nobody is answered again within {PATIENCE_S:.0f} s"
        time.sleep(_EVERY_S)
    return answers.longest_s(since, time.monotonic())


def versions(engine: Engine) -> str:
    """Of the engine, and of Compose where it is installed."""
    docker = engine.docker("version", "--format", "{{.Server.Version}}").stdout.strip()
    compose = subprocess.run(["docker", "compose", "version", "--short"], capture_output=True, text=True, check=False)
    return f"Docker {docker}" + (f", Compose {compose.stdout.strip()}" if compose.returncode == 0 else "")
