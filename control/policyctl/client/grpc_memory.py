"""Calls over gRPC whose tensors travel through shared memory.

A message then names a region instead of carrying the tensor, so what is saved
is the copying in and out of messages: nothing to speak of for four numbers,
most of the time for batches of images.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as messages

from policyctl.client.calls import Answer, Infer
from policyctl.client.grpc_messages import Steps, answer_of, array_of, metadata_of, own_part
from policyctl.client.regions import NEEDED, Layout, Place, Region, Regions
from policyctl.client.tensors import DATATYPES, KEPT_SHAPES, NUMPY, shapes_of
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UnsupportedError

_UNREGISTER_S: Final = 1.0
"""How long `close` waits in all for the server to let go of the regions."""

_UNREGISTER_EVERY_S: Final = 0.01

_ANSWERED: Final = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}
"""Refusals after which the server no longer uses the region."""

_UNKNOWN: Final = "Unable to find shared memory region"
_ALREADY: Final = "already in manager"
_IN_USE: Final = "currently in use"
_FORBIDDEN: Final = re.compile(r"shared[- ]memory|client-shm", re.IGNORECASE)
_PREPARED: Final = 16


class SharedTensors:
    """The shared memory of one client.

    Args:
        model: What is asked.
        url: Where its server is, for messages.
        stub: Makes remote calls by their names.
        ask: Makes an inference from a serialized request.
    """

    def __init__(self, model: str, url: str, stub: Any, ask: Callable[..., Any]) -> None:
        self._model = model
        self._url = url
        self._stub = stub
        self._ask = ask
        self._layouts: dict[tuple[Any, ...], tuple[tuple[TensorSpec, ...], Layout]] = {}
        self.regions = Regions()

    def infer(self, call: Infer, until: float) -> Steps[Answer | None]:
        """The answer to `call`; None where too many regions are in use, and nothing was asked.

        Args:
            call: What to ask.
            until: When it has to be over, by the monotonic clock.

        Raises:
            UnsupportedError: Memory for a region is missing, or the server cannot open it.
        """
        for cooled in self.regions.cooled():
            if not (yield from self._let_go(cooled, until)):
                self.regions.lay_aside(cooled)
        layout = self._layout(call)
        region = self.regions.take(layout.size_bytes)
        if region is None:
            return None
        with self._used(region):
            region.write(layout, call.inputs)
            described = self._prepared(region, layout, call.model or self._model)
            begin = time.perf_counter_ns()
            response = yield from self._respond(call, region, described, until)
            return answer_of(response, call, self._outputs(response, region, layout), time.perf_counter_ns() - begin)

    def close(self, sleep: Callable[[float], Any]) -> Steps[None]:
        """Remove every region; the server lets go of it first, if it does so in time.

        Args:
            sleep: Pauses for so many seconds.
        """
        until = time.monotonic() + _UNREGISTER_S
        for region in self.regions.all():
            while not (yield from self._let_go(region, until)) and time.monotonic() < until:
                yield partial(sleep, _UNREGISTER_EVERY_S)
        self.regions.close()

    def _respond(self, call: Infer, region: Region, described: bytes, until: float) -> Steps[Any]:
        if not region.registered:
            yield from self._register(region, until)
        try:
            return (yield self._question(call, described, until))
        except grpc.RpcError as error:
            if _UNKNOWN not in str(error.details()):
                raise
        # The server was started again, and does not know the region.
        region.registered = False
        yield from self._register(region, until)
        return (yield self._question(call, described, until))

    def _question(self, call: Infer, described: bytes, until: float) -> Callable[[], Any]:
        left_s = _left_s(until)
        return partial(self._ask, described + own_part(call, left_s), timeout=left_s, metadata=metadata_of(call))

    def _register(self, region: Region, until: float) -> Steps[None]:
        request = messages.SystemSharedMemoryRegisterRequest(
            name=region.name, key=region.name, offset=0, byte_size=region.size_bytes
        )
        try:
            yield partial(self._stub.SystemSharedMemoryRegister, request, timeout=_left_s(until))
        except grpc.RpcError as error:
            reason = str(error.details())
            # A Triton that forbids it may say UNAVAILABLE, as a connection that failed does.
            if error.code().name in {"UNAVAILABLE", "DEADLINE_EXCEEDED"} and not _FORBIDDEN.search(reason):
                raise
            if _ALREADY not in reason:
                raise UnsupportedError(
                    f"the server at {self._url} cannot open this client's shared memory: {reason}",
                    remedy=NEEDED,
                ) from error
        region.registered = True

    def _let_go(self, region: Region, until: float) -> Steps[bool]:
        """Have the server forget a region, and remove it.

        Returns:
            False where a request still has it, be it one whose answer has just come (Triton before 2.52).
        """
        request = messages.SystemSharedMemoryUnregisterRequest(name=region.name)
        try:
            yield partial(self._stub.SystemSharedMemoryUnregister, request, timeout=_left_s(until))
        except grpc.RpcError as error:
            if _IN_USE in str(error.details()):
                return False
        self.regions.drop(region)
        return True

    @contextmanager
    def _used(self, region: Region) -> Iterator[None]:
        """For one call; a call that ends without an answer leaves its region to the server for a while."""
        reusable = False
        try:
            yield
            reusable = True
        except grpc.RpcError as error:
            reusable = error.code().name in _ANSWERED
            raise
        finally:
            (self.regions.give if reusable else self.regions.lay_aside)(region)

    def _outputs(self, response: Any, region: Region, layout: Layout) -> dict[str, NDArray[Any]]:
        """Copies of the outputs, of the shapes and types that the server says."""
        places = {place.name: place for place in layout.outputs}
        arrays: dict[str, NDArray[Any]] = {}
        contents = response.raw_output_contents  # empty ones for what is in shared memory
        for index, output in enumerate(response.outputs):
            place = places.get(output.name)
            dtype, shape = NUMPY[output.datatype], tuple(output.shape)
            if place is None or (index < len(contents) and contents[index]):
                arrays[output.name] = array_of(output, contents[index])
            elif (shape, dtype) == (place.shape, np.dtype(place.dtype)):
                arrays[output.name] = region.read(place)
            elif dtype.itemsize * int(np.prod(shape, dtype=np.int64)) <= place.size_bytes:
                # Not what was asked for: it is shown as it is, and `exchange` decides.
                arrays[output.name] = region.read(Place(place.name, place.offset, shape, dtype.name))
        return arrays

    def _layout(self, call: Infer) -> Layout:
        """Where the tensors of `call` go; outputs of one name may be larger in another release."""
        key = shapes_of(call)
        specs, layout = self._layouts.get(key, ((), None))
        if layout is None or specs is not call.specs:
            if len(self._layouts) >= KEPT_SHAPES:
                self._layouts = {}
            layout = Layout.of(call.inputs, call.specs)
            self._layouts[key] = (call.specs, layout)
        return layout

    def _prepared(self, region: Region, layout: Layout, model: str) -> bytes:
        """What describes the tensors of `layout` in `region`, for `model`."""
        described = region.prepared.get((layout, model))
        if described is None:
            if len(region.prepared) >= _PREPARED:
                region.prepared.clear()
            request = messages.ModelInferRequest(model_name=model)
            for place in layout.inputs:
                tensor = request.inputs.add(
                    name=place.name, shape=place.shape, datatype=DATATYPES[np.dtype(place.dtype)]
                )
                _point(tensor, region, place)
            for place in layout.outputs:
                _point(request.outputs.add(name=place.name), region, place)
            described = region.prepared[layout, model] = request.SerializeToString()
        return described


def _point(tensor: Any, region: Region, place: Place) -> None:
    """Say that `tensor` of a message lies in shared memory."""
    tensor.parameters["shared_memory_region"].string_param = region.name
    tensor.parameters["shared_memory_byte_size"].int64_param = place.size_bytes
    if place.offset:
        tensor.parameters["shared_memory_offset"].int64_param = place.offset


def _left_s(until: float) -> float:
    """Time that is left, a little of it in any case: the call itself then says that it came too late."""
    return max(1e-3, until - time.monotonic())
