"""How a command finds the server: a small file that `policyctl serve` writes.

It holds the key of the restricted repository API, so only its owner may read
it, and nothing prints it.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from policyctl.adapters import lock
from policyctl.adapters.repository import Repository

FILE: Final = "server.json"
THIS_PROCESS: Final = secrets.token_hex(8)
"""Names this very process; a process id may be another's, in another container or after a restart."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a Triton answers.

    Attributes:
        http: ``host:port`` of HTTP; empty where it is off.
        grpc: ``host:port`` of gRPC.
        metrics: ``host:port`` of the metrics, empty if unknown.
        api_key: Of the restricted repository API; empty where it is open.
        server_id: Names this very run of the server; empty where it is not ours.
        pid: Of tritonserver, 0 where it is not ours or cannot be seen from here.
        supervisor_pid: Of `policyctl serve`, 0 where it is not ours or cannot be seen from here.
        supervisor: Names the run of `policyctl serve` that looks after it; empty where none does.
        pid_namespace: In which the process ids mean something.
        openvino: Which OpenVINO backend serves, and why; empty where it is not ours.
        control_metrics: ``host:port`` of the control plane's own metrics, empty where it is not ours.
        engine: Who runs it: ``embedded``, ``docker`` or ``external``; empty where no supervisor looks after it.
        backends: ``policyctl`` where they verify what they load; else NVIDIA's, or unknown.
        triton_guard: ``loaded`` where Triton is kept from crashing of what clients send; else empty.
    """

    http: str
    grpc: str
    metrics: str = ""
    api_key: str = field(default="", repr=False)
    server_id: str = ""
    pid: int = 0
    supervisor_pid: int = 0
    supervisor: str = ""
    pid_namespace: str = ""
    openvino: str = ""
    control_metrics: str = ""
    engine: str = ""
    backends: str = ""
    triton_guard: str = ""

    @property
    def verifies(self) -> bool:
        """Whether its backends hold what they load against the manifest."""
        return self.backends == "policyctl"


def write(repository: Repository, endpoint: Endpoint) -> None:
    """Tell other commands where the server is, in the name of this process unless `endpoint` names another."""
    supervisor = endpoint.supervisor or THIS_PROCESS
    announced = replace(endpoint, supervisor=supervisor, pid_namespace=_pid_namespace())
    repository.write_value(FILE, announced, mode=0o600)


def path_in(repository: Repository) -> Path:
    """Where the file is."""
    return repository.control / FILE


def read(repository: Repository) -> Endpoint | None:
    """The server's endpoint; None where the file is missing or holds something else, or its supervisor is gone.

    Raises:
        UsageError: A server runs, and this process may not read how to reach it.
    """
    if not lock.is_held(supervisor_lock(repository)):
        return None
    endpoint = repository.read_value(FILE, Endpoint)
    if endpoint is None or endpoint.pid_namespace == _pid_namespace():
        return endpoint
    return replace(endpoint, pid=0, supervisor_pid=0)


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - it names no path
    except OSError:
        return ""


def supervisor_lock(repository: Repository) -> Path:
    """What `policyctl serve` holds for as long as it runs."""
    return repository.control / "server.lock"


def clear(repository: Repository) -> None:
    """The server is gone."""
    path_in(repository).unlink(missing_ok=True)
