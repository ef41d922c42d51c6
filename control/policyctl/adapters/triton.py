"""Triton as the control plane sees it: load, unload, what is ready, and a golden inference.

A 200 from a load and a ready flag are both hearsay (a load that is overtaken
answers 200, a model whose process died stays ready), so `load` polls the index
and callers certify by an answered inference.

Everything goes over gRPC. A load over HTTP would keep one of Triton's few HTTP
threads until it is done, and clients whose connections share that thread would
wait as long (0.35 to 2.3 s were seen).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from policyctl import correlation
from policyctl.adapters.endpoint import Endpoint
from policyctl.domain.log_event import LogLevel
from policyctl.domain.protocol import control_request_id
from policyctl.errors import ServerError

_KEY_HEADER = "triton-grpc-protocol-policyctl-key"
_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Served:
    """One model version as the server lists it."""

    name: str
    slot: int
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What one inference gave.

    Attributes:
        slot: The version that answered.
        outputs: By name, each of shape (n, *spec.shape).
    """

    slot: int
    outputs: Mapping[str, NDArray[Any]]


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


class Triton:
    """A client of one server, for one thread.

    Args:
        endpoint: Where it is.
        timeout_s: How long any single request may take; a load may take `load_timeout_s`.
    """

    def __init__(self, endpoint: Endpoint, *, timeout_s: float = 5.0, load_timeout_s: float = 60.0) -> None:
        self.endpoint = endpoint
        self.load_timeout_s = load_timeout_s
        self._timeout_s = timeout_s
        self._headers = {_KEY_HEADER: endpoint.api_key} if endpoint.api_key else {}
        self._client = triton_grpc.InferenceServerClient(endpoint.grpc)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def is_live(self) -> bool:
        """Whether the server's process answers at all."""
        try:
            return bool(self._client.is_server_live(client_timeout=self._timeout_s))
        except InferenceServerException:
            return False

    def require_live(self) -> None:
        """Refuse where no server answers.

        Raises:
            ServerError: None does.
        """
        if not self.is_live():
            raise ServerError(
                f"no Triton answers at {self.endpoint.grpc}",
                remedy="Start one with: policyctl serve. Or name a running one with --url HOST:PORT.",
            )

    def index(self) -> tuple[Served, ...]:
        """Every model version that the server has loaded or tried to load.

        Raises:
            ServerError: No answer, or a wrong key.
        """
        found = self._call("list models", self._client.get_model_repository_index, headers=self._headers)
        return tuple(Served(m.name, int(m.version), m.state, m.reason) for m in found.models if m.version)

    def load(self, name: str, slot: int) -> None:
        """Load `name` as its configuration says and wait until `slot` is ready.

        Raises:
            ServerError: The server refuses (with its reason: a backend that
                found a changed file says which), or does not get ready in time.
        """
        self._call(f"load {name}", self._client.load_model, name, headers=self._headers, timeout_s=self.load_timeout_s)
        deadline = time.monotonic() + self.load_timeout_s
        while True:
            mine = [s for s in self.index() if s.name == name]
            ready = {s.slot for s in mine if s.state == "READY"}
            if ready == {slot}:
                return
            if time.monotonic() >= deadline:
                seen = "; ".join(f"{s.slot} {s.state} {s.reason}".strip() for s in mine) or "nothing"
                raise ServerError(f"{name}: slot {slot} did not become ready, the server lists {seen}")
            time.sleep(_POLL_S)

    def unload(self, name: str) -> None:
        """Take `name` out of service; nothing happens where it is not loaded.

        It returns once no version is ready any more. Triton then ends the
        backend's process on its own time: about a second, or never where that
        process is dead already, and it loads the same name again meanwhile.

        Raises:
            ServerError: No answer, or it is still ready after the time limit.
        """
        if not any(s.name == name and s.state in {"READY", "LOADING"} for s in self.index()):
            return
        self._call(f"unload {name}", self._client.unload_model, name, headers=self._headers)
        deadline = time.monotonic() + self.load_timeout_s
        while any(s.name == name and s.state == "READY" for s in self.index()):
            if time.monotonic() >= deadline:
                raise ServerError(f"{name} is still ready after {self.load_timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def infer(
        self,
        name: str,
        observations: Mapping[str, NDArray[Any]],
        outputs: tuple[str, ...],
        *,
        slot: int | None = None,
    ) -> Answer:
        """Ask `name`, or one slot of it, for an action.

        Args:
            name: The Triton model.
            observations: By input name, each of shape (n, *spec.shape).
            outputs: What to ask for.
            slot: A version; None for the one that unversioned clients get.

        Raises:
            ServerError: No answer in time, or an error for an answer.
        """
        inputs = []
        for key, array in observations.items():
            tensor = triton_grpc.InferInput(key, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
            inputs.append(tensor)
        result = self._call(
            f"infer {name}",
            self._client.infer,
            name,
            inputs,
            model_version="" if slot is None else str(slot),
            request_id=control_request_id(correlation.current().get("move", "")),
            outputs=[triton_grpc.InferRequestedOutput(key) for key in outputs],
        )
        answer = {key: result.as_numpy(key) for key in outputs}
        if missing := [key for key, value in answer.items() if value is None]:
            raise ServerError(f"{name} did not answer {', '.join(missing)}")
        return Answer(slot=int(result.get_response().model_version), outputs=answer)

    def config(self, name: str) -> str:
        """The configuration that `name` is served by, as text: what its file says, and what the server added.

        Raises:
            ServerError: No answer, or it is not loaded.
        """
        found = self._call(f"ask the configuration of {name}", self._client.get_model_config, name)
        return str(text_format.MessageToString(found.config))

    def trace(self, name: str, settings: Mapping[str, Any] | None = None) -> dict[str, tuple[str, ...]]:
        """Change how the server traces `name`, and tell how it does now.

        Args:
            name: A loaded Triton model.
            settings: By Triton's names; None gives one back to the server's default.

        Raises:
            ServerError: No answer, a wrong key, no such model, or settings that are refused.
        """
        found = self._call(
            f"trace {name}",
            self._client.update_trace_settings,
            model_name=name,
            settings=dict(settings or {}),
            headers=self._headers,
        )
        return {key: tuple(setting.value) for key, setting in found.settings.items()}

    def version(self) -> str:
        """Triton's own version, as ``2.51.0``.

        Raises:
            ServerError: No answer.
        """
        return str(self._call("ask the version", self._client.get_server_metadata).version)

    def log_level(self, level: LogLevel) -> LogLevel:
        """Change how much the server logs, and tell how much it does now.

        Args:
            level: The least; debug is Triton's verbose level 1.

        Raises:
            ServerError: No answer, or a wrong key.
        """
        wanted = {
            "log_info": level.rank <= LogLevel.INFO.rank,
            "log_warning": level.rank <= LogLevel.WARNING.rank,
            "log_error": True,
            "log_verbose_level": int(level is LogLevel.DEBUG),
        }
        change = self._client.update_log_settings
        found = self._call("change what is logged", change, settings=wanted, headers=self._headers).settings
        if found["log_verbose_level"].uint32_param:
            return LogLevel.DEBUG
        if found["log_info"].bool_param:
            return LogLevel.INFO
        return LogLevel.WARNING if found["log_warning"].bool_param else LogLevel.ERROR

    def answered(self, name: str) -> int:
        """Requests that `name` has answered since it was loaded; 0 where it is not loaded.

        Raises:
            ServerError: No answer.
        """
        if not any(s.name == name and s.state == "READY" for s in self.index()):
            return 0
        found = self._call(f"count {name}", self._client.get_inference_statistics, name)
        return sum(int(s.inference_stats.success.count) for s in found.model_stats)

    def counters(self, name: str = "") -> tuple[Counters, ...]:
        """What every loaded slot has done since it was loaded.

        Args:
            name: Only of this Triton model; empty for all.

        Raises:
            ServerError: No answer, or no such model.
        """
        found = self._call(f"read statistics of {name or 'all'}", self._client.get_inference_statistics, name)
        return tuple(_counters(each) for each in found.model_stats)

    def regions(self) -> tuple[str, ...]:
        """Names of the shared memory that clients have registered.

        Raises:
            ServerError: No answer.
        """
        found = self._call("list shared memory", self._client.get_system_shared_memory_status)
        return tuple(sorted(found.regions))

    def forget_region(self, name: str) -> None:
        """Let go of a client's shared memory; nothing happens where it is not registered.

        Raises:
            ServerError: No answer.
        """
        self._call(f"forget region {name}", self._client.unregister_system_shared_memory, name)

    def _call(self, what: str, method: Any, *args: Any, timeout_s: float | None = None, **kwargs: Any) -> Any:
        try:
            return method(*args, client_timeout=timeout_s or self._timeout_s, **kwargs)
        except InferenceServerException as error:
            remedy = "Is the server up? See: policyctl status" if "UNAVAILABLE" in str(error.status()) else ""
            words = " ".join(str(error.message()).split())
            raise ServerError(f"{self.endpoint.grpc}: cannot {what}: {words}", remedy=remedy) from error


def _counters(found: Any) -> Counters:
    seen = found.inference_stats
    return Counters(
        name=found.name,
        slot=int(found.version),
        succeeded=int(seen.success.count),
        failed=int(seen.fail.count),
        duration_us=seen.success.ns / 1e3,
        queue_us=seen.queue.ns / 1e3,
        compute_us=(seen.compute_input.ns + seen.compute_infer.ns + seen.compute_output.ns) / 1e3,
        executions=int(found.execution_count),
    )
