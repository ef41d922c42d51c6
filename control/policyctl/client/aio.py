"""The client for asyncio: the blocking one's surface, to be awaited."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine, Generator
from typing import Any, Self, TypeVar
from typing import Protocol as Interface

from policyctl.client.action import Action
from policyctl.client.base import BaseClient, Deadline, closed_error
from policyctl.client.calls import Begin, Call, Reply, Step, Wait
from policyctl.client.served import Served
from policyctl.client.servers import At
from policyctl.client.steps import carry_out_async
from policyctl.domain.protocol import Protocol
from policyctl.errors import ServerError, UsageError
from policyctl.lane import is_local

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
            for task in (ahead := tuple(self._ahead)):
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)
            for server in self._servers.all:
                await server.transport.close()

    def _connect(self, protocol: Protocol, url: str, *, shared_memory: bool) -> AsyncTransport:
        if is_local(url):
            raise UsageError(
                f"{url} is for PolicyClient: its calls wait, and would stop the loop",
                remedy="Use PolicyClient in a thread (asyncio.to_thread), or gRPC or HTTP here.",
            )
        if protocol is Protocol.HTTP:
            from policyctl.client.http_wire import AioHttpTransport

            return AioHttpTransport(self._model, url)
        from policyctl.client.grpc_wire import AioGrpcTransport

        return AioGrpcTransport(self._model, url, shared_memory=shared_memory)

    @functools.cached_property
    def _ahead(self) -> set[asyncio.Task[Any]]:
        """What callers do not wait for; a loop keeps no task that nobody refers to."""
        return set()

    async def _carry_out(self, steps: Generator[Step | At, Any, T], deadline_s: float | None, more_s: float = 0.0) -> T:
        deadline = self._deadline(deadline_s, more_s)

        async def perform(step: Step | At) -> Any:
            if isinstance(step, At):
                deadline.server, step = step.server, step.call
            if isinstance(step, Begin):
                task = asyncio.ensure_future(self._carry_out(step.steps, deadline_s, step.more_s))
                self._ahead.add(task)
                task.add_done_callback(self._ended)
                await asyncio.sleep(0)  # it begins now, and not when this caller waits next
                return task
            if isinstance(step, Wait):
                return await _result(step.task, deadline)
            try:
                reply = await deadline.server.transport.perform(step, deadline.left_s())
                deadline.left_s()  # a late reply is an error
            except ServerError as error:
                raise deadline.explain(error) from error.__cause__
            return reply

        return await carry_out_async(steps, perform)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._ahead.discard(task)
        if not task.cancelled():
            task.exception()  # an episode that was reset does not ask for it, and asyncio would complain


async def _result(task: Any, deadline: Deadline[Any]) -> Any:
    """What a task returns or raises, within the deadline; the task goes on after it."""
    await asyncio.wait({task}, timeout=deadline.remaining_s())
    if not task.done():
        raise deadline.missed()
    if task.cancelled():
        raise closed_error()
    return task.result()
