"""The blocking client."""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, Self, TypeVar
from typing import Protocol as Interface

from policyctl.client.action import Action
from policyctl.client.base import BaseClient, Deadline, closed_error
from policyctl.client.calls import Begin, Call, Infer, Reply, Step, Task, Wait
from policyctl.client.options import check_local
from policyctl.client.served import Served
from policyctl.client.servers import At
from policyctl.client.steps import carry_out
from policyctl.domain.protocol import Protocol
from policyctl.errors import ServerError
from policyctl.lane import is_local

T = TypeVar("T")

_MAKING = threading.Lock()

_MOST_AHEAD = 32
"""Threads for questions that were sent ahead; more episodes than that wait for one another."""


class Transport(Interface):
    """What makes one call: `grpc_wire` and `http_wire`, and fakes in tests."""

    def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`."""

    def close(self) -> None:
        """Let go of every connection."""


class PolicyClient(BaseClient[Transport, Action, Served]):
    """Ask one alias of one policy for actions; threads may share a client.

    `BaseClient` explains the arguments.
    """

    _ahead: ThreadPoolExecutor | None = None
    """Carries out what callers do not wait for; made for the first such question."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; a closed client asks no more."""
        if not self._closed:
            self._closed = True
            if self._ahead is not None:
                self._ahead.shutdown(wait=False, cancel_futures=True)
            for server in self._servers.all:
                server.transport.close()

    def _connect(self, protocol: Protocol, url: str, *, shared_memory: bool) -> Transport:
        if is_local(url):
            from policyctl.client.local_wire import LocalTransport

            check_local(protocol, shared_memory=shared_memory)
            return LocalTransport(self._model, url)
        if protocol is Protocol.HTTP:
            from policyctl.client.http_wire import HttpTransport

            return HttpTransport(self._model, url)
        from policyctl.client.grpc_wire import GrpcTransport

        return GrpcTransport(self._model, url, shared_memory=shared_memory)

    def _submit(self, begin: Begin, deadline_s: float | None) -> Task:
        with _MAKING:
            if self._ahead is None:
                self._ahead = ThreadPoolExecutor(_MOST_AHEAD, thread_name_prefix="policyctl-ahead")
        try:
            return self._ahead.submit(self._carry_out, begin.steps, deadline_s, begin.more_s)
        except RuntimeError:
            raise closed_error() from None

    def _carry_out(self, steps: Generator[Step | At, Any, T], deadline_s: float | None, more_s: float = 0.0) -> T:
        deadline = self._deadline(deadline_s, more_s)

        def perform(step: Step | At) -> Any:
            if type(step) is not Infer:  # which nearly every step is
                if isinstance(step, At):
                    deadline.server, step = step.server, step.call
                if isinstance(step, Begin):
                    return self._submit(step, deadline_s)
                if isinstance(step, Wait):
                    return _result(step.task, deadline)
            try:
                reply = deadline.server.transport.perform(step, deadline.left_s())
                deadline.left_s()  # a late reply is an error
            except ServerError as error:
                raise deadline.explain(error) from error.__cause__
            return reply

        return carry_out(steps, perform)


def _result(task: Any, deadline: Deadline[Any]) -> Any:
    """What a task returns or raises, within the deadline."""
    try:
        return task.result(deadline.remaining_s())
    except TimeoutError:
        raise deadline.missed() from None
    except CancelledError:
        raise closed_error() from None
