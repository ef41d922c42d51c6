"""Run `policyctl serve` in the background, for benchmarks, the demo and tests.

The server is a separate process on free ports, started by the command that a
person types.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from policyctl.errors import ServerError

COMMAND = (sys.executable, "-m", "policyctl")
_POLL_S = 0.05


def policyctl(repository: Path, *arguments: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
    """Run one command on `repository`, as a separate process; it may refuse."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "POLICYCTL_REPOSITORY": str(repository)},
        timeout=timeout_s,
        check=False,
    )


def persons_environment() -> dict[str, str]:
    """Without settings, and without PYTHONDONTWRITEBYTECODE, say: a person's Python compiles each module once."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("POLICYCTL_", "PYTHON"))}


class BackgroundServer:
    """`policyctl serve` on one repository, from `start` to `stop`; also a context manager.

    Args:
        repository: What to serve.
        log: File to which everything that it says is appended.
        environment: Of its process; None for this one's.
        command: What starts `policyctl`; that of another checkout, say.
    """

    def __init__(
        self,
        repository: Path,
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        self.repository = repository
        self.log = log
        self._environment, self._command = environment, command
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_running:
            self.stop()

    @property
    def is_running(self) -> bool:
        """Whether `policyctl serve` itself runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def endpoint(self) -> dict[str, Any]:
        """Where it answers: ``http``, ``grpc``, ``metrics``, ``pid`` of tritonserver, ..."""
        endpoint: dict[str, Any] = json.loads(self._endpoint_path.read_text())
        return endpoint

    @property
    def log_text(self) -> str:
        """Everything that it said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def _endpoint_path(self) -> Path:
        return self.repository / ".policyctl" / "server.json"

    def start(self, *, timeout_s: float = 300.0) -> None:
        """Start it and wait until it has announced itself.

        Raises:
            ServerError: It ended, or was not ready in time; with what it said.
        """
        self._endpoint_path.unlink(missing_ok=True)
        self.begin()
        deadline = time.monotonic() + timeout_s
        while not self._endpoint_path.exists():
            if not self.is_running or time.monotonic() > deadline:
                raise ServerError(f"policyctl serve did not get ready: {self.log_text}")
            time.sleep(_POLL_S)

    def begin(self, *options: str) -> None:
        """Start it on free ports, unless `options` say others, and return at once."""
        arguments = ["serve", "--repository", str(self.repository)]
        arguments += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        arguments += ["--control-metrics-port", "0"]
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                [*self._command, *arguments, *options], stdout=stream, stderr=stream, env=self._environment
            )

    def stop(self, *, number: int = signal.SIGTERM, timeout_s: float = 120.0) -> int:
        """Ask it to stop; its exit code.

        Raises:
            ServerError: It was not started.
            subprocess.TimeoutExpired: It did not end in time.
        """
        if self.process is None:
            raise ServerError("policyctl serve was not started")
        self.process.send_signal(number)
        return self.process.wait(timeout_s)
