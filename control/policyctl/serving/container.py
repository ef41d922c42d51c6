"""Start, watch and stop one tritonserver in a container of NVIDIA's image.

The twin of `policyctl.serving.process`, on Docker's API (the `docker` package,
imported where it is needed). What this module promises:

- Published ports are on loopback alone: Docker's own firewall rules go before
  the machine's, so another address would be open to the network whatever a
  firewall says.
- The container cannot change the repository (mounted read-only, at the path
  that it has here, so every path in arguments and traces means the same on both
  sides), has no capabilities, gains no privileges, does not run as root, and
  writes to nothing but its traces and memory.
- The key is in a file that only its owner reads, for as long as the container
  is there, and not in what ``docker inspect`` shows. Inside the container, and
  to this machine's root, it is an argument of tritonserver all the same: Triton
  takes it in no other way.
- An image is never fetched here: it is some 10 GB, and which one runs is the
  operator's decision.

A container outlives its supervisor where that is killed; it bears the
repository's label, and whoever serves that repository next removes it first.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from policyctl.domain.recommendations import THREAD_VARIABLES
from policyctl.errors import ServerError, UnsupportedError, UsageError
from policyctl.serving.backend_directory import MODULES
from policyctl.serving.command import ServerOptions, arguments, restrictions
from policyctl.serving.logs import Level, LogLine, OnLog, ignore, parse
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
_POLL_S: Final = 0.1
_KEPT_LINES: Final = 200
_STOP_RESERVE_S: Final = 5


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
    seen = replace(options, backend_directory=BACKENDS, api_key="")
    if settings.network == HOST_NETWORK:
        return seen
    http, grpc, metrics = INSIDE
    return replace(seen, host="0.0.0.0", http_port=http, grpc_port=grpc, metrics_port=metrics)  # noqa: S104


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
        # No swap beside it: a server that swaps answers too late to be of use.
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
    found = {**THREAD_VARIABLES, "HOME": "/tmp"}  # noqa: S108 - the container's own
    return found if gpu else {**found, "TRITON_SERVER_CPU_ONLY": "1"}


def _started(options: ServerOptions, settings: DockerSettings) -> dict[str, Any]:
    """Entry point and command: tritonserver, behind a shell that reads the key."""
    rules = " ".join(f'"{rule}"' for rule in restrictions(options.restricted_apis, "$key"))
    words = [*arguments(inside(options, settings)), *options.extra_args]
    return {"entrypoint": ["/bin/sh", "-c", _SHELL + rules, _KEY_FILE], "command": words}


def _mounts(repository: Path, settings: DockerSettings, mounts: Mounts) -> Iterator[Any]:
    from docker.types import Mount

    yield Mount(str(repository), str(repository), type="bind", read_only=True)
    yield Mount(str(mounts.traces), str(mounts.traces), type="bind")
    yield Mount(_KEY_FILE, str(mounts.key), type="bind", read_only=True)
    if settings.backends is ContainerBackends.POLICYCTL:
        own = Path(__file__).resolve().parent / "backends"
        for name in MODULES:
            yield Mount(str(BACKENDS / name), str(own / name), type="bind", read_only=True)


class TritonContainer:
    """One container: started once, stopped once. Its methods may be called from any thread.

    Args:
        options: How the server runs, as seen from this machine.
        settings: Image, user and limits.
        mounts: Key and traces.
        gpu: Give it every NVIDIA GPU.
        on_log: Called with every line of its log, on a thread of ours.
        client: Docker's client; that of the environment (``DOCKER_HOST``) if not given.
    """

    def __init__(
        self,
        options: ServerOptions,
        settings: DockerSettings,
        mounts: Mounts,
        *,
        gpu: bool = False,
        on_log: OnLog = ignore,
        client: Any = None,
    ) -> None:
        self.options = options
        self.settings = settings
        self.mounts = mounts
        self._gpu = gpu
        self._on_log = on_log
        self._client = client
        self._container: Any = None
        self._started_at = ""
        self._last: deque[LogLine] = deque(maxlen=_KEPT_LINES)

    def start(self) -> None:
        """Remove what an earlier supervisor left, and start it; `wait_live` says when it answers.

        Raises:
            ServerError: It was started before, or Docker refuses.
            UnsupportedError: No Docker answers, or the image is not there.
            UsageError: The settings ask for root, or for a port that is not on loopback.
        """
        if self._container is not None:
            raise ServerError("this container was started before", remedy="Make a new TritonContainer.")
        called = creation(self.options, self.settings, self.mounts, gpu=self._gpu)
        client = self._client = self._client or connect()
        require_image(client, self.settings.image)
        with _told(f"start {self.settings.image}"):
            for left in client.containers.list(all=True, filters={"label": f"{LABEL}={called['labels'][LABEL]}"}):
                left.remove(force=True, v=True)
            self._container = client.containers.create(**called)
            self._container.start()
            self._container.reload()
        self._started_at = str(self._state().get("StartedAt", ""))
        threading.Thread(target=self._drain, name="container-log", daemon=True).start()

    def wait_live(self, timeout_s: float) -> None:
        """Return once it answers on its HTTP port.

        Raises:
            ServerError: It ended, or did not answer in time; names its last words.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.is_running():
                raise ServerError(f"the container ended ({self.ended()}) before it answered: {self._last_words()}")
            if self._answers():
                return
            time.sleep(_POLL_S)
        raise ServerError(
            f"the container did not answer on {self.options.host}:{self.options.http_port} within {timeout_s:g} s:"
            f" {self._last_words()}",
            remedy=f"Look: docker logs {container_name(self.options.repository.absolute())}",
        )

    def is_running(self) -> bool:
        """Whether this very run of the container is there; one that somebody restarted is another.

        Docker's own silence says nothing about Triton, which may go on without it.
        """
        if self._container is None:
            return False
        try:
            with _told("look at the container"):
                self._container.reload()
        except UnsupportedError:
            return True
        except ServerError:
            return False  # it was removed
        state = self._state()
        return state.get("Status") == "running" and state.get("StartedAt") == self._started_at

    def ended(self) -> str:
        """How it ended, in words."""
        state = self._state()
        if state.get("OOMKilled"):
            return f"out of memory: docker.memory_mib is {self.settings.memory_mib}"
        if state.get("Status") == "running":
            return "somebody restarted it"
        return f"exit code {state.get('ExitCode', '?')}"

    def exit_code(self) -> int | None:
        """What it ended with; None where it runs, or is gone."""
        state = self._state()
        return None if state.get("Status") != "exited" else int(state.get("ExitCode", 0))

    def stop(self) -> None:
        """End and remove it, and the key's file; nothing happens where there is nothing."""
        self.mounts.key.unlink(missing_ok=True)
        container, self._container = self._container, None
        if container is None:
            return
        # A daemon that is gone, or somebody who removed it first, leaves nothing to do here.
        with contextlib.suppress(ServerError, UnsupportedError), _told("stop the container"):
            container.stop(timeout=self.options.exit_timeout_s + _STOP_RESERVE_S)
        with contextlib.suppress(ServerError, UnsupportedError), _told("remove the container"):
            container.remove(force=True, v=True)

    def _state(self) -> Mapping[str, Any]:
        return {} if self._container is None else self._container.attrs.get("State", {})

    def _drain(self) -> None:
        key = self.options.api_key
        with contextlib.suppress(ServerError, UnsupportedError), _told("read its log"):
            rest = b""
            for chunk in self._container.logs(stream=True, follow=True):
                *lines, rest = (rest + chunk).split(b"\n")
                for raw in lines:
                    text = raw.decode(errors="replace").rstrip("\r")
                    line = parse(text.replace(key, "***") if key else text)
                    self._last.append(line)
                    with contextlib.suppress(Exception):  # a listener's defect must not end the reading
                        self._on_log(line)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.options.host, self.options.http_port, timeout=1.0)
        try:
            connection.request("GET", "/v2/health/live")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _last_words(self) -> str:
        lines = list(self._last)
        chosen = [line for line in lines if line.level is Level.ERROR] or lines
        return " | ".join(line.message for line in chosen[-3:]) or "it said nothing"


def connect() -> Any:
    """A client of the Docker that the environment names.

    Raises:
        UnsupportedError: The package is not installed, or no Docker answers.
    """
    try:
        import docker
    except ImportError:
        raise UnsupportedError(
            "the package docker is not installed", remedy="Install it: pip install 'policyctl[docker]'"
        ) from None
    with _told("reach Docker"):
        client = docker.from_env()
        client.ping()
    return client


def require_image(client: Any, image: str) -> None:
    """Refuse where the image is not on Docker's machine.

    Raises:
        UnsupportedError: It is not.
    """
    from docker.errors import ImageNotFound

    try:
        with _told(f"look for {image}"):
            client.images.get(image)
    except ServerError as error:
        if isinstance(error.__cause__, ImageNotFound):
            raise UnsupportedError(
                f"the image {image} is not on this machine", remedy=f"Fetch it (some 10 GB): docker pull {image}"
            ) from error
        raise


@contextlib.contextmanager
def _told(doing: str) -> Iterator[None]:
    """Docker's refusals as ours; a Docker that does not answer is something that is missing here."""
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    remedy = "Is Docker running, and may you use it? Try: docker info"
    try:
        yield
    except APIError as error:
        raise ServerError(f"Docker: cannot {doing}: {error.explanation or error}") from error
    except (DockerException, RequestException) as error:
        raise UnsupportedError(f"Docker: cannot {doing}: {error}", remedy=remedy) from error
