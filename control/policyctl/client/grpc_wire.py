"""Carry one call to Triton over gRPC and bring the reply, blocking or by asyncio.

Each call is a procedure (`steps`) whose steps make one remote call or pause, so
both transports do the same. A channel is thread-safe, so a client's threads
share one. `grpc_messages` writes and reads messages; with shared memory tensors
are not in them (`grpc_memory`).
"""

from __future__ import annotations

import asyncio
import operator
import time
from functools import partial
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from policyctl.client.calls import Answer, Call, Counters, FetchConfig, FetchCounters, Infer, Reply
from policyctl.client.errors import translate
from policyctl.client.grpc_memory import SharedTensors
from policyctl.client.grpc_messages import (
    INFER,
    Requests,
    Steps,
    answer_of,
    arrays_of,
    config_of,
    counters_of,
    metadata_of,
    read_response,
)
from policyctl.client.served import ModelConfig
from policyctl.client.steps import carry_out, carry_out_async

CHANNEL: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # No answer twice, and none late: repeats are decided in `exchange`.
    ("grpc.enable_retries", 0),
    # gRPC waits up to two minutes before it looks for a server that was away.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # In spite of its name, how long one attempt to connect may take: a busy server needs its time for the handshake.
    # Source: https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md (MIN_CONNECT_TIMEOUT)
    ("grpc.min_reconnect_backoff_ms", 5000),
    # Clients of one process would share one connection, and its limits.
    ("grpc.use_local_subchannel_pool", 1),
)


class _Common:
    """What the two transports have in common: everything but waiting."""

    def __init__(self, model: str, url: str, channel: Any, *, shared_memory: bool) -> None:
        self._model = model
        self._url = url
        self._channel = channel
        self._stub = GRPCInferenceServiceStub(channel)
        self._ask = channel.unary_unary(INFER, response_deserializer=read_response)
        self._requests = Requests(model)
        self._shared = SharedTensors(model, url, self._stub, self._ask) if shared_memory else None

    def _steps(self, call: Call, timeout_s: float) -> Steps[Reply]:
        match call:
            case Infer():
                return self._infer(call, timeout_s)
            case FetchConfig():
                return self._config(call, timeout_s)
            case FetchCounters():
                return self._counters(call, timeout_s)

    def _config(self, call: FetchConfig, timeout_s: float) -> Steps[ModelConfig]:
        version = "" if call.slot is None else str(call.slot)
        request = messages.ModelConfigRequest(name=call.model or self._model, version=version)
        return config_of((yield partial(self._stub.ModelConfig, request, timeout=timeout_s)))

    def _counters(self, call: FetchCounters, timeout_s: float) -> Steps[Counters]:
        request = messages.ModelStatisticsRequest(name=call.model or self._model, version=str(call.slot))
        return counters_of((yield partial(self._stub.ModelStatistics, request, timeout=timeout_s)))

    def _infer(self, call: Infer, timeout_s: float) -> Steps[Answer]:
        begin = time.perf_counter_ns()
        if self._shared is not None:
            until = time.monotonic() + timeout_s
            if (answer := (yield from self._shared.infer(call, until))) is not None:
                return answer
            timeout_s = max(1e-3, until - time.monotonic())
        response = yield partial(self._send, call, timeout_s)
        return _answer(response, call, begin)

    def _send(self, call: Infer, timeout_s: float) -> Any:
        request = self._requests.write(call, timeout_s)
        return self._ask(request, timeout=timeout_s, metadata=metadata_of(call))

    def _translated(self, error: grpc.RpcError, call: Call) -> Exception:
        model = call.model or self._model
        return translate(error.code().name, str(error.details() or ""), model=model, url=self._url)


def _answer(response: Any, call: Infer, begin_ns: int) -> Answer:
    return answer_of(response, call, arrays_of(response), time.perf_counter_ns() - begin_ns)


class GrpcTransport(_Common):
    """Blocking; safe to share between threads."""

    def __init__(self, model: str, url: str, *, shared_memory: bool = False) -> None:
        super().__init__(model, url, grpc.insecure_channel(url, options=CHANNEL), shared_memory=shared_memory)

    def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`.

        Raises:
            ServerError: As `errors.translate` says.
        """
        try:
            if self._shared is None and isinstance(call, Infer):
                begin = time.perf_counter_ns()  # as a procedure it would take two microseconds longer
                return _answer(self._send(call, timeout_s), call, begin)
            return carry_out(self._steps(call, timeout_s), operator.call)
        except grpc.RpcError as error:
            raise self._translated(error, call) from error

    def close(self) -> None:
        """Close the channel; the server lets go of every region first."""
        if self._shared is not None:
            carry_out(self._shared.close(time.sleep), operator.call)
        self._channel.close()


class AioGrpcTransport(_Common):
    """For asyncio; belongs to the loop it was made in."""

    def __init__(self, model: str, url: str, *, shared_memory: bool = False) -> None:
        super().__init__(model, url, grpc.aio.insecure_channel(url, options=CHANNEL), shared_memory=shared_memory)

    async def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`.

        Raises:
            ServerError: As `errors.translate` says.
        """
        try:
            return await carry_out_async(self._steps(call, timeout_s), operator.call)
        except grpc.RpcError as error:
            raise self._translated(error, call) from error

    async def close(self) -> None:
        """Close the channel; the server lets go of every region first."""
        if self._shared is not None:
            await carry_out_async(self._shared.close(asyncio.sleep), operator.call)
        await self._channel.close()
