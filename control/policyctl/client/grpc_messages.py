"""Requests and answers of Triton's gRPC protocol: what both transports write and read alike.

Tritonclient's objects cost a caller as much time as the checks of a question.
So a request is written here: what describes its tensors is serialized once for
each shape, and serialized parts of a message make a whole one when they are
joined. (A message that is used again instead never gives back the memory of the
bytes that were in it.)

Source: https://protobuf.dev/programming-guides/encoding/#last-one-wins
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as messages

from policyctl.client.calls import GENERATION, RELEASE, TIMING, Answer, Counters, Infer
from policyctl.client.errors import unreadable_error
from policyctl.client.served import ModelConfig
from policyctl.client.tensors import DATATYPES, KEPT_SHAPES, NUMPY, Shapes, shapes_of, size_of
from policyctl.client.trace_context import HEADER

INFER: Final = "/inference.GRPCInferenceService/ModelInfer"

read_response = messages.ModelInferResponse.FromString

_ID: Final = b"\x1a"
"""The tag of the field `id`; its length follows, in one byte up to 127, and its bytes."""
_MOST_OF_ONE_BYTE: Final = 0x7F
_BYTES: Final = tuple(bytes((number,)) for number in range(_MOST_OF_ONE_BYTE + 1))

T = TypeVar("T")
Steps = Generator[Callable[[], Any], Any, T]
"""A procedure whose steps are remote calls and pauses; `steps` carries it out."""


class Requests:
    """Serialized requests that carry tensors; safe to share between threads.

    Args:
        model: What is asked.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._described = functools.lru_cache(KEPT_SHAPES)(self._describe)

    def write(self, call: Infer, timeout_s: float) -> bytes:
        """The request that `call` is."""
        described, before = self._described(shapes_of(call))
        pieces = [described, own_part(call, timeout_s)]
        for start, array in zip(before, call.inputs.values(), strict=True):
            pieces += (start, array.tobytes())
        return b"".join(pieces)

    def _describe(self, shapes: Shapes) -> tuple[bytes, list[bytes]]:
        """What describes the tensors, and what stands before the content of each."""
        model, outputs, inputs = shapes
        request = messages.ModelInferRequest(model_name=model or self._model)
        before = []
        for name, shape, dtype in inputs:
            request.inputs.add(name=name, shape=shape, datatype=DATATYPES[dtype])
            size = size_of(shape, dtype)
            before.append(_serialized(raw_input_contents=[bytes(size)])[:-size])
        for name in outputs:
            request.outputs.add(name=name)
        return request.SerializeToString(), before


def own_part(call: Infer, timeout_s: float) -> bytes:
    """What differs from call to call, apart from tensors: the request's id, and its time-out in whole milliseconds."""
    request_id = call.request_id.encode()
    if len(request_id) > _MOST_OF_ONE_BYTE:
        return _timeout_part(math.ceil(timeout_s * 1e3)) + _serialized(id=call.request_id)
    return b"".join((_timeout_part(math.ceil(timeout_s * 1e3)), _ID, _BYTES[len(request_id)], request_id))


@functools.lru_cache(KEPT_SHAPES)
def _timeout_part(timeout_ms: int) -> bytes:
    """Triton's parameter counts microseconds."""
    return _serialized(parameters={"timeout": messages.InferParameter(int64_param=1000 * timeout_ms)})


def _serialized(**fields: Any) -> bytes:
    serialized: bytes = messages.ModelInferRequest(**fields).SerializeToString()
    return serialized


def metadata_of(call: Infer) -> tuple[tuple[str, str], ...] | None:
    """What goes with the request, outside its message."""
    return ((HEADER, call.traceparent),) if call.traceparent else None


def arrays_of(response: Any) -> dict[str, NDArray[Any]]:
    """Every output that `response` carries.

    Raises:
        ServerError: One is not as Triton writes it.
    """
    pairs = zip(response.outputs, response.raw_output_contents, strict=False)  # one that is missing is missed later
    return {each.name: array_of(each, content) for each, content in pairs}


def array_of(output: Any, content: bytes) -> NDArray[Any]:
    """One output; in a copy, for bytes cannot be written to.

    Raises:
        ServerError: It is not as Triton writes it.
    """
    try:
        return np.frombuffer(bytearray(content), NUMPY[output.datatype]).reshape(output.shape[:])
    except (ValueError, KeyError) as error:
        raise unreadable_error(error) from error


def answer_of(response: Any, call: Infer, outputs: dict[str, NDArray[Any]], elapsed_ns: int) -> Answer:
    """The answer that `response` is."""
    named = response.parameters
    release = named.get(RELEASE)
    parameters: dict[str, Any] = {} if release is None else {RELEASE: release.string_param}
    if (generation := named.get(GENERATION)) is not None:
        parameters[GENERATION] = generation.int64_param
    if call.timing:
        values = {name: named[name] for name in TIMING if name in named}
        parameters |= {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in values.items()}
    return Answer(int(response.model_version), response.id, outputs, parameters, elapsed_ns / 1e3)


def config_of(response: Any) -> ModelConfig:
    """The configuration that `response` is."""
    config = response.config
    return ModelConfig({key: value.string_value for key, value in config.parameters.items()}, config.max_batch_size)


def counters_of(response: Any) -> Counters:
    """The statistics that `response` is."""
    stats = response.model_stats[0].inference_stats
    return Counters(
        requests=stats.success.count,
        queue_ns=stats.queue.ns,
        compute_ns=stats.compute_input.ns + stats.compute_infer.ns + stats.compute_output.ns,
    )
