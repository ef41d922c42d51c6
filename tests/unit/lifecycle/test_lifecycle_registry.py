"""A registry that lies or sends too much; and what a reference is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registry_servers import Answer, Raw, Request, Servers

from policyctl.adapters.registry import Registry
from policyctl.adapters.registry_reference import parse_reference
from policyctl.domain.manifest import FileEntry, digest_of
from policyctl.domain.oci import MOST_BYTES
from policyctl.errors import IntegrityError, ServerError, UsageError
from policyctl.settings import RegistrySettings

D = "sha256:" + "ab" * 32
CREDENTIALS = RegistrySettings(username="ann", password="secret", timeout_s=300.0)  # type: ignore[arg-type]


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


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., tuple[str, list[Request]]]]:
    """Start a server that answers as a function says; its ``host:port`` and what it was asked."""
    servers = Servers(tmp_path)

    def start(answer: Callable[[Request], Answer]) -> tuple[str, list[Request]]:
        port, asked = servers.start(answer)
        return f"127.0.0.1:{port}", asked

    yield start
    servers.stop()


def _registry(address: str, settings: RegistrySettings = CREDENTIALS) -> Registry:
    return Registry(parse_reference(f"oci://{address}/walker:1"), settings)


def test_an_upload_that_is_sent_elsewhere_takes_no_password_along(serve, tmp_path: Path) -> None:
    """Another port of this machine may take the bytes, but learns nothing that opens the registry."""
    elsewhere, seen = serve(lambda _: (201, {}, b""))

    def answer(request: Request) -> Answer:
        if "Authorization" not in request.headers:
            return 401, {"WWW-Authenticate": 'Basic realm="here"'}, b""
        return 202, {"Location": f"http://{elsewhere}/put?state=1"}, b""

    address, asked = serve(answer)
    (tmp_path / "f").write_bytes(b"content")
    _registry(address).put(FileEntry("f", 7, digest_of(b"content")), tmp_path / "f")
    assert "Authorization" in asked[-1].headers
    assert [(r.method, "Authorization" in r.headers) for r in seen] == [("PUT", False)]


def test_a_manifest_without_end_is_cut_off(serve) -> None:
    """A registry cannot fill the memory."""
    address, _ = serve(lambda _: (200, {}, bytes(MOST_BYTES + (1 << 20))))
    with pytest.raises(IntegrityError, match="more than"):
        _registry(address).manifest("")


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"content and more", 200), (b"conten", 200), (b"CONTENT", 200), (b"", 200), (b"contentcontent", 206)],
)
def test_a_blob_that_is_not_the_one_asked_for_is_refused_and_removed(serve, tmp_path, body: bytes, status: int) -> None:
    """Too long, too short, other bytes, nothing: whatever came is not kept."""
    address, _ = serve(lambda _: (status, {}, body))
    with pytest.raises(IntegrityError, match="came as"):
        _registry(address).fetch(FileEntry("f", 7, digest_of(b"content")), tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_a_blob_that_is_far_too_long_is_not_read_to_its_end(serve, tmp_path: Path) -> None:
    """A registry cannot fill the disk."""
    address, _ = serve(lambda _: (200, {}, bytes(50 << 20)))
    store = _registry(address)
    store._receive(FileEntry("f", 7, D), tmp_path / "f.part", lambda _: None)
    assert (tmp_path / "f.part").stat().st_size == 8


def test_a_manifest_of_another_digest_is_refused(serve) -> None:
    """Asked by digest, and named by the registry's own header."""
    address, _ = serve(lambda _: (200, {"Docker-Content-Digest": D}, b"{}"))
    with pytest.raises(IntegrityError, match=f"expected {D}"):
        _registry(address).manifest(D)
    with pytest.raises(IntegrityError, match=f"expected {D}"):
        _registry(address).manifest("")


def test_a_cut_connection_says_to_try_again(serve, tmp_path: Path) -> None:
    """What came stays for the next try."""
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ncon"
    address, _ = serve(lambda _: Raw(iter([cut])))
    store = _registry(address)
    with pytest.raises(ServerError, match="connection was cut") as refusal:
        store.fetch(FileEntry("f", 7, digest_of(b"content")), tmp_path / "f")
    assert "goes on where it ended" in refusal.value.remedy
