"""Tensors of gRPC requests that travel through shared memory: what both transports do alike.

A message then names a region instead of carrying the tensor, so what is saved
is the copying in and out of messages: nothing to speak of for four numbers,
most of the time for images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from policyctl.client.exchange import Infer
from policyctl.client.regions import Layout, Place, Region, Regions
from policyctl.errors import UnsupportedError

_ANSWERED: Final = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}
"""Refusals after which the server no longer uses the region."""

_UNKNOWN: Final = "Unable to find shared memory region"
_ALREADY: Final = "already in manager"
_IN_USE: Final = "currently in use"
_PREPARED: Final = 16


@dataclass(frozen=True, slots=True)
class Loan:
    """A region for one call, with the message's parts that name it."""

    region: Region
    layout: Layout
    inputs: list[Any]
    outputs: list[Any]


class SharedTensors:
    """The shared memory of one client.

    Args:
        url: Where its server is, for messages.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.regions = Regions()

    @contextmanager
    def loan(self, call: Infer) -> Iterator[Loan | None]:
        """A region with the inputs of `call` in it; None where too many are in use.

        A call that ends without an answer leaves its region to the server for a while.

        Raises:
            UnsupportedError: There is no room for it.
        """
        layout = Layout.of(call.inputs, call.specs)
        region = self.regions.take(layout.size_bytes)
        if region is None:
            yield None
            return
        reusable = False
        try:
            region.write(layout, call.inputs)
            inputs, outputs = _prepared(region, layout)
            yield Loan(region, layout, inputs, outputs)
            reusable = True
        except InferenceServerException as error:
            reusable = _status(error) in _ANSWERED
            raise
        finally:
            (self.regions.give if reusable else self.regions.lay_aside)(region)

    def is_forgotten(self, error: InferenceServerException, region: Region) -> bool:
        """Whether the server does not know the region any more, because it is another server by now."""
        if _UNKNOWN not in str(error.message()):
            return False
        region.registered = False
        return True

    def refused(self, error: InferenceServerException) -> UnsupportedError | None:
        """What to say where a region could not be registered; None where it is the usual trouble of a call."""
        words = str(error.message())
        if _status(error) in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}:
            return None
        return UnsupportedError(
            f"the server at {self._url} cannot open this client's shared memory: {words}",
            remedy="shared_memory=True needs both on one machine with one /dev/shm (containers: --ipc=host),"
            " and one user. Otherwise leave it off.",
        )

    @staticmethod
    def is_registered(error: InferenceServerException) -> bool:
        """Whether the server knows the region already."""
        return _ALREADY in str(error.message())

    @staticmethod
    def is_in_use(error: InferenceServerException) -> bool:
        """Whether a request still has the region, be it one whose answer has just come (Triton before 2.52)."""
        return _IN_USE in str(error.message())

    def outputs(self, result: Any, loan: Loan) -> dict[str, NDArray[Any]]:
        """Copies of the outputs, of the shapes and types that the server says."""
        places = {place.name: place for place in loan.layout.outputs}
        found: dict[str, NDArray[Any]] = {}
        contents = result.get_response().raw_output_contents  # empty ones for what is in shared memory
        for index, output in enumerate(result.get_response().outputs):
            place = places.get(output.name)
            dtype, shape = np.dtype(triton_to_np_dtype(output.datatype)), tuple(output.shape)
            if place is None or (index < len(contents) and contents[index]):
                found[output.name] = result.as_numpy(output.name).copy()
            elif (shape, dtype) == (place.shape, np.dtype(place.dtype)):
                found[output.name] = loan.region.read(place)
            elif dtype.itemsize * int(np.prod(shape, dtype=np.int64)) <= place.size_bytes:
                # Not what was asked for: it is shown as it is, and `exchange` decides.
                found[output.name] = loan.region.read(Place(place.name, place.offset, shape, dtype.name))
        return found


def _prepared(region: Region, layout: Layout) -> tuple[list[Any], list[Any]]:
    known = region.prepared.get(layout)
    if known is None:
        if len(region.prepared) >= _PREPARED:
            region.prepared.clear()
        inputs = []
        for place in layout.inputs:
            tensor = triton.InferInput(place.name, list(place.shape), np_to_triton_dtype(np.dtype(place.dtype)))
            inputs.append(tensor.set_shared_memory(region.name, place.size_bytes, place.offset))
        outputs = []
        for place in layout.outputs:
            wanted = triton.InferRequestedOutput(place.name)
            wanted.set_shared_memory(region.name, place.size_bytes, place.offset)
            outputs.append(wanted)
        known = region.prepared[layout] = (inputs, outputs)
    return known


def _status(error: InferenceServerException) -> str:
    return str(error.status() or "").removeprefix("StatusCode.")
