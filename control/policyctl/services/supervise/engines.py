"""Who runs the Triton that the supervisor looks after: this process, Docker, or somebody else.

The supervisor knows one thing, an `Engine`: one run of a server, from `start`
to `stop`. What differs is little: what is checked and laid out before the first
run, how a run is begun and ended, and what may be done where nothing answers.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from policyctl.adapters import lock
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.triton_calls import server_name
from policyctl.domain.choices import Engine as Kind
from policyctl.domain.recommendations import pools
from policyctl.errors import UsageError
from policyctl.plain_files import read_plain
from policyctl.services.control import Control
from policyctl.services.machine.hardware import announce
from policyctl.services.supervise.external import ExternalEngine, Manner, external
from policyctl.services.supervise.leftovers import trace_folder
from policyctl.services.supervise.without_guard import answers_http, require_guard
from policyctl.serving import triton_guard, triton_lane
from policyctl.serving.command import ServerOptions, Spans
from policyctl.serving.container import TritonContainer, connect, require_image
from policyctl.serving.container_request import BACKENDS, Mounts, inside, user_of
from policyctl.serving.hardware import detect
from policyctl.serving.logs import OnLog
from policyctl.serving.native import choose
from policyctl.serving.ports import free_ports
from policyctl.serving.preflight import PORT_OPTIONS, preflight, require
from policyctl.serving.process import TritonProcess
from policyctl.settings import ContainerBackends, ServerSettings

OURS_VERIFY: Final = "policyctl"
"""`Endpoint.backends` where the backends hold what they load against the manifest."""

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
    ended="The container has ended: {why}.",
    again="Starting the container again",
    patience=2,  # NVIDIA's image takes longer than the wheel
)


def launcher(control: Control, *, api_key: str) -> Launch:
    """Check and lay out what the engine of the settings needs, once; the result makes one run at a time.

    Args:
        api_key: Of the restricted repository API; an external server has its own.

    Raises:
        UnsupportedError: Something that it needs is missing here; names all of it.
        UsageError: The settings contradict it.
    """
    server = control.settings.server
    if server.lane and server.engine is not Kind.EMBEDDED:
        raise UsageError(
            f"server.lane is set, and server.engine is {server.engine}: only the embedded Triton has a local lane",
            remedy="Leave server.lane out, or take the embedded engine.",
        )
    match server.engine:
        case Kind.EMBEDDED:
            return _embedded(control, api_key)
        case Kind.DOCKER:
            return _docker(control, api_key)
        case Kind.EXTERNAL:
            return external(control)


def alone_in_lane(control: Control) -> contextlib.AbstractContextManager[None]:
    """Hold the path of the local lane: while Triton is started again nobody listens there, and yet it is taken.

    Raises:
        BusyError: Another server holds it.
        UsageError: As `triton_lane.place`; or the lock file cannot be made.
        UnsupportedError: As `triton_lane.place`.
    """
    server = control.settings.server
    if not server.lane or server.engine is not Kind.EMBEDDED:
        return contextlib.nullcontext()
    path = triton_lane.place(server.lane)
    return lock.hold_alone(
        triton_lane.lock_path(path),
        doing=f"policyctl serve of {control.repository.root}",
        taken=f"another server has the local lane at {path}",
        remedy="Stop it, or give this one another socket: server.lane local:/path.",
    )


@dataclass(slots=True)
class OwnEngine:
    """A tritonserver that this process starts and ends: its child, or a container.

    Attributes:
        of_endpoint: What its endpoint says besides addresses, once it runs.
        prepare: Lays out what a run needs.
    """

    run: TritonProcess | TritonContainer
    manner: Manner
    of_endpoint: Callable[[], dict[str, Any]]
    prepare: Callable[[], None] = lambda: None
    server_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def start(self) -> None:
        """Begin the run."""
        self.prepare()
        self.run.start()

    def wait(self, timeout_s: float) -> None:
        """Return once the server answers."""
        self.run.wait_live(self.manner.patience * timeout_s)

    def is_running(self, served: Collection[str]) -> bool:
        """Whether it is still this run."""
        return self.run.is_running()

    def may_have_ended(self) -> bool:
        """Whether to look now and not later."""
        return self.run.may_have_ended()

    def ended(self) -> tuple[str, int | None]:
        """How the run ended: Docker knows of memory, and of others' hands."""
        return self.manner.ended.format(why=self.run.ended()), self.run.exit_code()

    def stop(self, *, at_once: bool = False) -> None:
        """End the run and leave nothing behind; `at_once` kills what is silent without asking it first."""
        self.run.stop(at_once=at_once)

    def endpoint(self) -> Endpoint:
        """Where it answers."""
        options = self.run.options
        return Endpoint(
            http=f"{options.host}:{options.http_port}" if options.http else "",
            grpc=f"{options.host}:{options.grpc_port}",
            metrics=f"{options.host}:{options.metrics_port}",
            api_key=options.api_key,
            server_id=self.server_id,
            supervisor_pid=os.getpid(),
            engine=self.manner.kind.value,
            **self.of_endpoint(),
        )


Engine: TypeAlias = OwnEngine | ExternalEngine
"""One run of a server; started once, stopped once. `is_running` says nothing about its answers."""
Launch = Callable[[OnLog], Engine]
"""Makes the engine of one run."""


def _embedded(control: Control, api_key: str) -> Launch:
    settings = control.settings.server
    ports = _choose_ports(settings)
    native = control.settings.serving.native
    wanted = dict(zip(PORT_OPTIONS, (*ports, settings.control_metrics_port), strict=True))
    own = {option: port for option, port in wanted.items() if port}
    require_guard(control)
    require(preflight(repository=control.repository.root, host=settings.host, ports=own, native=native))
    announce(control)
    choice = choose(native)
    control.tell(f"OpenVINO backend: {choice.summary}. {choice.remedy}".rstrip())
    lane = triton_lane.prepare(settings.lane) if settings.lane else ""
    if lane:
        control.tell(f"Local lane: {lane}")
    options = _options(
        control, ports, None, api_key=api_key, gpu=True, native=choice.backend, http=answers_http(control), lane=lane
    )

    def launch(on_log: OnLog) -> OwnEngine:
        process = TritonProcess(options, on_log=on_log)

        def of_endpoint() -> dict[str, Any]:
            guard = "loaded" if triton_guard.is_loaded(process.pid) else ""
            return {"pid": process.pid, "openvino": choice.summary, "backends": OURS_VERIFY, "triton_guard": guard}

        return OwnEngine(process, EMBEDDED, of_endpoint)

    return launch


def _docker(control: Control, api_key: str) -> Launch:
    docker, gpu = control.settings.docker, control.settings.serving.gpu
    options = _options(control, _choose_ports(control.settings.server), BACKENDS, api_key=api_key, gpu=gpu)
    inside(options, docker)  # refuses what must not be, before Docker is asked for anything
    user = user_of(docker)
    own = docker.backends is ContainerBackends.POLICYCTL
    require_image(connect(), docker.image, python_backends=own)
    announce(control)
    whose = "policyctl's own" if own else "NVIDIA's"
    control.tell(f"Container of {docker.image} as {user}, with {whose} backends.")
    mounts = Mounts(key=_key_file(control), traces=trace_folder(control.repository))

    def prepare() -> None:
        """Key and traces are for the container's user, in a folder that nobody else on this machine may enter."""
        # Where it is there already, a full disk keeps no container from starting again.
        if not _holds(mounts.key, api_key):
            control.repository.write(mounts.key, api_key.encode(), mode=0o600)
        mounts.key.parent.chmod(0o700)
        if os.getuid() == 0:  # else the container runs as us
            # A person may have the container's number here: the folder stays root's.
            os.chown(mounts.key.parent, 0, 0)
            uid, gid = map(int, user.split(":"))
            for path in (mounts.key, mounts.traces):
                os.chown(path, uid, gid)

    def launch(on_log: OnLog) -> OwnEngine:
        container = TritonContainer(options, docker, mounts, gpu=gpu, on_log=on_log)
        # The process is in the container's own world, so none is named.
        return OwnEngine(container, DOCKER, lambda: {"backends": OURS_VERIFY if own else "nvidia"}, prepare)

    return launch


def forget_key(control: Control) -> None:
    """Remove the file with the key once no container will need it; between two containers it stays."""
    _key_file(control).unlink(missing_ok=True)


def _key_file(control: Control) -> Path:
    return control.repository.control / "server" / "key"


def _holds(key: Path, content: str) -> bool:
    with contextlib.suppress(OSError):
        return read_plain(key, most_bytes=1024) == content.encode()
    return False


def _options(
    control: Control, ports: tuple[int, int, int], backends: Path | None, *, api_key: str, gpu: bool, **more: Any
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
        spans=_spans(control),
        max_request_bytes=settings.max_request_mib << 20,
        http_hosts=settings.http_hosts,
        name=server_name(control.repository.id),
        **_pools(settings, gpu=gpu),
        **more,
    )


def _spans(control: Control) -> Spans | None:
    """Where OpenTelemetry spans go; None where they are off."""
    chosen = control.settings.tracing
    if not chosen.endpoint:
        return None
    which = f"one of {chosen.rate} requests" if chosen.rate else "requests that bring a traceparent"
    control.tell(f"OpenTelemetry: spans of {which} go to {chosen.endpoint}; policyctl record is off meanwhile.")
    return Spans(chosen.endpoint, chosen.rate, chosen.service)


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
