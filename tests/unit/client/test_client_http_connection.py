"""A connection to an HTTP port: whatever comes, in whatever pieces, is one answer in time or an error."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from policyctl.client.calls import Infer
from policyctl.client.http_connection import Answered, Connection
from policyctl.client.http_wire import HttpTransport
from policyctl.errors import ServerError

TRITON = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
Serve = Callable[[socket.socket, int], None]


def asked(connection: socket.socket) -> bytes:
    """One whole request, whose body has the length that its head says; empty where the client closed."""
    request = b""
    while b"\r\n\r\n" not in request:
        piece = connection.recv(1 << 16)
        if not piece:
            return b""
        request += piece
    head, _, body = request.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head + b"\r\n\r\n" + body


class Peer:
    """A server that does to each connection what a test says; counts them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.requests: list[bytes] = []
        self.serve: Serve = lambda connection, number: None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._one, args=(connection, self.connections), daemon=True).start()

    def _one(self, connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):  # a client that gave up
            self.serve(connection, number)

    def answers(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        """Answer each request of each connection by these pieces."""

        def serve(connection: socket.socket, number: int) -> None:
            while request := asked(connection):
                self.requests.append(request)
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(pause_s)

        self.serve = serve

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    found = Peer()
    yield found
    found.close()


def ask(connection: Connection, timeout_s: float = 30.0, tensors: bytes = b"") -> Answered:
    start = b"POST /infer HTTP/1.1\r\nContent-Length: %d\r\n" % (2 + len(tensors))
    return connection.ask(start, b"{}", tensors, timeout_s)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (TRITON + b"Inference-Header-Content-Length: 2\r\nContent-Length: 5\r\n\r\n{}abc", (200, b"{}abc", 2)),
        (TRITON + b"Content-Length: 0\r\n\r\n", (200, b"", None)),
        (b"HTTP/1.1 404 Not Found\r\nContent-Type: a\r\nContent-Length: 2\r\n\r\n{}", (404, b"{}", None)),
        (b"HTTP/1.1 200 OK\r\nserver: proxy\r\ncontent-length: 2\r\n\r\n{}", (200, b"{}", None)),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + TRITON + b"Content-Length: 2\r\n\r\n{}", (200, b"{}", None)),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\ninference-header-content-length: 2\r\n\r\n"
            b"2\r\n{}\r\n3\r\nabc\r\n0\r\n\r\n",
            (200, b"{}abc", 2),
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_answer_is_read_whole_however_it_is_cut(peer: Peer, answer: bytes, expected: object, size: int) -> None:
    """Triton's own form, and what a proxy makes of it; the same connection has the next answer."""
    peer.answers(*[answer[i : i + size] for i in range(0, len(answer), size)])
    connection = Connection(peer.url)
    for _ in range(2):
        answered = ask(connection)
        assert (answered.status, bytes(answered.content), answered.tensors_at) == expected
    assert peer.connections == 1
    connection.close()


def test_what_is_sent_is_the_request_and_its_tensors(peer: Peer) -> None:
    """Small ones in one piece, large ones without a copy; the server is named."""
    peer.answers(TRITON + b"Content-Length: 0\r\n\r\n")
    connection = Connection(peer.url)
    for tensors in (b"abc", bytes(range(256)) * 1024):
        ask(connection, tensors=tensors)
        head, _, body = peer.requests.pop().partition(b"\r\n\r\n")
        assert head.split(b"\r\n")[2:] == [b"Host: " + peer.url.encode()]
        assert body == b"{}" + tensors
    connection.close()


@pytest.mark.parametrize(
    "answer",
    [
        TRITON + b"Content-Length: 5\r\n\r\nabc",
        TRITON,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"noise without an end of line",
        TRITON + b"Content-Length: -5\r\n\r\n",
        TRITON + b"Content-Length: 1\r\n\r\nabc",
    ],
)
def test_an_answer_that_is_not_whole_or_none_is_an_error_and_is_not_asked_again(peer: Peer, answer: bytes) -> None:
    """Once a byte came, the server may have acted on the request; the next request has a new connection."""

    def serve(connection: socket.socket, number: int) -> None:
        if asked(connection):
            connection.sendall(answer)

    peer.serve = serve
    connection = Connection(peer.url)
    with contextlib.suppress(http.client.HTTPException):  # else an empty body, in which no action can be read
        assert ask(connection).content == b""
    assert peer.connections == 1
    peer.answers(TRITON + b"Content-Length: 2\r\n\r\nok")
    assert ask(connection).content == b"ok"
    connection.close()


def test_a_connection_that_was_closed_while_idle_is_opened_again_once(peer: Peer) -> None:
    """No byte of an answer had come; a second time it is an error."""

    def serve(connection: socket.socket, number: int) -> None:
        if asked(connection) and number != 3:
            connection.sendall(TRITON + b"Content-Length: 2\r\n\r\nok")

    peer.serve = serve
    connection = Connection(peer.url)
    assert ask(connection).content == b"ok"
    assert ask(connection).content == b"ok"
    assert peer.connections == 2
    with pytest.raises(http.client.RemoteDisconnected):
        ask(connection)
    assert peer.connections == 3


def test_a_server_that_closes_after_its_answer_is_heard(peer: Peer) -> None:
    """It says so; the next request does not try the old connection."""

    def serve(connection: socket.socket, number: int) -> None:
        if asked(connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")

    peer.serve = serve
    connection = Connection(peer.url)
    assert [ask(connection).content for _ in range(3)] == [b"ok"] * 3
    assert peer.connections == 3


@pytest.mark.parametrize("head", [b"", TRITON + b"Content-Length: 1000\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_an_answer_that_drips_ends_at_the_deadline(peer: Peer, head: bytes) -> None:
    """Each piece comes soon, the whole never; a late answer is never taken for that of the next request."""
    peer.answers(head, *[b"x: y\r\n"] * 10_000, pause_s=0.02)
    connection, begin = Connection(peer.url), time.monotonic()
    with pytest.raises((TimeoutError, http.client.HTTPException)):
        ask(connection, timeout_s=0.3)
    assert time.monotonic() - begin < 100
    peer.answers(TRITON + b"Content-Length: 2\r\n\r\nok")
    assert ask(connection).content == b"ok"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"model_version": "1"}',
        b'{"model_version": "one", "outputs": []}',
        b'{"model_version": "1", "outputs": [{"name": "action", "datatype": "FP32", "shape": [1, 2]}]}',
        b'{"model_version": "1", "outputs": [{"name": "action", "datatype": "FP32", "shape": [1, 2],'
        b' "parameters": {"binary_data_size": 8}}]}',
        b'{"model_version": "1", "outputs": [{"name": "action", "datatype": "BYTES", "shape": [1],'
        b' "parameters": {"binary_data_size": 0}}]}',
    ],
)
def test_an_answer_that_is_none_of_triton_is_an_error_of_the_server(peer: Peer, body: bytes) -> None:
    """A control loop that falls back to a safe action catches that one."""
    head = TRITON + b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (len(body), len(body))
    peer.answers(head + body)
    transport = HttpTransport("walker", peer.url)
    with pytest.raises(ServerError, match="cannot be read"):
        transport.perform(Infer({"observation": np.zeros((1, 2), np.float32)}, ("action",), "a"), 30.0)
    transport.close()


def test_a_head_without_end_is_an_error(peer: Peer) -> None:
    """It is not gathered for ever."""
    peer.answers(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000)
    with pytest.raises(http.client.HTTPException):
        ask(Connection(peer.url))
