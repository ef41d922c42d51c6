"""A registry that lies, stalls or asks for too much; and what a reference is."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from policyctl.adapters.registry import Registry
from policyctl.adapters.registry_reference import parse_reference
from policyctl.domain.manifest import FileEntry, digest_of
from policyctl.domain.oci import MOST_BYTES
from policyctl.errors import IntegrityError, ServerError, UsageError
from policyctl.settings import RegistrySettings

D = "sha256:" + "ab" * 32
CREDENTIALS = RegistrySettings(username="ann", password="secret", timeout_s=5.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "host", "name", "reference", "base"),
    [
        ("oci://r.example.com/walker", "r.example.com", "walker", "", "https://r.example.com/v2/walker"),
        ("oci://r:5000/a/b-c/d.e:1.0.0_b", "r:5000", "a/b-c/d.e", "1.0.0_b", "https://r:5000/v2/a/b-c/d.e"),
        (f"oci://r/a@{D}", "r", "a", D, "https://r/v2/a"),
        ("oci://127.0.0.1:5000/a:x", "127.0.0.1:5000", "a", "x", "http://127.0.0.1:5000/v2/a"),
        ("oci://localhost/a", "localhost", "a", "", "http://localhost/v2/a"),
        ("oci://[::1]:80/a", "[::1]:80", "a", "", "http://[::1]:80/v2/a"),
        ("oci://localhost.evil.com/a", "localhost.evil.com", "a", "", "https://localhost.evil.com/v2/a"),
        ("oci://127.0.0.1.evil.com/a", "127.0.0.1.evil.com", "a", "", "https://127.0.0.1.evil.com/v2/a"),
    ],
)
def test_a_reference_names_host_name_and_tag_or_digest(text, host, name, reference, base) -> None:
    """TLS everywhere but on this machine itself."""
    found = parse_reference(text)
    assert (found.host, found.name, found.reference, found.base) == (host, name, reference, base)


@pytest.mark.parametrize(
    "text",
    [
        "oci://",
        "oci://host",
        "oci://host/",
        "oci://host/Walker",
        "oci://host/../x",
        "oci://host/a//b",
        "oci://host/a:",
        "oci://host/a:b c",
        "oci://host/a@sha256:12",
        "oci://host:port/a",
        "oci://user@host/a",
        "oci://ho st/a",
        "oci:///a",
        "oci://host/a?x=1",
        "oci://host/a#x",
        "oci://host/a:../../x",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    """Nothing of it reaches a URL."""
    if text == "oci://host/a:":
        assert parse_reference(text).reference == ""
        return
    with pytest.raises(UsageError, match="names no place in a registry"):
        parse_reference(text)


Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str, str, dict], Answer]], tuple[str, list]]]:
    """Start a server that answers as a function says; its ``host:port`` and what it was asked."""
    running: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[str, str, dict], Answer]) -> tuple[str, list]:
        asked: list[tuple[str, str, dict]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                headers = dict(self.headers.items())
                self.rfile.read(int(headers.get("Content-Length", 0)))
                asked.append((self.command, self.path, headers))
                status, more, body = answer(self.command, self.path, headers)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body)

            do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815

            def log_message(self, *_args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # a client that hangs up in the middle is what some tests are about
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        running.append(server)
        return f"127.0.0.1:{server.server_port}", asked

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def _registry(address: str, settings: RegistrySettings = CREDENTIALS) -> Registry:
    return Registry(parse_reference(f"oci://{address}/walker:1"), settings)


def test_a_token_is_fetched_where_the_registry_says(serve) -> None:
    """The password goes to the token's place, the token to the registry."""

    def answer(_method: str, path: str, headers: dict) -> Answer:
        if path.startswith("/token"):
            return 200, {}, json.dumps({"token": f"for {headers['Authorization'][:5]}"}).encode()
        if headers.get("Authorization") == "Bearer for Basic":
            return 200, {}, b"{}"
        challenge = f'Bearer realm="http://{address}/token",service="s",scope="repository:walker:pull"'
        return 401, {"WWW-Authenticate": challenge}, b""

    address, asked = serve(answer)
    assert _registry(address).manifest("") == b"{}"
    (token,) = [path for _, path, _ in asked if path.startswith("/token")]
    assert token == "/token?service=s&scope=repository%3Awalker%3Apull"


@pytest.mark.parametrize("realm", ["http://tokens.example.com/t", "ftp://127.0.0.1/t", "file:///etc/passwd", ""])
def test_a_password_is_sent_nowhere_without_tls(serve, realm: str) -> None:
    """A registry cannot send its callers elsewhere to be overheard."""
    challenge = f'Bearer realm="{realm}",service="s"'
    address, asked = serve(lambda *_: (401, {"WWW-Authenticate": challenge}, b""))
    where = parse_reference("oci://registry.example.com/walker:1")
    store = _registry(address)
    if realm == "http://tokens.example.com/t":
        # This machine's registry may name a place on this machine; one elsewhere may not.
        object.__setattr__(where, "host", "registry.example.com")
        store.where = where
        with pytest.raises(ServerError, match="not TLS"):
            store._prove(challenge)
        return
    with pytest.raises((ServerError, UsageError)):
        store.manifest("")
    assert all("Authorization" not in headers for _, _, headers in asked)


def test_an_upload_that_is_sent_elsewhere_takes_no_password_along(serve, tmp_path: Path) -> None:
    """Another host may take the bytes, but learns nothing that opens the registry."""
    elsewhere, seen = serve(lambda *_: (201, {}, b""))

    def answer(method: str, _path: str, headers: dict) -> Answer:
        if "Authorization" not in headers:
            return 401, {"WWW-Authenticate": 'Basic realm="here"'}, b""
        return (202, {"Location": f"http://{elsewhere}/put?state=1"}, b"") if method == "POST" else (404, {}, b"")

    address, asked = serve(answer)
    (tmp_path / "f").write_bytes(b"content")
    _registry(address).put(FileEntry("f", 7, digest_of(b"content")), tmp_path / "f")
    assert "Authorization" in asked[-1][2]
    ((method, path, headers),) = seen
    assert (method, "Authorization" in headers) == ("PUT", False)
    assert path == "/put?state=1&digest=" + digest_of(b"content").replace(":", "%3A")


def test_a_manifest_without_end_is_cut_off(serve) -> None:
    """A registry cannot fill the memory."""
    address, _ = serve(lambda *_: (200, {}, bytes(MOST_BYTES + (1 << 20))))
    with pytest.raises(IntegrityError, match="more than"):
        _registry(address).manifest("")


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"content and more", 200), (b"conten", 200), (b"CONTENT", 200), (b"", 200), (b"contentcontent", 206)],
)
def test_a_blob_that_is_not_the_one_asked_for_is_refused_and_removed(serve, tmp_path, body: bytes, status: int) -> None:
    """Too long, too short, other bytes, nothing: whatever came is not kept."""
    address, _ = serve(lambda *_: (status, {}, body))
    with pytest.raises(IntegrityError, match="came as"):
        _registry(address).fetch(FileEntry("f", 7, digest_of(b"content")), tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_a_blob_that_is_far_too_long_is_not_read_to_its_end(serve, tmp_path: Path) -> None:
    """A registry cannot fill the disk."""
    address, _ = serve(lambda *_: (200, {}, bytes(50 << 20)))
    store = _registry(address)
    grown: list[int] = []
    receive = store._receive
    part = tmp_path / "f.part"
    receive(FileEntry("f", 7, D), part)
    grown.append(part.stat().st_size)
    assert grown == [8]


def test_a_manifest_of_another_digest_is_refused(serve) -> None:
    """Asked by digest, and told by the registry's own header."""
    address, _ = serve(lambda *_: (200, {"Docker-Content-Digest": D}, b"{}"))
    with pytest.raises(IntegrityError, match=f"expected {D}"):
        _registry(address).manifest(D)
    with pytest.raises(IntegrityError, match=f"expected {D}"):
        _registry(address).manifest("")


def test_a_cut_connection_says_to_try_again(serve, tmp_path: Path) -> None:
    """What came stays for the next try."""
    address, _ = serve(lambda *_: (200, {"Content-Length": "7"}, b"con"))
    store = _registry(address, RegistrySettings(timeout_s=0.5))
    with pytest.raises(ServerError, match="connection was cut") as refusal:
        store.fetch(FileEntry("f", 7, digest_of(b"content")), tmp_path / "f")
    assert "goes on where it ended" in refusal.value.remedy
