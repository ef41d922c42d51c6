"""Carry one call to Triton over gRPC and bring the reply, blocking or by asyncio.

A channel is thread-safe, so a client's threads share one. What describes the
tensors of a request is made once for each shape and used again from call to
call; with shared memory the tensors' memory is too (`grpc_memory`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from policyctl.client.errors import translate
from policyctl.client.exchange import Answer, Call, Counters, FetchConfig, FetchCounters, Infer, Reply
from policyctl.client.grpc_memory import Loan, SharedTensors
from policyctl.client.regions import Region
from policyctl.client.served import ModelConfig
from policyctl.client.trace_context import HEADER

_UNREGISTER_S: Final = 1.0
"""How long `close` waits in all for the server to let go of the regions."""

_UNREGISTER_EVERY_S: Final = 0.01
_KEPT_SHAPES: Final = 64

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

    def __init__(self, model: str, url: str, *, shared_memory: bool = False) -> None:
        self._model = model
        self._url = url
        self._requested: dict[tuple[str, ...], list[Any]] = {}
        self._made: dict[tuple[tuple[str, tuple[int, ...], str], ...], list[list[Any]]] = {}
        self._shared = SharedTensors(url) if shared_memory else None

    def _arguments(self, call: Infer, inputs: list[Any], outputs: list[Any], timeout_s: float) -> dict[str, Any]:
        return {
            "model_name": self._model,
            "inputs": inputs,
            "outputs": outputs,
            "request_id": call.request_id,
            "timeout": max(1, int(timeout_s * 1e6)),
            "client_timeout": timeout_s,
            **({"headers": {HEADER: call.traceparent}} if call.traceparent else {}),
        }

    @contextlib.contextmanager
    def _inputs(self, call: Infer) -> Iterator[list[Any]]:
        """Tensors for one call, which has them to itself."""
        key = tuple((name, array.shape, array.dtype.str) for name, array in call.inputs.items())
        if len(self._made) > _KEPT_SHAPES:
            self._made = {}
        made = self._made.setdefault(key, [])
        try:
            tensors = made.pop()
        except IndexError:
            tensors = [triton.InferInput(n, list(a.shape), np_to_triton_dtype(a.dtype)) for n, a in call.inputs.items()]
        for tensor, array in zip(tensors, call.inputs.values(), strict=True):
            tensor.set_data_from_numpy(array)
        yield tensors
        made.append(tensors)

    def _outputs(self, names: tuple[str, ...]) -> list[Any]:
        found = self._requested.get(names)
        if found is None:
            found = self._requested[names] = [triton.InferRequestedOutput(name) for name in names]
        return found

    def _translated(self, error: InferenceServerException) -> Exception:
        return translate(str(error.status() or ""), str(error.message() or ""), model=self._model, url=self._url)


class GrpcTransport(_Common):
    """Blocking; safe to share between threads."""

    def __init__(self, model: str, url: str, *, shared_memory: bool = False) -> None:
        super().__init__(model, url, shared_memory=shared_memory)
        self._client = triton.InferenceServerClient(url, channel_args=list(_CHANNEL))

    def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`.

        Raises:
            ServerError: As `errors.translate` says.
        """
        try:
            match call:
                case Infer():
                    return self._infer(call, timeout_s)
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

    def _infer(self, call: Infer, timeout_s: float) -> Answer:
        if self._shared is not None:
            until = time.monotonic() + timeout_s
            for region in self._shared.regions.cooled():
                if not self._let_go(self._shared, region, until):
                    self._shared.regions.lay_aside(region)
            with self._shared.loan(call) as loan:
                if loan is not None:
                    return self._infer_shared(self._shared, call, loan, until)
            timeout_s = _left_s(until)
        with self._inputs(call) as inputs:
            begin = time.perf_counter_ns()
            result = self._client.infer(**self._arguments(call, inputs, self._outputs(call.outputs), timeout_s))
            return _answer(result, call, time.perf_counter_ns() - begin)

    def _infer_shared(self, shared: SharedTensors, call: Infer, loan: Loan, until: float) -> Answer:
        begin = time.perf_counter_ns()
        if not loan.region.registered:
            self._register(shared, loan, _left_s(until))
        try:
            result = self._client.infer(**self._arguments(call, loan.inputs, loan.outputs, _left_s(until)))
        except InferenceServerException as error:
            if not shared.is_forgotten(error, loan.region):
                raise
            self._register(shared, loan, _left_s(until))
            result = self._client.infer(**self._arguments(call, loan.inputs, loan.outputs, _left_s(until)))
        return _answer(result, call, time.perf_counter_ns() - begin, shared.outputs(result, loan))

    def _register(self, shared: SharedTensors, loan: Loan, timeout_s: float) -> None:
        try:
            self._client.register_system_shared_memory(
                loan.region.name, loan.region.name, loan.region.size_bytes, client_timeout=timeout_s
            )
        except InferenceServerException as error:
            if not shared.is_registered(error):
                raise (shared.refused(error) or error) from error
        loan.region.registered = True

    def _let_go(self, shared: SharedTensors, region: Region, until: float) -> bool:
        try:
            self._client.unregister_system_shared_memory(region.name, client_timeout=_left_s(until))
        except InferenceServerException as error:
            if shared.is_in_use(error):
                return False
        shared.regions.drop(region)
        return True

    def close(self) -> None:
        """Close the channel; the server lets go of every region first."""
        if self._shared is not None:
            until = time.monotonic() + _UNREGISTER_S
            for region in self._shared.regions.all():
                while not self._let_go(self._shared, region, until) and time.monotonic() < until:
                    time.sleep(_UNREGISTER_EVERY_S)
            self._shared.regions.close()
        self._client.close()


class AioGrpcTransport(_Common):
    """For asyncio; belongs to the loop it was made in."""

    def __init__(self, model: str, url: str, *, shared_memory: bool = False) -> None:
        from tritonclient.grpc import aio

        super().__init__(model, url, shared_memory=shared_memory)
        self._client = aio.InferenceServerClient(url, channel_args=list(_CHANNEL))

    async def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`.

        Raises:
            ServerError: As `errors.translate` says.
        """
        try:
            match call:
                case Infer():
                    return await self._infer(call, timeout_s)
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

    async def _infer(self, call: Infer, timeout_s: float) -> Answer:
        if self._shared is not None:
            until = time.monotonic() + timeout_s
            for region in self._shared.regions.cooled():
                if not await self._let_go(self._shared, region, until):
                    self._shared.regions.lay_aside(region)
            with self._shared.loan(call) as loan:
                if loan is not None:
                    return await self._infer_shared(self._shared, call, loan, until)
            timeout_s = _left_s(until)
        with self._inputs(call) as inputs:
            begin = time.perf_counter_ns()
            result = await self._client.infer(**self._arguments(call, inputs, self._outputs(call.outputs), timeout_s))
            return _answer(result, call, time.perf_counter_ns() - begin)

    async def _infer_shared(self, shared: SharedTensors, call: Infer, loan: Loan, until: float) -> Answer:
        begin = time.perf_counter_ns()
        if not loan.region.registered:
            await self._register(shared, loan, _left_s(until))
        try:
            result = await self._client.infer(**self._arguments(call, loan.inputs, loan.outputs, _left_s(until)))
        except InferenceServerException as error:
            if not shared.is_forgotten(error, loan.region):
                raise
            await self._register(shared, loan, _left_s(until))
            result = await self._client.infer(**self._arguments(call, loan.inputs, loan.outputs, _left_s(until)))
        return _answer(result, call, time.perf_counter_ns() - begin, shared.outputs(result, loan))

    async def _register(self, shared: SharedTensors, loan: Loan, timeout_s: float) -> None:
        try:
            await self._client.register_system_shared_memory(
                loan.region.name, loan.region.name, loan.region.size_bytes, client_timeout=timeout_s
            )
        except InferenceServerException as error:
            if not shared.is_registered(error):
                raise (shared.refused(error) or error) from error
        loan.region.registered = True

    async def _let_go(self, shared: SharedTensors, region: Region, until: float) -> bool:
        try:
            await self._client.unregister_system_shared_memory(region.name, client_timeout=_left_s(until))
        except InferenceServerException as error:
            if shared.is_in_use(error):
                return False
        shared.regions.drop(region)
        return True

    async def close(self) -> None:
        """Close the channel; the server lets go of every region first."""
        if self._shared is not None:
            until = time.monotonic() + _UNREGISTER_S
            for region in self._shared.regions.all():
                while not await self._let_go(self._shared, region, until) and time.monotonic() < until:
                    await asyncio.sleep(_UNREGISTER_EVERY_S)
            self._shared.regions.close()
        await self._client.close()


def _answer(result: Any, call: Infer, elapsed_ns: int, shared: Mapping[str, NDArray[Any]] | None = None) -> Answer:
    """`shared` are outputs that came through shared memory, copied already."""
    response = result.get_response()
    if shared is not None:
        outputs: Mapping[str, Any] = shared
    else:
        # Copies: what NumPy reads out of a message cannot be written to.
        read = {name: result.as_numpy(name) for name in call.outputs}
        outputs = {name: array.copy() for name, array in read.items() if array is not None}
    return Answer(
        slot=int(response.model_version),
        request_id=response.id,
        outputs=outputs,
        parameters={
            key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in response.parameters.items()
        },
        round_trip_us=elapsed_ns / 1e3,
    )


def _left_s(until: float) -> float:
    """Time that is left, a little of it in any case: the call itself then says that it came too late."""
    return max(1e-3, until - time.monotonic())


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
