"""The command line and the environment of one tritonserver."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from policyctl.domain.recommendations import THREAD_VARIABLES
from policyctl.errors import UsageError
from policyctl.serving import triton_guard, triton_lane
from policyctl.serving.locate import TritonInstall
from policyctl.serving.native import NativeBackend

KEY_HEADER: Final = "policyctl-key"
"""HTTP header of the key; over gRPC it is ``triton-grpc-protocol-`` and this."""

QUANTILES: Final = "0.95:0.005,0.99:0.001"
"""Of latencies, each with the error that Triton may make in it."""
RESTRICTED: Final = ("model-repository", "logging", "trace")
_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{8,256}")
_ARG_START, _ARG_END = 47, 48
"""Fields of /proc/<pid>/stat, counted from 0: where the arguments are in memory."""


@dataclass(frozen=True, slots=True)
class Spans:
    """OpenTelemetry spans of requests, sent as OTLP over HTTP.

    Attributes:
        url: Where they go, with its path.
        rate: One of so many requests; 0 for those alone that bring a trace context. Those are traced at any rate.
        service: ``service.name`` of the resource.
    """

    url: str
    rate: int
    service: str


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How one server runs.

    Attributes:
        repository: Triton's model repository.
        backend_directory: What `backend_directory.assemble` returned; None to have it made for this server alone.
        native: Serves OpenVINO artifacts where the directory is made; None for the Python-based backend.
        host: Address to listen on, for all three protocols.
        http: Whether it answers HTTP.
        http_port: For HTTP.
        grpc_port: For gRPC.
        metrics_port: For Prometheus.
        api_key: Needed for the restricted APIs; empty leaves them open.
        restricted_apis: Which APIs the key opens.
        exit_timeout_s: How long a stopping server waits for requests in flight;
            with a dead stub it always waits that long.
        log_verbose: Triton's verbosity, 0 for none.
        trace_file: What the files of Triton's tracing are called; it can be
            switched on later only where this was given. None leaves it out.
        spans: OpenTelemetry, in place of `trace_file`: Triton traces in one way at a time.
        pinned_pool_bytes: Pinned memory for tensors on their way to GPUs; None for Triton's default.
        cuda_pools_bytes: Of each GPU's memory, by its number.
        max_request_bytes: What the guard lets through at most.
        http_hosts: Names by which the guard lets HTTP clients call the server, in addition to `host`.
        lane: The UNIX socket of its local lane; empty for none.
        name: What the server calls itself in its metadata, which everybody may ask; empty for Triton's own.
        extra_args: More arguments for tritonserver, as they are.

    Raises:
        UsageError: A key that Triton could not read back from its arguments.
    """

    repository: Path
    backend_directory: Path | None = None
    native: NativeBackend | None = None
    host: str = "127.0.0.1"
    http: bool = True
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    api_key: str = field(default="", repr=False)
    restricted_apis: tuple[str, ...] = RESTRICTED
    exit_timeout_s: int = 4
    log_verbose: int = 0
    trace_file: Path | None = None
    spans: Spans | None = None
    pinned_pool_bytes: int | None = None
    cuda_pools_bytes: tuple[int, ...] = ()
    max_request_bytes: int = 64 << 20
    http_hosts: tuple[str, ...] = ()
    lane: str = ""
    name: str = ""
    extra_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.api_key and _KEY.fullmatch(self.api_key) is None:
            raise UsageError(
                "the server's key is not 8 to 256 letters, digits, '_', '.' or '-'",
                remedy="Let policyctl choose one, or use secrets.token_urlsafe(32).",
            )

    @property
    def ports(self) -> tuple[int, int, int]:
        """HTTP, gRPC, metrics."""
        return (self.http_port, self.grpc_port, self.metrics_port)


def command(options: ServerOptions, install: TritonInstall, *, shm_prefix: str) -> list[str]:
    """Program and arguments.

    Args:
        options: How it is to run.
        install: Where it is.
        shm_prefix: What its shared memory's names begin with.
    """
    return [
        str(install.tritonserver),
        *arguments(options),
        f"--cache-directory={install.caches}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        *(restrictions(options.restricted_apis, options.api_key) if options.api_key else ()),
        *options.extra_args,
    ]


def arguments(options: ServerOptions) -> list[str]:
    """What any tritonserver of ours is started with, wherever its binaries are."""
    backends = options.backend_directory
    flags = [
        f"--model-repository={options.repository.absolute()}",
        *([] if backends is None else [f"--backend-directory={backends.absolute()}"]),
        # Only what we ask for is loaded, and only when we ask.
        "--model-control-mode=explicit",
        # Strict readiness is false during each swap and after each refused load.
        "--strict-readiness=false",
        # Completing would start every backend's Python a second time at each load.
        "--disable-auto-complete-config",
        f"--http-address={options.host}",
        f"--http-port={options.http_port}",
        f"--grpc-address={options.host}",
        f"--grpc-port={options.grpc_port}",
        f"--metrics-address={options.host}",
        f"--metrics-port={options.metrics_port}",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        f"--log-verbose={options.log_verbose}",
        # A bake judges the slowest answers by these; Triton keeps them over the last minute.
        "--metrics-config=summary_latencies=true",
        f"--metrics-config=summary_quantiles={QUANTILES}",
    ]
    if not options.http:
        flags.append("--allow-http=false")
    if options.name:
        flags.append(f"--id={options.name}")
    if options.spans is not None:
        flags += _span_arguments(options.spans)
    elif options.trace_file is not None:
        flags.append(f"--trace-config=triton,file={options.trace_file.absolute()}")
    if options.pinned_pool_bytes is not None:
        flags.append(f"--pinned-memory-pool-byte-size={options.pinned_pool_bytes}")
    return [
        *flags,
        *(f"--cuda-memory-pool-byte-size={gpu}:{size}" for gpu, size in enumerate(options.cuda_pools_bytes)),
    ]


def restrictions(apis: Sequence[str], key: str) -> list[str]:
    """The arguments that open `apis` only to those who have the key."""
    rule = f"{','.join(apis)}:{KEY_HEADER}={key}"
    return [f"--http-restricted-api={rule}", f"--grpc-restricted-protocol={rule}"]


def _span_arguments(spans: Spans) -> list[str]:
    return [
        "--trace-config=mode=opentelemetry",
        f"--trace-config=opentelemetry,url={spans.url}",
        f"--trace-config=opentelemetry,resource=service.name={spans.service}",
        "--trace-config=level=TIMESTAMPS",
        f"--trace-config=rate={spans.rate}",
        "--trace-config=count=-1",
    ]


def environment(install: TritonInstall, options: ServerOptions | None = None) -> dict[str, str]:
    """This process's environment, with what the server and its stubs need in front.

    Args:
        install: Where the server is.
        options: What its guard allows; its own limits where they are not given.
    """
    # The stubs need none of our settings, and must not see the key among them.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("POLICYCTL_")}
    for name, value in THREAD_VARIABLES.items():
        variables.setdefault(name, value)
    libraries = [str(path) for path in install.library_path]
    lane = options.lane if options is not None else ""
    for library in (triton_guard.find(), triton_lane.find() if lane else None):
        if library is not None:
            # Behind what is there, for a sanitizer's runtime must come first; by name, for a space would end a path.
            variables["LD_PRELOAD"] = _joined([variables.get("LD_PRELOAD", ""), library.name])
            libraries.append(str(library.parent))
    if options is not None:
        variables |= triton_guard.limits(options.max_request_bytes, (options.host, *options.http_hosts))
    if lane:
        variables |= triton_lane.variables(lane)
    variables["LD_LIBRARY_PATH"] = _joined([*libraries, variables.get("LD_LIBRARY_PATH", "")])
    # The stub takes its packages from the first python3 on PATH, not from VIRTUAL_ENV.
    variables["PATH"] = _joined([str(install.python_bin), variables.get("PATH", os.defpath)])
    return variables


def hide_argument(pid: int, secret: str) -> bool:
    """Overwrite `secret` in the arguments of process `pid`, a child of ours.

    Returns:
        Whether it is gone from them; False where the kernel does not let us.
    """
    try:
        # The name in field 1 may hold spaces and brackets: count from behind it.
        text = Path(f"/proc/{pid}/stat").read_text()
        fields = ["", "", *text[text.rindex(")") + 2 :].split()]
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            arguments = memory.read(end - start)
            wanted = secret.encode()
            at = arguments.find(wanted)
            while at >= 0:
                memory.seek(start + at)
                memory.write(b"*" * len(wanted))
                at = arguments.find(wanted, at + len(wanted))
        return wanted not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError, IndexError, OverflowError):
        return False


def _joined(folders: list[str]) -> str:
    # An empty entry would mean the working directory.
    return os.pathsep.join(folder for folder in folders if folder)
