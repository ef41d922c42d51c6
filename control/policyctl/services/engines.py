"""Who runs the Triton that the supervisor looks after: this process, Docker, or somebody else.

The supervisor knows one thing, an `Engine`: one run of a server, from `start`
to `stop`. What differs between the three is here, and that is little: what is
checked and laid out before the first run, how a run is begun and ended, and
what the supervisor may do where nothing answers. An external server cannot be
started again; it can only be found again.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from policyctl.adapters import lock
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.triton import Triton
from policyctl.domain.recommendations import pools
from policyctl.errors import ServerError, UsageError
from policyctl.services.control import Control
from policyctl.services.hardware import announce
from policyctl.services.record import trace_folder
from policyctl.serving.backend_directory import assemble
from policyctl.serving.command import ServerOptions
from policyctl.serving.container import BACKENDS, Mounts, TritonContainer, connect, inside, require_image, user_of
from policyctl.serving.hardware import detect
from policyctl.serving.locate import locate
from policyctl.serving.logs import OnLog
from policyctl.serving.native import choose
from policyctl.serving.ports import free_ports
from policyctl.serving.preflight import preflight, require
from policyctl.serving.process import TritonProcess
from policyctl.settings import ContainerBackends, ServerSettings
from policyctl.settings import Engine as Kind

OURS_VERIFY: Final = "policyctl"
"""`Endpoint.backends` where the backends hold what they load against the manifest."""
_LOOK_S: Final = 0.2
_EXTERNAL_WAIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Manner:
    """What the supervisor may do with an engine, and its words for it.

    Attributes:
        kind: Which engine.
        ours: A server that never came up is an error: nobody else will mend it.
        shares_memory: Clients' shared memory is in the ``/dev/shm`` of this process.
        silent: Said when it does not answer.
        ended: Said when the run is over; the engine may know more.
        again: Said before another try, with a time after it.
        longest_pause_s: Between two tries. Starting costs, asking does not.
    """

    kind: Kind
    ours: bool
    shares_memory: bool
    silent: str
    ended: str
    again: str
    longest_pause_s: float = 30.0


class Engine(Protocol):
    """One run of a server; started once, stopped once."""

    @property
    def manner(self) -> Manner:
        """What the supervisor may do with it."""
        ...

    def start(self) -> None:
        """Begin the run.

        Raises:
            ServerError: It cannot be begun.
        """
        ...

    def wait(self, timeout_s: float) -> None:
        """Return once the server answers.

        Raises:
            ServerError: It ended, or did not answer in time.
        """
        ...

    def is_running(self, served: Collection[str]) -> bool:
        """Whether it is still this run (which says nothing about its answers).

        Args:
            served: Triton models that should be loaded in it.
        """
        ...

    def ended(self) -> tuple[str, int | None]:
        """How the run ended: words, and an exit code where there is one."""
        ...

    def stop(self) -> None:
        """End the run and leave nothing behind."""
        ...

    def endpoint(self) -> Endpoint:
        """Where it answers, with an id that names this run."""
        ...


Launch = Callable[[OnLog], Engine]
"""Makes the engine of one run."""


EMBEDDED: Final = Manner(
    Kind.EMBEDDED,
    ours=True,
    shares_memory=True,
    silent="The server does not answer; it is stopped and started again.",
    ended="The server's process has ended.",
    again="Starting the server again",
)
DOCKER: Final = Manner(
    Kind.DOCKER,
    ours=True,
    shares_memory=False,
    silent="The server in the container does not answer; the container is removed and another one started.",
    ended="The container has ended.",
    again="Starting the container again",
)
EXTERNAL: Final = Manner(
    Kind.EXTERNAL,
    ours=False,
    shares_memory=False,
    silent="The server does not answer. It is not ours to start again: whoever runs it has to.",
    ended="The server was restarted by whoever runs it: what was loaded is not loaded any more.",
    again="Asking for it again",
    longest_pause_s=5.0,
)


def launcher(control: Control, *, api_key: str) -> Launch:
    """Check and lay out what the engine of the settings needs, once; the result makes one run at a time.

    Args:
        control: The control plane; its settings name the engine.
        api_key: Of the restricted repository API; an external server has its own.

    Raises:
        UnsupportedError: Something that it needs is missing here; names all of it.
        UsageError: The settings contradict it.
    """
    match control.settings.server.engine:
        case Kind.EMBEDDED:
            return _embedded(control, api_key)
        case Kind.DOCKER:
            return _docker(control, api_key)
        case Kind.EXTERNAL:
            return _external(control)


@dataclass(slots=True)
class EmbeddedEngine:
    """tritonserver as a child of this process."""

    process: TritonProcess
    openvino: str
    manner: Manner = EMBEDDED
    server_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def start(self) -> None:
        """Begin the run."""
        self.process.start()

    def wait(self, timeout_s: float) -> None:
        """Return once the server answers."""
        self.process.wait_live(timeout_s)

    def is_running(self, served: Collection[str]) -> bool:
        """Whether it is still this run."""
        return self.process.is_running()

    def ended(self) -> tuple[str, int | None]:
        """How the run ended."""
        return self.manner.ended, self.process.exit_code()

    def stop(self) -> None:
        """End the run and leave nothing behind."""
        self.process.stop()

    def endpoint(self) -> Endpoint:
        """Where it answers."""
        return _endpoint(
            self.process.options,
            self.server_id,
            self.manner,
            pid=self.process.pid,
            openvino=self.openvino,
            backends=OURS_VERIFY,
        )


@dataclass(slots=True)
class DockerEngine:
    """tritonserver in a container that this process starts and removes."""

    control: Control
    container: TritonContainer
    manner: Manner = DOCKER
    server_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def start(self) -> None:
        """Begin the run; its key and its traces are for the container's user alone."""
        mounts, user = self.container.mounts, user_of(self.container.settings)
        self.control.repository.write(mounts.key, self.container.options.api_key.encode(), mode=0o600)
        if os.getuid() == 0:  # else the container runs as us
            uid, gid = map(int, user.split(":"))
            for path in (mounts.key, mounts.traces):
                os.chown(path, uid, gid)
        self.container.start()

    def wait(self, timeout_s: float) -> None:
        """Return once the server answers; NVIDIA's image takes longer than the wheel."""
        self.container.wait_live(2 * timeout_s)

    def is_running(self, served: Collection[str]) -> bool:
        """Whether it is still this run."""
        return self.container.is_running()

    def ended(self) -> tuple[str, int | None]:
        """How the run ended: Docker knows of memory, and of others' hands."""
        return f"{self.manner.ended.rstrip('.')}: {self.container.ended()}.", self.container.exit_code()

    def stop(self) -> None:
        """End the run and leave nothing behind."""
        self.container.stop()

    def endpoint(self) -> Endpoint:
        """Where it answers; the process is in the container's own world, so none is named."""
        own = self.container.settings.backends is ContainerBackends.POLICYCTL
        return _endpoint(self.container.options, self.server_id, self.manner, backends=OURS_VERIFY if own else "nvidia")


@dataclass(slots=True)
class ExternalEngine:
    """A Triton that somebody else runs on this repository.

    Triton tells nobody when it was started. But a model's count of answers only
    grows while it is loaded, and a server in explicit mode has nothing loaded
    when it comes up: so a run is over where no alias of ours is loaded any more,
    or a count is less than it was. Whatever we load ourselves changes the
    journal, and while a writer is at work nothing is concluded.
    """

    control: Control
    manner: Manner = EXTERNAL
    server_id: str = field(default_factory=lambda: secrets.token_hex(8))
    _client: Triton | None = None
    _seen: Mapping[tuple[str, int], int] = field(default_factory=dict)
    _journal_bytes: int = -1

    def start(self) -> None:
        """Nothing is started."""

    def wait(self, timeout_s: float) -> None:
        """Return once it answers; nobody is kept waiting long, for the supervisor asks again."""
        self._client = Triton(self.endpoint(), timeout_s=_EXTERNAL_WAIT_S)
        deadline = time.monotonic() + min(timeout_s, _EXTERNAL_WAIT_S)
        while not self._client.is_live():
            if time.monotonic() >= deadline:
                raise ServerError(
                    f"no Triton answers at {self.control.settings.server.url}",
                    remedy="Start it, on this repository, with --model-control-mode=explicit.",
                )
            time.sleep(_LOOK_S)

    def is_running(self, served: Collection[str]) -> bool:
        """Whether what was loaded is loaded still; a silent server is the prober's to judge."""
        repository = self.control.repository
        if self._client is None or lock.is_held(repository.lock_path):
            return True
        try:
            size = repository.journal.path.stat().st_size
            now = self._client.answers()
        except (OSError, ServerError):
            return True
        before = {key: count for key, count in self._seen.items() if key[0] in served}
        if lock.is_held(repository.lock_path):
            return True  # a move began meanwhile
        if served and not any(name in served for name, _ in now):
            return False
        if size == self._journal_bytes and any(now.get(key, count) < count for key, count in before.items()):
            return False
        self._seen, self._journal_bytes = now, size
        return True

    def ended(self) -> tuple[str, int | None]:
        """How the run ended."""
        return self.manner.ended, None

    def stop(self) -> None:
        """It is not ours to stop."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def endpoint(self) -> Endpoint:
        """Where it answers, as the settings say."""
        server = self.control.settings.server
        return Endpoint(
            http=server.http_url,
            grpc=server.url,
            metrics=server.metrics_url,
            api_key=server.api_key.get_secret_value(),
            server_id=self.server_id,
            supervisor_pid=os.getpid(),
            engine=self.manner.kind.value,
        )


def _embedded(control: Control, api_key: str) -> Launch:
    settings = control.settings.server
    ports = _choose_ports(settings)
    native = control.settings.serving.native
    own = (settings.control_metrics_port,) if settings.control_metrics_port else ()
    require(preflight(repository=control.repository.root, host=settings.host, ports=(*ports, *own), native=native))
    announce(control)
    choice = choose(native)
    control.tell(f"OpenVINO backend: {choice.words}. {choice.remedy}".rstrip())
    backends = assemble(locate(), control.repository.control / "server" / "backends", native=choice.backend)
    options = _options(control, ports, backends, api_key=api_key, gpu=True)
    return lambda on_log: EmbeddedEngine(TritonProcess(options, on_log=on_log), choice.words)


def _docker(control: Control, api_key: str) -> Launch:
    docker, gpu = control.settings.docker, control.settings.serving.gpu
    options = _options(control, _choose_ports(control.settings.server), BACKENDS, api_key=api_key, gpu=gpu)
    inside(options, docker)  # refuses what must not be, before Docker is asked for anything
    user = user_of(docker)
    require_image(connect(), docker.image)
    announce(control)
    whose = "policyctl's own" if docker.backends is ContainerBackends.POLICYCTL else "NVIDIA's"
    control.tell(f"Container of {docker.image} as {user}, with {whose} backends.")

    mounts = Mounts(key=control.repository.control / "server" / "key", traces=trace_folder(control.repository))
    return lambda on_log: DockerEngine(control, TritonContainer(options, docker, mounts, gpu=gpu, on_log=on_log))


def _external(control: Control) -> Launch:
    if not control.settings.server.url:
        raise UsageError(
            "server.engine is external, and server.url does not say where that Triton is",
            remedy="Set POLICYCTL_SERVER__URL to its gRPC HOST:PORT.",
        )
    return lambda _on_log: ExternalEngine(control)


def _options(
    control: Control, ports: tuple[int, int, int], backends: Path, *, api_key: str, gpu: bool
) -> ServerOptions:
    settings = control.settings.server
    return ServerOptions(
        repository=control.repository.root,
        backend_directory=backends,
        host=settings.host,
        http_port=ports[0],
        grpc_port=ports[1],
        metrics_port=ports[2],
        api_key=api_key,
        trace_file=trace_folder(control.repository) / "trace",
        **_pools(settings, gpu=gpu),
    )


def _endpoint(
    options: ServerOptions, server_id: str, manner: Manner, *, pid: int = 0, openvino: str = "", backends: str
) -> Endpoint:
    return Endpoint(
        http=f"{options.host}:{options.http_port}",
        grpc=f"{options.host}:{options.grpc_port}",
        metrics=f"{options.host}:{options.metrics_port}",
        api_key=options.api_key,
        server_id=server_id,
        pid=pid,
        supervisor_pid=os.getpid(),
        openvino=openvino,
        engine=manner.kind.value,
        backends=backends,
    )


def _pools(settings: ServerSettings, *, gpu: bool) -> dict[str, Any]:
    """Sizes of Triton's memory pools: as set, else as the hardware has use for them."""
    hardware = detect()
    advised = pools(hardware)
    pinned = advised.pinned_mib if settings.pinned_pool_mib is None else settings.pinned_pool_mib
    cuda = advised.cuda_mib if settings.cuda_pool_mib is None else settings.cuda_pool_mib
    return {
        "pinned_pool_bytes": pinned << 20,
        "cuda_pools_bytes": (cuda << 20,) * len(hardware.gpus) if gpu else (),
    }


def _choose_ports(settings: ServerSettings) -> tuple[int, int, int]:
    """The configured ports, with a free one for every 0."""
    free = iter(free_ports(3, host=settings.host))
    http, grpc, metrics = (
        port or next(free) for port in (settings.http_port, settings.grpc_port, settings.metrics_port)
    )
    return http, grpc, metrics
