"""What Docker is asked for: the container in which NVIDIA's image serves a repository.

What is promised of it:

- Published ports are on loopback alone: Docker's own firewall rules go before
  the machine's, so another address would be open to the network whatever a
  firewall says.
- The container cannot change the repository (mounted read-only, at the path
  that it has here, so every path in arguments and traces means the same on both
  sides), has no capabilities, gains no privileges, does not run as root, and
  writes to nothing but its traces and memory.
- The key is in a file that only its owner reads, and not in what ``docker
  inspect`` shows. Inside the container, and to this machine's root, it is an
  argument of tritonserver all the same: Triton takes it in no other way.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from policyctl.domain.recommendations import THREAD_VARIABLES
from policyctl.errors import UsageError
from policyctl.serving.backend_directory import MODULES
from policyctl.serving.command import ServerOptions, arguments, restrictions
from policyctl.settings import ContainerBackends, DockerSettings

BACKENDS: Final = Path("/opt/tritonserver/backends")
"""Where NVIDIA's image has its backends."""
INSIDE: Final = (8000, 8001, 8002)
"""HTTP, gRPC and metrics in a network of Docker's, whatever they are published as."""
LABEL: Final = "policyctl.repository"
HOST_NETWORK: Final = "host"
_KEY_FILE: Final = "/run/policyctl-key"
_TRITON_USER: Final = 1000
"""The image's own user `triton-server`, for where policyctl runs as root."""
_SHELL: Final = 'key=$(cat "$0") && exec tritonserver "$@" '


@dataclass(frozen=True, slots=True)
class Mounts:
    """What of this machine the container sees.

    Attributes:
        key: File with the key of the restricted APIs.
        traces: Folder that Triton may write its traces to.
    """

    key: Path
    traces: Path


def container_name(repository: Path) -> str:
    """One name for each repository, so that two containers cannot serve one."""
    return f"policyctl-{hashlib.sha256(str(repository).encode()).hexdigest()[:12]}"


def user_of(settings: DockerSettings) -> str:
    """UID:GID of the server in the container: as set, else ours, and the image's own user where we are root.

    Raises:
        UsageError: Root was asked for, or it is not UID:GID.
    """
    user = settings.user or (f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{_TRITON_USER}:{_TRITON_USER}")
    uid, _, gid = user.partition(":")
    if not (uid.isdecimal() and gid.isdecimal()):
        raise UsageError(f"docker.user is {user!r}, not UID:GID", remedy="Give two numbers, for example 1000:1000.")
    if int(uid) == 0:
        raise UsageError("docker.user 0 is root", remedy="Name another user: it only has to read the repository.")
    return user


def inside(options: ServerOptions, settings: DockerSettings) -> ServerOptions:
    """`options` as the container's tritonserver has to see them.

    Raises:
        UsageError: It would be published on another address than loopback.
    """
    if not _is_loopback(options.host):
        raise UsageError(
            f"server.host is {options.host}: a container's ports are published on an address of loopback only,"
            " because Docker opens them past the machine's firewall",
            remedy="Use 127.0.0.1, and put a proxy with TLS in front.",
        )
    visible = replace(options, backend_directory=BACKENDS, api_key="")
    if settings.network == HOST_NETWORK:
        return visible
    http, grpc, metrics = INSIDE
    return replace(visible, host="0.0.0.0", http_port=http, grpc_port=grpc, metrics_port=metrics)  # noqa: S104


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # Docker publishes on addresses, not on names


def creation(options: ServerOptions, settings: DockerSettings, mounts: Mounts, *, gpu: bool) -> dict[str, Any]:
    """What ``docker.containers.create`` is called with.

    Args:
        options: How the server is to run, as seen from this machine.
        settings: Image, user and limits.
        mounts: Key and traces.
        gpu: Give it every NVIDIA GPU.

    Raises:
        UsageError: The settings ask for root, or for a port that is not on loopback.
    """
    from docker.types import DeviceRequest, LogConfig

    repository = options.repository.absolute()
    called: dict[str, Any] = {
        "image": settings.image,
        **_started(options, settings),
        "name": container_name(repository),
        "labels": {LABEL: str(repository)},
        "environment": _environment(gpu),
        "user": user_of(settings),
        "mounts": list(_mounts(repository, settings, mounts)),
        "read_only": True,
        "tmpfs": {"/tmp": "rw,nosuid,nodev,noexec,size=64m,mode=1777"},  # noqa: S108
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "init": True,
        "shm_size": settings.shm_mib << 20,
        "mem_limit": settings.memory_mib << 20,
        # No swap in addition: a server that swaps answers too late to be of use.
        "memswap_limit": settings.memory_mib << 20,
        "pids_limit": settings.pids,
        "restart_policy": {"Name": "no"},
        "log_config": LogConfig(type=LogConfig.types.JSON, config={"max-size": "10m", "max-file": "3"}),
    }
    if settings.cpus is not None:
        called["nano_cpus"] = int(settings.cpus * 1e9)
    if gpu:
        called["device_requests"] = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    if settings.network == HOST_NETWORK:
        called["network_mode"] = HOST_NETWORK
    else:
        published = zip(INSIDE, options.ports, strict=True)
        called["ports"] = {f"{ours}/tcp": (options.host, theirs) for ours, theirs in published}
        if settings.network:
            called["network"] = settings.network
    return called


def _environment(gpu: bool) -> dict[str, str]:
    """What the image's own entry point, which cannot write here, would have said of a machine without a GPU."""
    variables = {**THREAD_VARIABLES, "HOME": "/tmp"}  # noqa: S108 - the container's own
    return variables if gpu else {**variables, "TRITON_SERVER_CPU_ONLY": "1"}


def _started(options: ServerOptions, settings: DockerSettings) -> dict[str, Any]:
    """Entry point and command: tritonserver, behind a shell that reads the key."""
    rules = " ".join(f'"{rule}"' for rule in restrictions(options.restricted_apis, "$key"))
    command = [*arguments(inside(options, settings)), *options.extra_args]
    return {"entrypoint": ["/bin/sh", "-c", _SHELL + rules, _KEY_FILE], "command": command}


def _mounts(repository: Path, settings: DockerSettings, mounts: Mounts) -> Iterator[Any]:
    from docker.types import Mount

    yield Mount(str(repository), str(repository), type="bind", read_only=True)
    yield Mount(str(mounts.traces), str(mounts.traces), type="bind")
    yield Mount(_KEY_FILE, str(mounts.key), type="bind", read_only=True)
    if settings.backends is ContainerBackends.POLICYCTL:
        own = Path(__file__).resolve().parent / "backends"
        for name in MODULES:
            yield Mount(str(BACKENDS / name), str(own / name), type="bind", read_only=True)
