"""Triton as the control plane sees it: load, unload, what is ready, and a golden inference.

A 200 from a load and a ready flag are both hearsay (a load that is overtaken
answers 200, a model whose process died stays ready), so `load` polls the index
and callers certify by an answered inference.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.http as triton_http
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from policyctl.adapters.endpoint import Endpoint
from policyctl.errors import ServerError

_KEY_HEADER = "policyctl-key"
_POLL_S = 0.005
# What the HTTP client raises besides its own exception when a socket fails or closes.
_WIRE_ERRORS = (InferenceServerException, OSError, EOFError)


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


class Triton:
    """A client of one server, for one thread.

    Args:
        endpoint: Where it is.
        timeout_s: How long any single request may take; a load may take `load_timeout_s`.
    """

    def __init__(self, endpoint: Endpoint, *, timeout_s: float = 5.0, load_timeout_s: float = 60.0) -> None:
        self.endpoint = endpoint
        self._load_timeout_s = load_timeout_s
        self._headers = {_KEY_HEADER: endpoint.api_key} if endpoint.api_key else {}
        self._fast = _client(endpoint, timeout_s)
        self._slow = _client(endpoint, load_timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._fast.close()
        self._slow.close()

    def is_live(self) -> bool:
        """Whether the server's process answers at all."""
        try:
            return bool(self._fast.is_server_live())
        except _WIRE_ERRORS:
            return False

    def require_live(self) -> None:
        """Refuse where no server answers.

        Raises:
            ServerError: None does.
        """
        if not self.is_live():
            raise ServerError(
                f"no Triton answers at {self.endpoint.http}",
                remedy="Start one with: policyctl serve. Or name a running one with --url HOST:PORT.",
            )

    def index(self) -> tuple[Served, ...]:
        """Every model version that the server has loaded or tried to load.

        Raises:
            ServerError: No answer, or a wrong key.
        """
        entries = self._call("list models", self._fast.get_model_repository_index, headers=self._headers)
        return tuple(
            Served(e["name"], int(e["version"]), e.get("state", ""), e.get("reason", ""))
            for e in entries
            if e.get("version")
        )

    def load(self, name: str, slot: int) -> None:
        """Load `name` as its configuration says and wait until `slot` is ready.

        Raises:
            ServerError: The server refuses (with its reason: a backend that
                found a changed file says which), or does not get ready in time.
        """
        self._call(f"load {name}", self._slow.load_model, name, headers=self._headers)
        deadline = time.monotonic() + self._load_timeout_s
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
        """Unload `name`; nothing happens where it is not loaded.

        Raises:
            ServerError: No answer, or it is still there after the time limit.
        """
        if not any(s.name == name and s.state in {"READY", "LOADING", "UNLOADING"} for s in self.index()):
            return
        self._call(f"unload {name}", self._slow.unload_model, name, headers=self._headers)
        deadline = time.monotonic() + self._load_timeout_s
        while any(s.name == name and s.state != "UNAVAILABLE" for s in self.index()):
            if time.monotonic() >= deadline:
                raise ServerError(f"{name} is still loaded after {self._load_timeout_s:.0f} s")
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
            tensor = triton_http.InferInput(key, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(np.ascontiguousarray(array), binary_data=True)
            inputs.append(tensor)
        wanted = [triton_http.InferRequestedOutput(key, binary_data=True) for key in outputs]
        result = self._call(
            f"infer {name}",
            self._fast.infer,
            name,
            inputs,
            model_version="" if slot is None else str(slot),
            outputs=wanted,
        )
        answer = {key: result.as_numpy(key) for key in outputs}
        if missing := [key for key, value in answer.items() if value is None]:
            raise ServerError(f"{name} did not answer {', '.join(missing)}")
        return Answer(slot=int(result.get_response()["model_version"]), outputs=answer)

    def config(self, name: str) -> dict[str, Any]:
        """The configuration with which `name` is served.

        Raises:
            ServerError: No answer, or no such model.
        """
        return dict(self._call(f"read the configuration of {name}", self._fast.get_model_config, name))

    def _call(self, what: str, method: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except InferenceServerException as error:
            raise ServerError(f"{self.endpoint.http}: cannot {what}: {error.message()}") from error
        except (OSError, EOFError, ValueError) as error:
            raise ServerError(
                f"{self.endpoint.http}: cannot {what}: {type(error).__name__}: {error}",
                remedy="Is the server up? See: policyctl status",
            ) from error


def _client(endpoint: Endpoint, timeout_s: float) -> Any:
    return triton_http.InferenceServerClient(endpoint.http, connection_timeout=timeout_s, network_timeout=timeout_s)
