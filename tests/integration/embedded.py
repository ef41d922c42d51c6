"""A real repository with real releases, and `policyctl serve` on it, for tests.

Releases are tiny policies exported once a session; `policyctl` is run as a
person runs it, in a process of its own.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policyctl.services.control import Control
from policyctl.settings import load
from policyctl_benchmarks.background_server import BackgroundServer, policyctl


@functools.cache
def exported(seed: int) -> Path:
    """The folder of an exported policy; another seed answers otherwise."""
    import gymnasium as gym
    import torch

    from policyctl_exporters import export_policy

    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2), torch.nn.Tanh())
    folder = Path(tempfile.mkdtemp(prefix="policyctl-tests-")) / f"seed{seed}"
    export_policy(
        module,
        folder,
        observation_space=gym.spaces.Box(-1, 1, (4,)),
        action_space=gym.spaces.Box(-1, 1, (2,)),
        golden_rows=16,
    )
    return folder


class Embedded(BackgroundServer):
    """One repository; its server may be started and stopped."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "model_repository", folder / "serve.log")
        self.root = self.repository

    @property
    def control(self) -> Control:
        """The control plane, in this process."""
        return Control.of(load(repository=self.root))

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `policyctl`; with `check`, a refusal fails the test."""
        done = policyctl(self.root, *arguments, timeout_s=120)
        assert not check or done.returncode == 0, done.stderr + self.log_text
        return done

    def json(self, *arguments: str) -> Any:
        """Run `policyctl ... --json` and read what it prints."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def publish(self, release: str, seed: int) -> None:
        """Publish the policy of `seed` as `release` of walker."""
        self.run("publish", str(exported(seed)), "--model", "walker", "--release", release)

    def answered_by(self, alias: str = "production") -> str | None:
        """The release that answers an inference now."""
        (row,) = [a for a in self.json("status")["aliases"] if a["alias"] == alias]
        return row["answers"]


def wait_for(condition: Callable[[], object], timeout_s: float, *, every_s: float = 0.05) -> None:
    """Wait until `condition()` holds.

    Raises:
        AssertionError: It does not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(every_s)


@contextmanager
def embedded(folder: Path) -> Iterator[Embedded]:
    """A repository in `folder`; whatever serves it at the end is stopped."""
    server = Embedded(folder)
    try:
        yield server
    finally:
        if server.is_running:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
