"""The client for asyncio: the blocking one's surface, to be awaited."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Self, TypeVar
from typing import Protocol as Interface

from policyctl.client.action import Action
from policyctl.client.base import BaseClient
from policyctl.client.calls import Call, Reply
from policyctl.client.served import Served
from policyctl.client.steps import carry_out_async
from policyctl.domain.protocol import Protocol
from policyctl.errors import ServerError

T = TypeVar("T")


class AsyncTransport(Interface):
    """What makes one call: `grpc_wire` and `http_wire`, and fakes in tests."""

    async def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`."""

    async def close(self) -> None:
        """Let go of every connection."""


class AsyncPolicyClient(BaseClient[AsyncTransport, Coroutine[Any, Any, Action], Coroutine[Any, Any, Served]]):
    """Ask one alias of one policy for actions; belongs to the loop it is made in.

    `BaseClient` explains the arguments.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; a closed client asks no more."""
        if not self._closed:
            self._closed = True
            await self._transport.close()

    def _connect(self, protocol: Protocol, *, shared_memory: bool) -> AsyncTransport:
        if protocol is Protocol.HTTP:
            from policyctl.client.http_wire import AioHttpTransport

            return AioHttpTransport(self._model, self._url)
        from policyctl.client.grpc_wire import AioGrpcTransport

        return AioGrpcTransport(self._model, self._url, shared_memory=shared_memory)

    async def _carry_out(self, steps: Generator[Call, Any, T], deadline_s: float | None) -> T:
        deadline = self._deadline(deadline_s)

        async def perform(call: Call) -> Reply:
            try:
                reply = await self._transport.perform(call, deadline.left_s())
                deadline.left_s()  # a late reply is an error
            except ServerError as error:
                raise deadline.explain(error) from error.__cause__
            return reply

        return await carry_out_async(steps, perform)
