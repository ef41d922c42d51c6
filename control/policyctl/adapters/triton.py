"""Triton as the control plane sees it: load, unload, what is ready, and a golden inference.

Neither a 200 from a load nor a ready flag proves anything (a load that is overtaken
answers 200, a model whose process died stays ready), so `load` polls the index
and callers certify by an answered inference.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from policyctl import correlation
from policyctl.adapters.triton_calls import TritonCalls
from policyctl.domain.protocol import control_request_id
from policyctl.errors import ServerError, connection_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

_POLL_S = 0.005
_INTERRUPT_S = 0.05
_LIVE: Final = "ask whether it lives"
LOADING: Final = "LOADING"
_READY: Final = "READY"
_UNLOAD_PATIENCE_S: Final = 1.0
"""How long an unload waits for a load of the same name that is under way: Triton itself would wait for ever."""


class LoadUnderWayError(ServerError):
    """An earlier load of the same name has not ended, so it can be neither loaded nor unloaded."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one inference gave.

    Attributes:
        slot: The version that answered.
        outputs: By name, each of shape (n, *spec.shape).
    """

    slot: int
    outputs: Mapping[str, NDArray[Any]]


class Triton(TritonCalls):
    """A client of one server, for one thread: what takes more than one call, or waiting."""

    def is_live(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server's process answers at all.

        Args:
            timeout_s: For the answer; None for the client's own.
        """
        try:
            return bool(self._call(_LIVE, "ServerLive", timeout_s=timeout_s).live)
        except ServerError:
            return False

    def require_live(self) -> None:
        """Refuse where no server answers.

        Raises:
            ServerError: None does.
        """
        try:
            if self._call(_LIVE, "ServerLive").live:
                return
            reason = "it says that it is not live"
        except ServerError as error:
            reason = connection_text(error.problem.partition(f"cannot {_LIVE}: ")[2])
        raise ServerError(
            f"no Triton answers at {self.endpoint.grpc}: {reason}",
            remedy="Start one with: policyctl serve. Or name a running one by its gRPC port: --url HOST:PORT.",
        )

    def load(self, name: str, slot: int, *, interrupt: Callable[[], None] | None = None) -> None:
        """Load `name` as its configuration says and wait until `slot` is ready.

        Args:
            name: The Triton model.
            slot: The version that must be ready.
            interrupt: Called now and then meanwhile; what it raises ends the
                wait, and leaves the load to the server.

        Raises:
            LoadUnderWayError: An earlier load of it has not ended.
            ServerError: The server refuses (with its reason: a backend that
                found a changed file says which), or does not get ready in time.
        """
        if self.endpoint.engine in {"", "external"}:
            self.require_sees(name)
        self.require_no_load(name, patience_s=self._timeout_s)
        load = partial(
            self._call, f"load {name}", "RepositoryModelLoad", timeout_s=self.load_timeout_s, model_name=name
        )
        _interruptible(load, interrupt)
        if not self._wait(lambda: self._slots(name, _READY) == {slot}, self.load_timeout_s):
            versions = [f"{s.slot} {s.state} {s.reason}".strip() for s in self.index() if s.name == name]
            listed = "; ".join(versions) or "nothing"
            raise ServerError(f"{name}: slot {slot} did not become ready, the server lists {listed}")

    def unload(self, name: str) -> None:
        """Take `name` out of service; nothing happens where it is not loaded.

        It returns once no version is ready any more. Triton then ends the
        backend's process on its own time: about a second, or never where that
        process is dead already, and it loads the same name again meanwhile.

        Raises:
            LoadUnderWayError: A load of it has not ended.
            ServerError: It is still ready after the time limit.
        """
        self.require_no_load(name, patience_s=min(_UNLOAD_PATIENCE_S, self._timeout_s))
        if not self._slots(name, _READY):
            return
        self._call(f"unload {name}", "RepositoryModelUnload", model_name=name)
        if not self._wait(lambda: not self._slots(name, _READY), self.load_timeout_s):
            raise ServerError(f"{name} is still ready after {self.load_timeout_s:.0f} s")

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
        """
        from tritonclient.grpc import service_pb2 as messages

        from policyctl.client.grpc_messages import arrays_of
        from policyctl.client.tensors import DATATYPES

        tensor, output = (
            messages.ModelInferRequest.InferInputTensor,
            messages.ModelInferRequest.InferRequestedOutputTensor,
        )
        response = self._call(
            f"infer {name}",
            "ModelInfer",
            model_name=name,
            model_version="" if slot is None else str(slot),
            id=control_request_id(correlation.current().get("move", "")),
            inputs=[tensor(name=k, shape=a.shape, datatype=DATATYPES[a.dtype]) for k, a in observations.items()],
            outputs=[output(name=key) for key in outputs],
            raw_input_contents=[array.tobytes() for array in observations.values()],
        )
        answer = arrays_of(response)
        if missing := [key for key in outputs if key not in answer]:
            raise ServerError(f"{name} did not answer {', '.join(missing)}")
        return Answer(int(response.model_version), answer)

    def answered(self, name: str) -> int:
        """Requests that `name` has answered since it was loaded; 0 where it is not loaded."""
        return sum(slot.succeeded for slot in self.counters(name)) if self._slots(name, _READY) else 0

    def require_sees(self, folder: str) -> None:
        """Refuse a server whose model repository lacks a folder: it serves another one than ours.

        Args:
            folder: One that is in ours.

        Raises:
            ServerError: Its list has no such folder, or does not answer.
        """
        if not any(model.name == folder for model in self._listed()):
            raise ServerError(
                f"the Triton at {self.endpoint.grpc} has no folder {folder} in its model repository, which ours has:"
                " it serves another repository, or a copy of this one",
                remedy="Name the server of this repository with --url, or that server's repository with --repository.",
            )

    def require_no_load(self, name: str, *, patience_s: float = 0.0) -> None:
        """Refuse while `name` is being loaded.

        Args:
            name: The Triton model.
            patience_s: How long to wait for the end of the load.

        Raises:
            LoadUnderWayError: It has not ended.
        """
        if not self._wait(lambda: not self._slots(name, LOADING), patience_s):
            raise LoadUnderWayError(
                f"{self.endpoint.grpc}: an earlier load of {name} has not ended",
                remedy="Wait for it, or start the server again (policyctl serve) when its clients can do without.",
            )

    def _slots(self, name: str, state: str) -> set[int]:
        """The versions of `name` that are in `state`."""
        return {served.slot for served in self.index() if (served.name, served.state) == (name, state)}

    @staticmethod
    def _wait(is_done: Callable[[], bool], limit_s: float) -> bool:
        """Whether it is done in time."""
        deadline = time.monotonic() + limit_s
        while not is_done():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True


def _interruptible(call: Callable[[], Any], interrupt: Callable[[], None] | None) -> None:
    """Make `call` in another thread, so that waiting for it can end before it does."""
    if interrupt is None:
        call()
        return
    errors: list[ServerError] = []

    def run() -> None:
        try:
            call()
        except ServerError as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_INTERRUPT_S)
        if thread.is_alive():
            interrupt()
    for error in errors:
        raise error
