"""Carry one call to Triton over gRPC and bring the reply, blocking or by asyncio.

A channel is thread-safe, so a client's threads share one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from policyctl.client.errors import translate
from policyctl.client.exchange import Answer, Call, Counters, FetchConfig, FetchCounters, Infer, Reply
from policyctl.client.served import ModelConfig

_CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # No answer twice, and none late: repeats are decided in `exchange`.
    ("grpc.enable_retries", 0),
    # gRPC waits up to two minutes before it looks for a server that was away.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Clients of one process would share one connection, and its limits.
    ("grpc.use_local_subchannel_pool", 1),
)


class _Common:
    """What the two transports have in common: everything but waiting."""

    def __init__(self, model: str, url: str) -> None:
        self._model = model
        self._url = url
        self._requested: dict[tuple[str, ...], list[Any]] = {}

    def _arguments(self, call: Infer, timeout_s: float) -> dict[str, Any]:
        return {
            "model_name": self._model,
            "inputs": [_input(name, array) for name, array in call.inputs.items()],
            "outputs": self._outputs(call.outputs),
            "request_id": call.request_id,
            "timeout": max(1, int(timeout_s * 1e6)),
            "client_timeout": timeout_s,
        }

    def _outputs(self, names: tuple[str, ...]) -> list[Any]:
        found = self._requested.get(names)
        if found is None:
            found = self._requested[names] = [triton.InferRequestedOutput(name) for name in names]
        return found

    def _translated(self, error: InferenceServerException) -> Exception:
        return translate(str(error.status() or ""), str(error.message() or ""), model=self._model, url=self._url)


class GrpcTransport(_Common):
    """Blocking; safe to share between threads."""

    def __init__(self, model: str, url: str) -> None:
        super().__init__(model, url)
        self._client = triton.InferenceServerClient(url, channel_args=list(_CHANNEL))

    def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`.

        Raises:
            ServerError: As `errors.translate` says.
        """
        try:
            match call:
                case Infer():
                    begin = time.perf_counter_ns()
                    result = self._client.infer(**self._arguments(call, timeout_s))
                    return _answer(result, call, time.perf_counter_ns() - begin)
                case FetchConfig(slot):
                    return _config(
                        self._client.get_model_config(
                            self._model, "" if slot is None else str(slot), client_timeout=timeout_s
                        )
                    )
                case FetchCounters(slot):
                    return _counters(
                        self._client.get_inference_statistics(self._model, str(slot), client_timeout=timeout_s)
                    )
        except InferenceServerException as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Close the channel."""
        self._client.close()


class AioGrpcTransport(_Common):
    """For asyncio; belongs to the loop it was made in."""

    def __init__(self, model: str, url: str) -> None:
        from tritonclient.grpc import aio

        super().__init__(model, url)
        self._client = aio.InferenceServerClient(url, channel_args=list(_CHANNEL))

    async def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`.

        Raises:
            ServerError: As `errors.translate` says.
        """
        try:
            match call:
                case Infer():
                    begin = time.perf_counter_ns()
                    result = await self._client.infer(**self._arguments(call, timeout_s))
                    return _answer(result, call, time.perf_counter_ns() - begin)
                case FetchConfig(slot):
                    return _config(
                        await self._client.get_model_config(
                            self._model, "" if slot is None else str(slot), client_timeout=timeout_s
                        )
                    )
                case FetchCounters(slot):
                    return _counters(
                        await self._client.get_inference_statistics(self._model, str(slot), client_timeout=timeout_s)
                    )
        except InferenceServerException as error:
            raise self._translated(error) from error

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()


def _input(name: str, array: NDArray[Any]) -> Any:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def _answer(result: Any, call: Infer, elapsed_ns: int) -> Answer:
    response = result.get_response()
    outputs: Mapping[str, Any] = {name: result.as_numpy(name) for name in call.outputs}
    return Answer(
        slot=int(response.model_version),
        request_id=response.id,
        # Copies: what NumPy reads out of a message cannot be written to.
        outputs={name: array.copy() for name, array in outputs.items() if array is not None},
        parameters={
            key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in response.parameters.items()
        },
        round_trip_us=elapsed_ns / 1e3,
    )


def _config(response: Any) -> ModelConfig:
    config = response.config
    return ModelConfig({key: value.string_value for key, value in config.parameters.items()}, config.max_batch_size)


def _counters(response: Any) -> Counters:
    stats = response.model_stats[0].inference_stats
    return Counters(
        requests=stats.success.count,
        queue_ns=stats.queue.ns,
        compute_ns=stats.compute_input.ns + stats.compute_infer.ns + stats.compute_output.ns,
    )
