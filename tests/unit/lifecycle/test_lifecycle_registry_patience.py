"""A registry that never ends: long waits, drips, answers without an end. Each command gives up in a known time."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from registry_servers import Answer, Raw, Request, Servers

from policyctl.adapters.registry import Registry
from policyctl.adapters.registry_reference import parse_reference
from policyctl.domain.manifest import FileEntry, digest_of
from policyctl.errors import IntegrityError, PolicyctlError, ServerError
from policyctl.settings import RegistrySettings

D = "sha256:" + "ab" * 32
HEAD = b"HTTP/1.1 200 OK\r\n"
LIMIT_S = 0.5
GENEROUS_S = 100.0
LARGE = FileEntry("f", 32 << 20, D)


def _drip(start: bytes, part: bytes) -> Iterator[bytes]:
    """Bytes that keep a reader busy for ever, one part at a time."""
    yield start
    while True:
        time.sleep(0.02)
        yield part


DRIPS: dict[str, Callable[[], Iterator[bytes]]] = {
    "first line": lambda: _drip(b"HTTP/1.1 2", b"0"),
    "head": lambda: _drip(HEAD + b"X-A: ", b"a"),
    "fields": lambda: _drip(HEAD, b"X-A: a\r\n"),
    "body": lambda: _drip(HEAD + b"Content-Length: 99999999\r\n\r\n", b"a"),
    "body without a length": lambda: _drip(HEAD + b"Connection: close\r\n\r\n", b"a"),
    "chunks": lambda: _drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    "size of a chunk": lambda: _drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailer": lambda: _drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: a\r\n"),
    "other heads": lambda: _drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "nothing": lambda: _drip(b"", b""),
}
ENDLESS: dict[str, Callable[[], Iterator[bytes]]] = {
    "body": lambda: itertools.chain([HEAD + b"Connection: close\r\n\r\n"], itertools.repeat(b"a" * 65536)),
    "size of a chunk": lambda: itertools.chain(
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n"], itertools.repeat(b"0" * 65536)
    ),
    "head": lambda: itertools.chain([HEAD + b"X-A: "], itertools.repeat(b"a" * 65536)),
}


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Servers on this machine."""
    found = Servers(tmp_path)
    yield found
    found.stop()


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """Every test here ends in a time that a busy machine keeps."""
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < GENEROUS_S


def _registry(port: int, **settings: object) -> Registry:
    chosen = {"timeout_s": LIMIT_S, "slowest_kib_per_s": 64 << 10, **settings}
    return Registry(parse_reference(f"oci://127.0.0.1:{port}/walker:1"), RegistrySettings(**chosen))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "wish"),
    [
        *((status, "3600") for status in (429, 503, 413)),
        *((429, wish) for wish in ("999999999", "Fri, 31 Dec 2100 23:59:59 GMT", "9" * 400, "-1")),
    ],
)
def test_nobody_waits_as_long_as_a_registry_wishes(servers: Servers, tmp_path: Path, status: int, wish: str) -> None:
    """A busy registry is asked again for some seconds at most; the error names its wish where that is longer."""
    port, asked = servers.start(lambda _: (status, {"Retry-After": wish}, b"busy"))
    (tmp_path / "f").write_bytes(b"content")
    for work in (lambda store: store.manifest(""), lambda store: store.put(FileEntry("f", 7, D), tmp_path / "f")):
        with pytest.raises(ServerError, match=str(status)) as refused:
            work(_registry(port, timeout_s=GENEROUS_S))
        assert ("asks to wait for" in str(refused.value)) == (wish in {"3600", "999999999"} and status != 413)
    assert len(asked) <= 8


def test_a_busy_registry_is_asked_again(servers: Servers) -> None:
    """One that is there again after a moment does not fail the command."""
    turns = iter([(503, {"Retry-After": "1"}, b""), (502, {}, b""), (200, {}, b"{}")])
    port, asked = servers.start(lambda _: next(turns))
    assert _registry(port, timeout_s=GENEROUS_S).manifest("") == b"{}"
    assert len(asked) == 3


@pytest.mark.parametrize("kind", DRIPS)
@pytest.mark.parametrize("tls", [False, True])
def test_an_answer_that_drips_is_given_up(servers: Servers, tmp_path: Path, kind: str, tls: bool, monkeypatch) -> None:
    """Wherever it drips: a manifest and a file end after the time that they may take."""
    port, _ = servers.start(lambda _: Raw(DRIPS[kind]()), tls=tls)
    store = _registry(port, ca_file=servers.ca_file if tls else None)
    if tls:
        _speak_tls(store, port)
    with pytest.raises(ServerError, match=r"no whole answer within 0\.5 s") as refused:
        store.manifest("")
    assert "goes on where it ended" in refused.value.remedy
    with pytest.raises(ServerError, match=r"no whole answer within 1 s|nothing moved"):
        store.fetch(LARGE, tmp_path / "f")


def _speak_tls(store: Registry, port: int) -> None:
    """Ask a registry of this machine by TLS, which only other machines are asked by."""
    store._wire._own = ("https", "127.0.0.1", port)

    class Secure(type(store.where)):  # type: ignore[misc]
        base = f"https://127.0.0.1:{port}/v2/walker"

    store.where = Secure(store.where.host, store.where.name, store.where.reference)


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_answer_without_an_end_is_cut_off(servers: Servers, kind: str) -> None:
    """However quickly it comes: it fills neither the memory nor the time."""
    port, _ = servers.start(lambda _: Raw(ENDLESS[kind]()))
    with pytest.raises((ServerError, IntegrityError)):
        _registry(port, timeout_s=5.0).manifest("")


@pytest.mark.parametrize("kind", [*DRIPS, "endless"])
def test_a_token_that_never_ends_is_given_up(servers: Servers, kind: str) -> None:
    """A token service is no more trusted than a registry."""
    endless = itertools.chain([HEAD + b'Connection: close\r\n\r\n{"token":"'], itertools.repeat(b"a" * 65536))

    def answer(request: Request) -> Answer | Raw:
        if request.path.startswith("/token"):
            return Raw(endless if kind == "endless" else DRIPS[kind]())
        return 401, {"WWW-Authenticate": f'Bearer realm="http://127.0.0.1:{port}/token"'}, b""

    port, _ = servers.start(answer)
    with pytest.raises((ServerError, IntegrityError), match="asking for a token"):
        _registry(port).manifest("")


@pytest.mark.parametrize("kind", DRIPS)
def test_a_refusal_that_drips_is_told_all_the_same(servers: Servers, kind: str) -> None:
    """What the registry says in it is not waited for."""
    refusal = DRIPS[kind]()

    def parts() -> Iterator[bytes]:
        for part in refusal:
            yield part.replace(b"200 OK", b"403 No")

    port, _ = servers.start(lambda _: Raw(parts()))
    with pytest.raises(PolicyctlError):
        _registry(port).manifest("")


@pytest.mark.parametrize("greeting", [b"", b"\x16\x03\x03\x40\x00"])
def test_a_handshake_that_never_ends_is_given_up(greeting: bytes, tmp_path: Path, servers: Servers) -> None:
    """TLS that is begun and not finished."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def stall() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                    for part in _drip(greeting, b"\x00" if greeting else b""):
                        connection.sendall(part)
                except OSError:
                    if listener.fileno() < 0:
                        return

        threading.Thread(target=stall, daemon=True).start()
        port = listener.getsockname()[1]
        store = _registry(port)
        _speak_tls(store, port)
        with pytest.raises(ServerError):
            store.manifest("")


def test_an_upload_that_nobody_reads_is_given_up(servers: Servers, tmp_path: Path) -> None:
    """The registry takes the head and nothing more."""

    def answer(request: Request) -> Answer | Raw:
        if request.method == "POST":
            return 202, {"Location": "/put"}, b""
        return Raw(_drip(b"", b""))

    port, _ = servers.start(answer)
    with (tmp_path / "f").open("wb") as file:
        file.truncate(LARGE.size_bytes)
    with pytest.raises(ServerError, match=r"no whole answer within 1 s|nothing moved"):
        _registry(port).put(LARGE, tmp_path / "f")


def test_a_file_may_take_the_longer_the_larger_it_is(servers: Servers, tmp_path: Path) -> None:
    """A transfer that is not slower than the setting allows is left alone, and says how far it has come."""
    content = bytes(range(256)) * 2048

    def parts() -> Iterator[bytes]:
        yield HEAD + f"Content-Length: {len(content)}\r\n\r\n".encode()
        for begin in range(0, len(content), 32768):
            time.sleep(0.15)
            yield content[begin : begin + 32768]

    port, _ = servers.start(lambda _: Raw(parts()))
    seen: list[int] = []
    entry = FileEntry("f", len(content), digest_of(content))
    _registry(port, timeout_s=2.0, slowest_kib_per_s=16).fetch(entry, tmp_path / "f", seen.append)
    assert seen[-1] == len(content)
    assert seen == sorted(seen)
