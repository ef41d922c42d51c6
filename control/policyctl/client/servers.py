"""The servers that one client may ask, and which of them it asks now.

A client stays with a server as long as that answers. Where it cannot be reached, is full, or does not
serve what the client needs, the same question goes to the next one, within the same deadline: an inference
has no side effects. A server that let a deadline pass is not waited for again by the next question.
What is known of a server (which release is in which slot) holds for that one alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from secrets import randbelow
from typing import Any, Final, Generic, TypeVar

from policyctl.client.calls import Call
from policyctl.client.errors import (
    DeadlineError,
    EpisodeInterruptedError,
    IncompatibleReleaseError,
    NotServedError,
    OverloadedError,
    StaleError,
    UnreachableError,
)
from policyctl.client.served import Memory
from policyctl.client.steps import changed
from policyctl.errors import ServerError

TransportT = TypeVar("TransportT")
T = TypeVar("T")

ELSEWHERE: Final = (
    EpisodeInterruptedError,
    IncompatibleReleaseError,
    StaleError,
    NotServedError,
    OverloadedError,
    UnreachableError,
)
"""Errors after which another server may still give the right answer; the first that any server gave says most."""


@dataclass(slots=True, eq=False)
class Server(Generic[TransportT]):
    """One server.

    Attributes:
        url: ``host:port``.
        transport: What carries calls there.
        memory: What this client knows of it.
    """

    url: str
    transport: TransportT
    memory: Memory


@dataclass(slots=True)
class At:
    """A call to one of several servers."""

    server: Server[Any]
    call: Call


class Servers(Generic[TransportT]):
    """One server or several; threads may share them."""

    def __init__(self, servers: Sequence[Server[TransportT]]) -> None:
        self.all = tuple(servers)
        self.only = self.all[0] if len(self.all) == 1 else None
        """The server, where there is one."""
        # Clients that were given the same list spread over it.
        self._chosen = randbelow(len(self.all))

    @property
    def chosen(self) -> Server[TransportT]:
        """The one that is asked first."""
        return self.all[self._chosen]

    def ask(self, steps_of: Callable[[Memory], Generator[Call, Any, T]]) -> Generator[Any, Any, T]:
        """The steps of one question, put to one server after another until one answers.

        Args:
            steps_of: The steps, by what is known of the server that they go to.

        Raises:
            ServerError: None has an answer; names what each said.
        """
        return self._ask_in_turn(steps_of) if self.only is None else steps_of(self.only.memory)

    def _ask_in_turn(self, steps_of: Callable[[Memory], Generator[Call, Any, T]]) -> Generator[Any, Any, T]:
        count, first = len(self.all), self._chosen
        failed: list[ServerError] = []
        for at in ((first + number) % count for number in range(count)):
            server = self.all[at]
            try:
                value = yield from changed(steps_of(server.memory), functools.partial(At, server))
            except ELSEWHERE as error:
                failed.append(error)
                continue
            except DeadlineError:
                self._chosen = (at + 1) % count
                raise
            self._chosen = at
            return value
        telling = min(failed, key=lambda error: [isinstance(error, kind) for kind in ELSEWHERE].index(True))
        raise type(telling)(
            f"none of {count} servers has an answer: {'; '.join(error.problem for error in failed)}",
            remedy=telling.remedy,
        ) from telling
