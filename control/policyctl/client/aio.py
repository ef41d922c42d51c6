"""The client for asyncio: the blocking one's surface, to be awaited."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from typing import Protocol as Interface

from policyctl.client import trace_context
from policyctl.client.action import Action
from policyctl.client.exchange import Call, Question, Reply, exchange, learn
from policyctl.client.observation import Observation
from policyctl.client.options import (
    after_failure,
    check_deadline,
    check_requires,
    check_url,
    check_wire,
    in_time,
    new_request_id,
    triton_model,
)
from policyctl.client.served import Memory, Served
from policyctl.domain.names import PRODUCTION
from policyctl.domain.protocol import Protocol
from policyctl.errors import ServerError, UsageError

T = TypeVar("T")


class AsyncTransport(Interface):
    """Whatever makes one call: `grpc_wire` and `http_wire`, and fakes in tests."""

    async def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`."""

    async def close(self) -> None:
        """Let go of every connection."""


class AsyncPolicyClient:
    """Ask one alias of one policy for actions; belongs to the loop it is made in.

    Nothing is retried that failed: a control loop is better served by an
    error now than by an action later. (What is asked again when a promotion
    changes the contract, `exchange` explains; it happens within the deadline.)

    Args:
        model: The policy's name.
        url: ``host:port`` of the protocol's endpoint, without a scheme.
        protocol: ``grpc`` or ``http``.
        alias: Which of its aliases; or the number of a pinned release, ``1.2.0``.
        requires: Which releases this client can do with: ``^1.2``, ``~1.2.0`` or
            ``1.2.3``; None for any. It is held against the release that is
            served, and against every one that answers, also after a switch.
        deadline_s: What each call may take in all, unless it says otherwise.
            It bounds the wait here and travels with the request, so that a
            server whose queue policy allows it drops what nobody waits for.
        check_bounds: Refuse observations outside the contract's bounds.
        shared_memory: Pass tensors through shared memory, where client and
            server are on one machine; over gRPC alone.
        transport: Makes the calls instead of Triton's client; for tests.

    Raises:
        UsageError: A name, the url, the range, the protocol or the deadline is not
            allowed, or shared memory is asked for over HTTP.
        UnsupportedError: By the first call: the server cannot open the shared
            memory, because it is on another machine or in another container.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str,
        protocol: str | Protocol = Protocol.GRPC,
        alias: str = PRODUCTION,
        requires: str | None = None,
        deadline_s: float = 1.0,
        check_bounds: bool = False,
        shared_memory: bool = False,
        transport: AsyncTransport | None = None,
    ) -> None:
        self._model = triton_model(model, alias)
        self._url = check_url(url)
        self._deadline_s = check_deadline(deadline_s)
        self._check_bounds = check_bounds
        self._memory = Memory(check_requires(requires))
        self._closed = False
        self._transport = transport or _transport(
            self._model, url, check_wire(protocol, shared_memory=shared_memory), shared_memory=shared_memory
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; a closed client asks no more."""
        if not self._closed:
            self._closed = True
            await self._transport.close()

    async def act(
        self,
        observation: Observation,
        *,
        deterministic: bool = True,
        seed: int | None = None,
        request_id: str | None = None,
        timing: bool = False,
        outputs: Sequence[str] = (),
        deadline_s: float | None = None,
        traceparent: str | None = None,
    ) -> Action:
        """One action for one observation.

        Args:
            observation: Of the contract's shape, without a batch dimension;
                by name where the policy takes more than one.
            deterministic: The policy's best action; else one drawn here.
            seed: Reproduces a drawn action; None takes fresh entropy.
            request_id: What to call the request; a fresh one if None.
            timing: Also report time inside the server. Unless the backend
                tells it in its answer, this reads the model's counters before
                and after: more calls, and a mean over whatever else was
                served in between (`ServerTiming.requests`).
            outputs: More outputs to fetch, for example ``value``.
            deadline_s: Instead of the client's, seconds.
            traceparent: The W3C trace context to send; None sends that of
                OpenTelemetry's active span, if it is sampled.

        Raises:
            UsageError: The observation does not fit the contract, or no such traceparent can be.
            DeadlineError: No answer in time.
            UnknownReleaseError: An answer that cannot be attributed.
            IncompatibleReleaseError: A release that this client does not do with
                is served, or answered; there is no action.
            ServerError: Any other way in which there is no action.
        """
        question = Question(
            observation=observation,
            batched=False,
            request_id=request_id or new_request_id(),
            deterministic=deterministic,
            seed=seed,
            check_bounds=self._check_bounds,
            timing=timing,
            outputs=tuple(outputs),
            traceparent=trace_context.chosen(traceparent),
        )
        return await self._drive(exchange(self._model, self._memory, question), deadline_s)

    async def act_batch(
        self,
        observations: Observation,
        *,
        deterministic: bool = True,
        seed: int | None = None,
        request_id: str | None = None,
        timing: bool = False,
        outputs: Sequence[str] = (),
        deadline_s: float | None = None,
        traceparent: str | None = None,
    ) -> Action:
        """One action for each of n observations, in one request, by one release.

        As `act`, but `observations` and the action's `value` and `outputs`
        have n rows.
        """
        question = Question(
            observation=observations,
            batched=True,
            request_id=request_id or new_request_id(),
            deterministic=deterministic,
            seed=seed,
            check_bounds=self._check_bounds,
            timing=timing,
            outputs=tuple(outputs),
            traceparent=trace_context.chosen(traceparent),
        )
        return await self._drive(exchange(self._model, self._memory, question), deadline_s)

    async def served(self, *, deadline_s: float | None = None) -> Served:
        """Ask what is served now: release, contract, digest.

        Raises:
            IncompatibleReleaseError: It is not one that this client does with.
            ServerError: The server does not say.
        """
        return await self._drive(learn(self._model, self._memory), deadline_s)

    async def _drive(self, steps: Generator[Call, Any, T], deadline_s: float | None) -> T:
        if self._closed:
            raise UsageError("this client is closed", remedy="Make a new one, or ask within its `with` block.")
        until = time.monotonic() + check_deadline(self._deadline_s if deadline_s is None else deadline_s)
        try:
            call = next(steps)
            while True:
                try:
                    remaining_s = in_time(self._model, self._url, until - time.monotonic())
                    reply = await self._transport.perform(call, remaining_s)
                    in_time(self._model, self._url, until - time.monotonic())
                except ServerError as error:
                    call = after_failure(steps, self._memory, error)
                else:
                    call = steps.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result


def _transport(model: str, url: str, protocol: Protocol, *, shared_memory: bool) -> AsyncTransport:
    # Here, because each protocol loads libraries that the other does not need.
    match protocol:
        case Protocol.GRPC:
            from policyctl.client.grpc_wire import AioGrpcTransport

            return AioGrpcTransport(model, url, shared_memory=shared_memory)
        case Protocol.HTTP:
            from policyctl.client.http_wire import AioHttpTransport

            return AioHttpTransport(model, url)
