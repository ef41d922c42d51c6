"""The blocking client."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Self, TypeVar
from typing import Protocol as Interface

from policyctl.client.action import Action
from policyctl.client.base import BaseClient
from policyctl.client.calls import Call, Reply
from policyctl.client.served import Served
from policyctl.client.steps import carry_out
from policyctl.domain.protocol import Protocol
from policyctl.errors import ServerError

T = TypeVar("T")


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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; a closed client asks no more."""
        if not self._closed:
            self._closed = True
            self._transport.close()

    def _connect(self, protocol: Protocol, *, shared_memory: bool) -> Transport:
        if protocol is Protocol.HTTP:
            from policyctl.client.http_wire import HttpTransport

            return HttpTransport(self._model, self._url)
        from policyctl.client.grpc_wire import GrpcTransport

        return GrpcTransport(self._model, self._url, shared_memory=shared_memory)

    def _carry_out(self, steps: Generator[Call, Any, T], deadline_s: float | None) -> T:
        deadline = self._deadline(deadline_s)

        def perform(call: Call) -> Reply:
            try:
                reply = self._transport.perform(call, deadline.left_s())
                deadline.left_s()  # a late reply is an error
            except ServerError as error:
                raise deadline.explain(error) from error.__cause__
            return reply

        return carry_out(steps, perform)
