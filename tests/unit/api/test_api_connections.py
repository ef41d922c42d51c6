"""Connections that let the server wait, too many of them, and requests of which two readers read two things."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from urllib.parse import urlsplit

import pytest
from api_world import WALKER, ApiWorld

from policyctl.api import server as connections
from policyctl.api.meters import Buckets

HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
BODY_TO_COME = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n12"
GENEROUS_S = 300.0


@pytest.fixture
def impatient(monkeypatch) -> None:
    """The limits of minutes are parts of a second."""
    for name, limit_s in (("REQUEST_S", 0.6), ("KEEP_ALIVE_S", 0.6), ("ANSWER_S", 0.6), ("LINGER_S", 0.3)):
        monkeypatch.setattr(connections, name, limit_s)


@pytest.fixture
def dial(api) -> Iterator[Callable[..., socket.socket]]:
    """Open a connection to the control API and send something."""
    with api.listening() as url, ExitStack() as opened:
        address = (urlsplit(url).hostname, urlsplit(url).port)

        def connect(sent: bytes = b"") -> socket.socket:
            found = opened.enter_context(closing(socket.create_connection(address, timeout=GENEROUS_S)))
            with suppress(ConnectionError):  # a request that is too long is refused before all of it was sent
                found.sendall(sent)
            return found

        yield connect


def _until_closed(connection: socket.socket) -> bytes:
    """All that comes before the other side closes; a connection that stays open is an error."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def _answer(connection: socket.socket) -> bytes:
    """The first bytes of an answer."""
    return connection.recv(65536)


@pytest.mark.parametrize(
    "sent", [b"", HEAD, b"G", HEAD + b"\r\n", BODY_TO_COME, HEAD + b"Connection: keep-alive\r\n\r\n"]
)
def test_a_client_that_lets_the_server_wait_loses_its_connection(impatient, dial, sent: bytes) -> None:
    """Nothing sent, half of a head, half of a body, or nothing more after an answer: each ends by itself."""
    connection = dial(sent)
    received = _until_closed(connection)
    assert received.startswith(b"HTTP/1.1 200") == sent.endswith((b"\r\n\r\n", b"12"))


@pytest.mark.parametrize("begin", [HEAD + b"X-A: ", BODY_TO_COME.replace(b"9", b"99999"), HEAD])
def test_a_client_that_drips_loses_its_connection_too(impatient, dial, begin: bytes) -> None:
    """A byte now and then does not begin the time again, neither in the head nor in the body."""
    connection = dial(begin)
    until = time.monotonic() + GENEROUS_S
    with pytest.raises(OSError):
        while time.monotonic() < until:
            connection.sendall(b"a")
            time.sleep(0.05)
    assert time.monotonic() < until


def test_a_client_that_does_not_read_its_answers_loses_its_connection(impatient, dial) -> None:
    """Also where it goes on asking."""
    connection = dial()
    connection.settimeout(0.2)
    until = time.monotonic() + GENEROUS_S
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while time.monotonic() < until:
            try:
                connection.send((HEAD.replace(b"livez", b"openapi.json") + b"\r\n") * 100)
            except TimeoutError:
                continue


def test_a_caller_that_waits_for_an_operation_keeps_its_connection(impatient, api, dial) -> None:
    """As long as it is the server's turn no limit counts."""
    begun = api.post("/promotions?wait=60", {"release": "1.1.0"}, key="k").json()["id"]
    asked = []

    def get(name: str) -> object:
        asked.append(name)
        time.sleep(2.5)
        return None

    api.api.operations.get = get
    connection = dial(f"GET /v1/operations/{begun} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert _answer(connection).startswith(b"HTTP/1.1 404")
    assert asked == [begun]


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"\r\n", BODY_TO_COME])
@pytest.mark.parametrize("number", [8, 40])
def test_the_client_that_has_let_the_server_wait_longest_makes_room(
    monkeypatch, dial, sent: bytes, number: int
) -> None:
    """A new connection finds a place however many others are open, and its request is answered."""
    monkeypatch.setattr(connections, "most_connections", lambda: 8)
    others = []
    for _ in range(number):
        others.append(dial(sent))
        if sent.endswith(b"\r\n\r\n"):  # while the server owes an answer, nobody takes the place
            with suppress(ConnectionResetError):
                _answer(others[-1])
    assert _answer(dial(HEAD + b"\r\n")).startswith(b"HTTP/1.1 200")
    open_now, until = list(others), time.monotonic() + GENEROUS_S
    while len(open_now) > 8:
        assert time.monotonic() < until
        open_now = [each for each in open_now if not _is_closed(each)]


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it by now."""
    connection.settimeout(0.02)
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: 2, 3\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: -1\r\n",
        f"Content-Length: {'9' * 5000}\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Host: localhost\r\n",
        "X-A: b\0c\r\n",
        f"X-A: {'a' * 600_000}\r\n",
    ],
)
def test_a_request_that_two_readers_read_differently_is_refused(dial, head: str) -> None:
    """Two lengths, two hosts, names with blanks: the answer is 400 or 501, and the connection ends with it."""
    request = f"POST {WALKER}/rollbacks HTTP/1.1\r\nHost: localhost\r\n{head}\r\n"
    smuggled = b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    received = _until_closed(dial(request.encode() + smuggled))
    assert received.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501"))
    assert received.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "target", ["http://localhost/v1/models", "//localhost/v1/models", "localhost:80", "*", "/v1/../v1/models"]
)
def test_a_target_that_is_no_path_of_the_api_finds_nothing(dial, target: str) -> None:
    """The name in an absolute target is not the one that was looked at, so nothing answers there."""
    received = _answer(dial(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()))
    assert received.startswith(b"HTTP/1.1 404")


def test_bad_requests_do_not_fill_the_log(api, dial) -> None:
    """Anybody can send them, so the log has no line for each."""
    before = len(api.said)
    for _ in range(5):
        _until_closed(dial(b"nonsense\r\n\r\n"))
    assert len(api.said) == before


def test_strangers_do_not_push_others_out_of_the_audit(api) -> None:
    """The audit takes a bounded number of lines about callers without a token, and counts the rest."""
    api.api.refusals = Buckets(lambda: (1e-9, 60.0))  # a minute's worth, however long the test takes
    for _ in range(90):
        api.client.post(f"{WALKER}/rollbacks", json={})
    api.post("/promotions", {"release": "1.1.0", "dry_run": True})
    lines = [json.loads(line) for line in api.api.audit.path.read_text().splitlines()]
    assert len(lines) < 70
    (last,) = [line for line in lines if line["who"] == "my-promote"]
    assert last["unlisted_before"] > 0
    assert sum(line.get("unlisted_before", 0) for line in lines) == 90 + 1 - len(lines)


def test_who_watches_is_answered_while_others_without_a_token_are_turned_away(world) -> None:
    """A flood of looks without a token takes nothing from /metrics, /healthz and the probes, nor from a token."""
    api = ApiWorld(world, reads_per_s=1e-9)
    looks = [api.client.get("/v1/models").status_code for _ in range(20)]
    assert looks.count(429) == 19
    for path in ("/metrics", "/healthz", "/livez", "/readyz"):
        assert {api.client.get(path).status_code for _ in range(20)} == {200}
    assert api.client.get("/v1/models", headers=api.headers("read")).status_code == 200
