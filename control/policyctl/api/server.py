"""Run the control API: on which address, alone on its repository, until a signal.

uvicorn sets no limit to the time that a request takes to arrive, to the time
that a client takes to read its answer, or to the number of connections. Here
the server looks once a second how long each client has let it wait. Where
another connection finds no place, the client that has let the server wait
longest makes room. So a caller that sends its request at once always gets in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, cast

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from policyctl.adapters import api_address, lock
from policyctl.adapters.token_store import TokenFile
from policyctl.api.app import create
from policyctl.api.context import LOGGER, Api
from policyctl.api.guard import is_loopback
from policyctl.config.reading import Reading
from policyctl.domain.log_event import LogLevel
from policyctl.errors import UsageError
from policyctl.services.control import Control
from policyctl.services.logs.server_log import serving
from policyctl.services.supervise.reload import Reloader
from policyctl.settings import Settings
from policyctl.signals import stop_on_signal

REQUEST_S: Final = 10.0
"""For a request to arrive; the guard answers 408 where only the body is late."""
KEEP_ALIVE_S: Final = 20.0
"""Between two requests of one connection: longer than the pause between two scrapes."""
ANSWER_S: Final = 60.0
"""For a client to read its answer."""
LINGER_S: Final = 2.0
"""For the rest of a request that was answered before it had arrived."""
MOST: Final = 512
_STOP_S: Final = 10
_HEADER_BYTES: Final = 16 << 10
_ACCEPTED_AT_ONCE: Final = 64
"""So few that their places are made free before the next ones come."""
_QUEUE: Final = 1024
"""Connections that the kernel keeps meanwhile; none is lost to a flood that is shorter."""


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


class _Stop(threading.Event):
    """Set by a signal: the server ends in good order, and the process with 0."""

    def __init__(self, server: uvicorn.Server) -> None:
        super().__init__()
        self._server = server

    def set(self) -> None:
        """Ask the server to end."""
        self._server.should_exit = True
        super().set()


class Server(uvicorn.Server):
    """Answers on one listener as the control API does: with limits to what a connection may take."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="error",  # its warnings tell of requests that anybody can send, and would fill the log
                access_log=False,
                server_header=False,
                proxy_headers=False,
                loop="asyncio",
                backlog=_ACCEPTED_AT_ONCE,
                timeout_graceful_shutdown=_STOP_S,
                h11_max_incomplete_event_size=_HEADER_BYTES,
                ws="none",
                http=Connection,  # of h11: it bounds what a request's head may hold; httptools does not
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept a few connections at a time, while the kernel keeps many."""
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(_QUEUE)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, by uvicorn: once a second the late connections end."""
        if counter % 10 == 0:
            end_late(self.server_state.connections)
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal again, and end the process before its locks and answers are in order."""
        with stop_on_signal(_Stop(self)):
            yield


def serve(control: Control, reading: Reading[Settings]) -> None:
    """Answer until SIGTERM or SIGINT.

    Args:
        reading: How the settings came about, to take over what changes in their files.

    Raises:
        UsageError: The address cannot be had, or others could reach it and there is no token.
        BusyError: Another `policyctl api` works on this repository.
    """
    with serving(control, name="api") as speaking:
        _serve(speaking, reading)


def _serve(control: Control, reading: Reading[Settings]) -> None:
    settings = control.settings.api
    local = is_loopback(settings.host)
    if not local:
        _require_token(control, settings.host)
    control.repository.create()
    alone = lock.hold_alone(
        api_address.lock_path(control.repository),
        doing="policyctl api",
        taken=f"{control.repository.root} has a control API already",
        remedy="Use the one that runs, or stop it first.",
    )
    with alone, _listening(settings.host, settings.port) as listener:
        # Changed settings count while it runs, as for `policyctl serve`, which alone writes down what is in force.
        reloader = Reloader(control, reading, threading.Event(), announces=False)
        server = Server(create(Api.of(control, local=local, reading=lambda: reloader.reading)))
        api_address.write(control.repository, _url(listener))
        _tell(control, f"Control API at {_url(listener)}, for {control.repository.root}. Ctrl-C stops.")
        if not local:
            _tell(
                control, "It speaks plain HTTP: let TLS stand before it, or tokens travel in clear.", LogLevel.WARNING
            )
        with reloader.running():
            server.run(sockets=[listener])


def _tell(control: Control, message: str, level: LogLevel = LogLevel.INFO) -> None:
    control.tell(message, level=level, logger=LOGGER)


def document() -> str:
    """The OpenAPI document, as text that is the same each time."""
    return json.dumps(create(None).openapi(), indent=1, sort_keys=True) + "\n"


def _require_token(control: Control, host: str) -> None:
    now = datetime.now(UTC)
    if any(token.good(now) for token in TokenFile(control.repository).read()):
        return
    raise UsageError(
        f"api.host {host} can be reached from elsewhere, and there is no token: anybody could, or nobody",
        remedy="Create one (policyctl token create NAME --scope promote) and let TLS stand before it (the control API"
        " speaks plain HTTP), or stay on 127.0.0.1.",
    )


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_QUEUE)
    except OSError as error:
        raise UsageError(
            f"api.host {host}, api.port {port}: cannot be listened on ({error.strerror})",
            remedy="Choose another: policyctl api --port 0 takes a free one.",
        ) from error
    with contextlib.closing(listener):
        yield listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
