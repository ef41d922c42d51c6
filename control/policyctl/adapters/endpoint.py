"""How a command finds the server: a small file that `policyctl serve` writes.

It holds the key of the restricted repository API, so only its owner may read
it, and nothing prints it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import psutil

from policyctl.adapters import lock
from policyctl.adapters.repository import Repository


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a Triton answers.

    Attributes:
        http: ``host:port`` of HTTP.
        grpc: ``host:port`` of gRPC.
        metrics: ``host:port`` of the metrics, empty if unknown.
        api_key: Of the restricted repository API; empty where it is open.
        server_id: Names this very run of the server; empty where it is not ours.
        pid: Of tritonserver, 0 where it is not ours.
        supervisor_pid: Of `policyctl serve`, 0 where it is not ours.
        openvino: Which OpenVINO backend serves, and why; empty where it is not ours.
        control_metrics: ``host:port`` of the control plane's own metrics, empty where it is not ours.
        engine: Who runs it: ``embedded``, ``docker`` or ``external``; empty where no supervisor looks after it.
        backends: ``policyctl`` where they verify what they load; else NVIDIA's, or unknown.
        triton_guard: ``loaded`` where Triton is kept from crashing of traces and cancelled calls; else empty.
    """

    http: str
    grpc: str
    metrics: str = ""
    api_key: str = field(default="", repr=False)
    server_id: str = ""
    pid: int = 0
    supervisor_pid: int = 0
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
    """Tell other commands where the server is."""
    repository.write(path_in(repository), json.dumps(asdict(endpoint)).encode(), mode=0o600)


def path_in(repository: Repository) -> Path:
    """Where the file is."""
    return repository.control / "server.json"


def read(repository: Repository) -> Endpoint | None:
    """The server's endpoint; None where none is readable or its supervisor is gone."""
    try:
        data = json.loads(path_in(repository).read_text())
        endpoint = Endpoint(**data)
        kinds = {f.name: int if f.name.endswith("pid") else str for f in fields(Endpoint)}
        if any(type(value) is not kinds[name] for name, value in data.items()):
            return None
        return endpoint if _is_alive(repository, endpoint.supervisor_pid) else None
    except (OSError, ValueError, TypeError, OverflowError, RecursionError):
        return None


def _is_alive(repository: Repository, supervisor_pid: int) -> bool:
    """Whether the supervisor is there; one in another container has no process id here, but holds its lock."""
    return supervisor_pid > 0 and (psutil.pid_exists(supervisor_pid) or lock.is_held(supervisor_lock(repository)))


def supervisor_lock(repository: Repository) -> Path:
    """What `policyctl serve` holds for as long as it runs."""
    return repository.control / "server.lock"


def clear(repository: Repository) -> None:
    """The server is gone."""
    path_in(repository).unlink(missing_ok=True)
