"""Triton's remote calls that the control plane makes, each with its answer as a value.

Everything goes over gRPC. A load over HTTP would keep one of Triton's few HTTP
threads until it is done, and clients whose connections share that thread would
wait as long (0.35 to 2.3 s were seen).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.pbtxt import text_of
from policyctl.domain.log_event import LogLevel
from policyctl.errors import ServerError

_KEY_HEADER: Final = "triton-grpc-protocol-policyctl-key"
_RESTRICTED: Final = "This protocol is restricted"
_KEY_REMEDY: Final = (
    "Give its key (POLICYCTL_SERVER__API_KEY). A server of `policyctl serve` is found with its key in its own"
    " repository: name that one with --repository, and leave out --url."
)
_NAME: Final = "policyctl-"


def server_name(repository: str) -> str:
    """The name of a server of ours, by which everybody knows which repository it serves."""
    return f"{_NAME}{repository}" if repository else ""


@dataclass(frozen=True, slots=True)
class Served:
    """One model version as the server lists it."""

    name: str
    slot: int
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Counters:
    """What one slot has done since it was loaded.

    Attributes:
        name: The Triton model.
        slot: Its version.
        succeeded: Requests that were answered.
        failed: Requests that were not.
        duration_us: How long the answered ones took, from arrival to answer, added up.
        queue_us: How long they waited.
        compute_us: How long the backend took for them, copying included.
        executions: Batches.
    """

    name: str
    slot: int
    succeeded: int
    failed: int
    duration_us: float
    queue_us: float
    compute_us: float
    executions: int


class TritonCalls:
    """One server's remote calls; threads may share it.

    Every method raises `ServerError` where no answer comes in time, where the
    server refuses, and where it needs another key.

    Args:
        endpoint: Where it is.
        timeout_s: How long any single request may take; a load may take `load_timeout_s`.
    """

    def __init__(self, endpoint: Endpoint, *, timeout_s: float = 5.0, load_timeout_s: float = 60.0) -> None:
        # Late, because a command that finds no server needs no client of one.
        import grpc
        from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

        from policyctl.client.grpc_wire import CHANNEL

        self.endpoint = endpoint
        self.load_timeout_s = load_timeout_s
        self._timeout_s = timeout_s
        self._metadata = ((_KEY_HEADER, endpoint.api_key),) if endpoint.api_key else ()
        self._channel = grpc.insecure_channel(endpoint.grpc, options=CHANNEL)
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._closed = False

    def close(self) -> None:
        """Close the connection, from any thread: a call that waits for its answer gets an error."""
        self._closed = True
        self._channel.close()

    def index(self) -> tuple[Served, ...]:
        """Every model version that the server has loaded or tried to load."""
        return tuple(Served(m.name, int(m.version), m.state, m.reason) for m in self._listed() if m.version)

    def config(self, name: str) -> str:
        """The configuration that `name` is served by, as text: what its file says, and what the server added."""
        return text_of(self._call(f"ask the configuration of {name}", "ModelConfig", name=name).config)

    def trace(
        self, name: str, settings: Mapping[str, str | Sequence[str] | None] | None = None
    ) -> dict[str, tuple[str, ...]]:
        """Change how the server traces `name`, and return all settings of that.

        Args:
            name: A loaded Triton model.
            settings: By Triton's names; None gives one back to the server's default.
        """
        from tritonclient.grpc.service_pb2 import TraceSettingRequest

        wanted = {
            key: TraceSettingRequest.SettingValue(value=[value] if isinstance(value, str) else value or ())
            for key, value in (settings or {}).items()
        }
        response = self._call(f"trace {name}", "TraceSetting", model_name=name, settings=wanted)
        return {key: tuple(setting.value) for key, setting in response.settings.items()}

    def version(self) -> str:
        """Triton's own version, as ``2.51.0``."""
        return str(self._call("ask the version", "ServerMetadata").version)

    def repository(self) -> str:
        """The id of the repository that the server says it serves; empty where it does not say."""
        name = str(self._call("ask the name", "ServerMetadata").name)
        return name.removeprefix(_NAME) if name.startswith(_NAME) else ""

    def log_level(self, level: LogLevel) -> LogLevel:
        """Change how much the server logs, and return how much it logs now.

        Args:
            level: The least; debug is Triton's verbose level 1.
        """
        from tritonclient.grpc.service_pb2 import LogSettingsRequest

        value = LogSettingsRequest.SettingValue
        wanted = {
            "log_info": value(bool_param=level.rank <= LogLevel.INFO.rank),
            "log_warning": value(bool_param=level.rank <= LogLevel.WARNING.rank),
            "log_error": value(bool_param=True),
            "log_verbose_level": value(uint32_param=int(level is LogLevel.DEBUG)),
        }
        settings = self._call("change what is logged", "LogSettings", settings=wanted).settings
        if settings["log_verbose_level"].uint32_param:
            return LogLevel.DEBUG
        if settings["log_info"].bool_param:
            return LogLevel.INFO
        return LogLevel.WARNING if settings["log_warning"].bool_param else LogLevel.ERROR

    def counters(self, name: str = "") -> tuple[Counters, ...]:
        """What every loaded slot has done since it was loaded.

        Args:
            name: Only of this Triton model; empty for all.
        """
        response = self._call(f"read statistics of {name or 'all'}", "ModelStatistics", name=name)
        return tuple(_counters(each) for each in response.model_stats)

    def regions(self) -> tuple[str, ...]:
        """Names of the shared memory that clients have registered."""
        return tuple(sorted(self._call("list shared memory", "SystemSharedMemoryStatus").regions))

    def register_region(self, name: str, size_bytes: int) -> None:
        """Have the server open a client's shared memory."""
        self._call(
            "open this machine's shared memory", "SystemSharedMemoryRegister", name=name, key=name, byte_size=size_bytes
        )

    def forget_region(self, name: str) -> None:
        """Let go of a client's shared memory; nothing happens where it is not registered."""
        self._call(f"forget region {name}", "SystemSharedMemoryUnregister", name=name)

    def _listed(self) -> Iterable[Any]:
        """Every folder of the server's repository, with its state."""
        models: Iterable[Any] = self._call("list models", "RepositoryIndex").models
        return models

    def _call(self, doing: str, method: str, *, timeout_s: float | None = None, **fields: Any) -> Any:
        """Call a remote method by its name, with the fields of its request."""
        import grpc
        from tritonclient.grpc import service_pb2 as messages

        request = getattr(messages, f"{method}Request")(**fields)
        try:
            return getattr(self._stub, method)(request, timeout=timeout_s or self._timeout_s, metadata=self._metadata)
        except ValueError as error:
            if not self._closed:
                raise
            raise ServerError(f"{self.endpoint.grpc}: cannot {doing}: the connection was closed") from error
        except grpc.RpcError as error:
            remedy = "Is the server up? See: policyctl status" if error.code() is grpc.StatusCode.UNAVAILABLE else ""
            reason = " ".join(str(error.details()).split())
            if _RESTRICTED in reason:
                reason = "it asks for the key of its repository API, and this command has none or another"
                remedy = _KEY_REMEDY
            raise ServerError(f"{self.endpoint.grpc}: cannot {doing}: {reason}", remedy=remedy) from error


def _counters(reported: Any) -> Counters:
    stats = reported.inference_stats
    return Counters(
        name=reported.name,
        slot=int(reported.version),
        succeeded=int(stats.success.count),
        failed=int(stats.fail.count),
        duration_us=stats.success.ns / 1e3,
        queue_us=stats.queue.ns / 1e3,
        compute_us=(stats.compute_input.ns + stats.compute_infer.ns + stats.compute_output.ns) / 1e3,
        executions=int(reported.execution_count),
    )
