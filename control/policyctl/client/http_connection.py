"""One connection to Triton's HTTP port: a request as it is sent, and its answer as it came.

`http.client` reads an answer's head by its parser for mail and sends head and
body apart, which takes longer than the policy. So both go out at once here, and
the answer that a Triton gives is read directly; every other one (chunks, no
length, another version of HTTP) is left to `http.client`.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import time
from dataclasses import dataclass
from typing import Any, Final

TENSORS_AT: Final = "Inference-Header-Content-Length"
"""The header that says where in a body tensors begin."""

_HEAD_END: Final = b"\r\n\r\n"
_LONGEST_HEAD: Final = 1 << 16
_PIECE: Final = 1 << 16
_TRITONS_HEAD: Final = re.compile(
    rb"HTTP/1\.1 ([2-5]\d\d) [^\r\n]*\r\n"
    rb"(?:Content-Type: [^\r\n]*\r\n)?"
    rb"(?:Inference-Header-Content-Length: (\d{1,18})\r\n)?"
    rb"Content-Length: (\d{1,18})\r\n\r\n"
)


@dataclass(slots=True)
class Answered:
    """What came back.

    Attributes:
        status: Of HTTP.
        content: The body.
        tensors_at: Where in it tensors begin; None where it has none.
    """

    status: int
    content: bytes | bytearray
    tensors_at: int | None


class Connection:
    """One connection, opened when it is needed; one request at a time.

    Args:
        url: ``host:port``.
    """

    def __init__(self, url: str) -> None:
        host, _, port = url.rpartition(":")
        self._where = (host.strip("[]"), int(port))
        self._host = url.encode("ascii")
        self._socket: socket.socket | None = None

    def ask(self, start: bytes, text: bytes, tensors: bytes, timeout_s: float) -> Answered:
        """Send a request and read its answer.

        A connection that the server closed while it was idle is opened again
        once: then no byte of an answer had come.

        Args:
            start: The request line and headers, each with the end of its line; ``Host`` is added.
            text: The body up to its tensors.
            tensors: The rest of it.
            timeout_s: For all of it.

        Raises:
            TimeoutError: It took longer.
            OSError: No connection, or it broke.
            http.client.HTTPException: The answer is not HTTP, or is not complete.
        """
        until = time.monotonic() + timeout_s
        pieces = [b"%bHost: %b\r\n\r\n%b" % (start, self._host, text), tensors]
        if len(tensors) < _PIECE:
            pieces = [b"".join(pieces)]
        try:
            if self._socket is not None:
                try:
                    return self._exchange(self._socket, pieces, until)
                except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                    self.close()
            self._socket = self._connect(_left_s(until))
            return self._exchange(self._socket, pieces, until)
        except BaseException:
            # An answer may still arrive on it, too late.
            self.close()
            raise

    def close(self) -> None:
        """Close it; the next request opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, timeout_s: float) -> socket.socket:
        connection = socket.create_connection(self._where, timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _exchange(self, connection: socket.socket, pieces: list[bytes], until: float) -> Answered:
        for piece in pieces:
            connection.settimeout(_left_s(until))
            connection.sendall(piece)
        received = bytearray()
        if not _receive(connection, received, until):
            raise http.client.RemoteDisconnected("the server closed the connection without an answer")
        try:
            return self._read(connection, received, until)
        except ConnectionResetError as error:
            raise http.client.IncompleteRead(bytes(received)) from error

    def _read(self, connection: socket.socket, received: bytearray, until: float) -> Answered:
        while _HEAD_END not in received and len(received) <= _LONGEST_HEAD and _receive(connection, received, until):
            pass
        head = _TRITONS_HEAD.match(received)
        if head is None:
            return self._read_by_library(connection, received, until)
        status, tensors_at, length = head.groups()
        start, end = head.end(), head.end() + int(length)
        del head  # it keeps `received` from growing
        while len(received) < end:
            if not _receive(connection, received, until):
                raise http.client.IncompleteRead(bytes(received[start:]), end - len(received))
        if len(received) > end:
            raise http.client.HTTPException("more came than one answer")
        return Answered(int(status), received[start:], None if tensors_at is None else int(tensors_at))

    def _read_by_library(self, connection: socket.socket, received: bytearray, until: float) -> Answered:
        response = http.client.HTTPResponse(_Replay(connection, received, until))  # type: ignore[arg-type]
        response.begin()
        content = response.read()
        if response.will_close:
            self.close()
        tensors_at = response.headers.get(TENSORS_AT)
        return Answered(response.status, content, int(tensors_at) if tensors_at else None)


class _Replay(io.RawIOBase):
    """A socket for `http.client`, of which something was read already."""

    def __init__(self, connection: socket.socket, received: bytearray, until: float) -> None:
        super().__init__()
        self._connection, self._received, self._until = connection, received, until

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What `http.client` reads from."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """What was read already, then what comes."""
        if not self._received:
            _receive(self._connection, self._received, self._until)
        size = min(len(buffer), len(self._received))
        buffer[:size] = self._received[:size]
        del self._received[:size]
        return size


def _receive(connection: socket.socket, received: bytearray, until: float) -> bool:
    """Add what comes next to `received`; whether anything came."""
    connection.settimeout(_left_s(until))
    piece = connection.recv(_PIECE)
    received += piece
    return bool(piece)


def _left_s(until: float) -> float:
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the time is up")
    return left_s
