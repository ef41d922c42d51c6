"""The connections of the control API: a client that lets the server wait loses its connection.

uvicorn sets no limit to the time that a request takes to arrive, to the time
that a client takes to read its answer, or to the number of connections. Here
the server looks once a second how long each client has let it wait. Where
another connection finds no place, the client that has let the server wait
longest makes room. So a caller that sends its request at once always gets in.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterable
from typing import Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S: Final = 10.0
"""For a request to arrive; the guard answers 408 where only the body is late."""
KEEP_ALIVE_S: Final = 20.0
"""Between two requests of one connection: longer than the pause between two scrapes."""
ANSWER_S: Final = 60.0
"""For a client to read its answer."""
LINGER_S: Final = 2.0
"""For the rest of a request that was answered before it had arrived."""
MOST: Final = 512


def most_connections() -> int:
    """How many connections have a place: a quarter of the process's descriptors, the rest is for files and Triton."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if descriptors == resource.RLIM_INFINITY else max(8, min(MOST, descriptors // 4))


class Connection(H11Protocol):
    """One connection, which knows how long its client has let the server wait."""

    _debt: tuple[object, ...] | None = None
    _since: float = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, that of the client which has let the server wait longest where none is free."""
        super().connection_made(transport)
        now = time.monotonic()
        self.waited_s(now)
        others = [each for each in cast(set[Connection], self.connections) if not each.is_ending and each is not self]
        if len(others) >= most_connections():
            waited_s = {each: seconds for each in others if (seconds := each.waited_s(now)) is not None}
            (max(waited_s, key=lambda each: waited_s[each]) if waited_s else self).transport.abort()

    @property
    def is_ending(self) -> bool:
        """Whether it was closed, and the event loop has yet to forget it."""
        return self.transport.is_closing()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing: `end_late` ends idle connections, also where an answer was not read."""

    def waited_s(self, now: float) -> float | None:
        """For how many seconds the client was seen to owe the same thing; None where it owes nothing."""
        debt = self._owed()
        if debt != self._debt:
            self._debt, self._since = debt, now
        return None if debt is None else now - self._since

    def is_late(self, now: float) -> bool:
        """Whether the client has owed the same thing for too long."""
        waited_s = self.waited_s(now)
        return self._debt is not None and waited_s is not None and waited_s > cast(float, self._debt[0])

    def _owed(self) -> tuple[object, ...] | None:
        """What the client owes: the seconds that it has, and what distinguishes this debt from the next one."""
        cycle = self.cycle
        if self.transport.get_write_buffer_size():
            return (ANSWER_S, "answer", id(cycle))
        if cycle is not None and not cycle.response_complete:
            return (REQUEST_S + LINGER_S, "body", id(cycle)) if cycle.more_body else None
        if cycle is not None and self.conn.their_state is h11.SEND_BODY:
            return (LINGER_S, "rest", id(cycle))
        if cycle is not None and not self.conn.trailing_data[0]:
            return (KEEP_ALIVE_S, "idle", id(cycle))
        return (REQUEST_S, "head", id(cycle))


def end_late(connections: Iterable[object]) -> None:
    """Close the connections whose clients have let the server wait too long."""
    now = time.monotonic()
    for each in list(cast(Iterable[Connection], connections)):
        if each.is_late(now):
            each.transport.abort()
