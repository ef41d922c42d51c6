"""HTTP with servers of others: an answer has a limit in time and in size, and each connection can be refused.

urllib3 limits the time between two bytes, so an answer that drips never ends;
it waits for as long as a `Retry-After` says; and it follows redirects wherever
they lead. Here nothing is repeated, no redirect is followed, and a watchdog
ends an exchange that takes too long, whichever part of it is slow: the
handshake, the head, the body, or what is sent.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

_CHUNK_BYTES: Final = 1 << 16
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


class Reach(StrEnum):
    """From where an address can be reached."""

    MACHINE = "this machine"
    LINK = "the local link"
    PRIVATE = "a private network"
    WORLD = "everywhere"


def reach_of(address: str) -> Reach:
    """From where an IP address can be reached; of an IPv6 address that carries an IPv4 one, the latter counts."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        found = inner or found
    if found.is_loopback or found.is_unspecified:
        return Reach.MACHINE
    if found.is_link_local:
        return Reach.LINK
    return Reach.WORLD if found.is_global else Reach.PRIVATE


class Body(Protocol):
    """What is sent part by part, like a file that was opened to be read."""

    def read(self, size: int = -1, /) -> bytes:
        """The next part."""

    def tell(self) -> int:
        """Where the next part begins."""

    def seek(self, position: int, /) -> Any:
        """Let the next part begin there."""


class CutError(HTTPError):
    """A connection that ended too soon."""


class SlowError(HTTPError):
    """An exchange took longer than it may."""


class LargeError(HTTPError):
    """An answer has more bytes than it may."""


class DeniedError(HTTPError):
    """A connection that must not be used."""


Check = Callable[[str, str, int, str], None]
"""Takes scheme, host, port and the address that was connected to; raises `DeniedError` before anything is sent."""


class Web:
    """Connections to servers of others, for one thread.

    Args:
        ca_file: Certificates to trust instead of the system's.
        check: Asked about every connection.

    Raises:
        OSError, ValueError: The certificates cannot be read.
    """

    def __init__(self, *, ca_file: Path | None = None, check: Check | None = None) -> None:
        self._check = check
        self._opened: list[tuple[int, Any, Any]] = []
        self._pool = urllib3.PoolManager(retries=False, ca_certs=None if ca_file is None else str(ca_file))
        self._pool.pool_classes_by_scheme = {
            "http": _pool_of(HTTPConnectionPool, HTTPConnection, self._connected),
            "https": _pool_of(HTTPSConnectionPool, HTTPSConnection, self._connected),
        }

    def send(
        self,
        method: str,
        url: str,
        *,
        limit_s: float,
        stall_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
    ) -> Answer:
        """One request; the caller closes its answer.

        Args:
            method: Of HTTP.
            url: With scheme and host.
            limit_s: For everything: connecting, sending, and reading the whole answer.
            stall_s: For which nothing may move meanwhile; None for all of that time.
            headers: Of the request.
            body: Sent as it is; a file from where it stands.

        Raises:
            HTTPError: No answer.
            SlowError: Not in time.
        """
        stall_s = limit_s if stall_s is None else min(stall_s, limit_s)
        watchdog = Watchdog(limit_s, stall_s, self._cut)
        try:
            response = self._pool.request(
                method,
                url,
                headers=headers,
                body=body,  # type: ignore[arg-type]  # it calls `read` alone
                timeout=urllib3.Timeout(connect=stall_s, read=stall_s),
                redirect=False,
                preload_content=False,
            )
        except (HTTPError, OSError) as error:
            watchdog.cancel()
            raise watchdog.blame(error) from error
        return Answer(response, watchdog)

    def _connected(self, connection: HTTPConnection, opened: socket.socket) -> None:
        peer = opened.getpeername()
        if self._check is not None:
            scheme = "https" if isinstance(connection, HTTPSConnection) else "http"
            self._check(scheme, connection.host, connection.port, peer[0])
        self._opened = [*self._opened[-7:], (opened.fileno(), opened.getsockname(), peer)]

    def _cut(self) -> None:
        """End the connections under the thread that reads or writes them.

        TLS takes a socket over under another object, so a socket is known by its number and its two ends.
        """
        for number, here, there in self._opened:
            with suppress(OSError), socket.socket(fileno=os.dup(number)) as same:
                if (same.getsockname(), same.getpeername()) == (here, there):
                    same.shutdown(socket.SHUT_RDWR)


class Watchdog:
    """Does something when a time is over, unless it is cancelled before."""

    def __init__(self, limit_s: float, stall_s: float, act: Callable[[], None]) -> None:
        self.fired, self._limit_s, self._stall_s, self._act = False, limit_s, stall_s, act
        self._timer = threading.Timer(limit_s, self._fire)
        self._timer.daemon = True
        self._timer.start()

    def _fire(self) -> None:
        self.fired = True
        self._act()

    def cancel(self) -> None:
        """Do nothing when the time is over."""
        self._timer.cancel()

    def blame(self, error: HTTPError | OSError) -> HTTPError:
        """The error to raise for one that was met: the lack of time, where that caused it."""
        timed_out = _timed_out(error)
        if self.fired or (timed_out and self._stall_s == self._limit_s):
            return SlowError(f"no whole answer within {self._limit_s:.3g} s")
        if timed_out:
            return SlowError(f"nothing moved for {self._stall_s:.3g} s")
        return error if isinstance(error, HTTPError) else CutError(str(error))


def _timed_out(error: HTTPError | OSError) -> bool:
    """Whether a socket waited in vain; while something is sent urllib3 wraps that up."""
    if isinstance(error, urllib3.exceptions.NewConnectionError):  # a timeout by its class, and seldom in fact
        return False
    kinds = (TimeoutError, urllib3.exceptions.TimeoutError)
    return isinstance(error, kinds) or any(isinstance(each, kinds) for each in error.args)


class Answer:
    """One answer, which has to be closed."""

    def __init__(self, response: urllib3.BaseHTTPResponse, watchdog: Watchdog) -> None:
        self._response, self._watchdog = response, watchdog
        self.status, self.reason, self.headers = response.status, response.reason or "", response.headers

    def chunks(self) -> Iterator[bytes]:
        """The body, part by part, as it was sent.

        Raises:
            HTTPError: The connection was cut.
            SlowError: The time is over.
        """
        try:
            # Not `stream`: it reads the size of a chunk from a line without a limit.
            while chunk := self._response.read(_CHUNK_BYTES, decode_content=False):
                yield chunk
        except (HTTPError, OSError) as error:
            raise self._watchdog.blame(error) from error
        if self._watchdog.fired:  # an answer without a length ends where its connection does
            raise self._watchdog.blame(OSError("cut"))

    def read(self, most_bytes: int) -> bytes:
        """The whole body.

        Raises:
            HTTPError: As `chunks`.
            LargeError: It has more than `most_bytes`.
        """
        content = b""
        for chunk in self.chunks():
            content += chunk
            if len(content) > most_bytes:
                raise LargeError(f"more than {most_bytes} bytes came")
        return content

    def close(self) -> None:
        """Give the connection back where everything was read, else end it."""
        self._watchdog.cancel()
        self._response.close()


def _pool_of(
    pool: type[HTTPConnectionPool],
    connection: type[HTTPConnection],
    connected: Callable[[HTTPConnection, socket.socket], None],
) -> type[HTTPConnectionPool]:
    """A kind of pool whose connections are shown to `connected` before anything is sent."""

    class Connection(connection):  # type: ignore[misc, valid-type]
        def _new_conn(self) -> socket.socket:
            opened: socket.socket = super()._new_conn()
            try:
                connected(self, opened)
            except BaseException:
                opened.close()
                raise
            return opened

    return type("Pool", (pool,), {"ConnectionCls": Connection})
