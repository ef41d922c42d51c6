"""Who learns the password of a registry, and where its redirects may lead."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_servers import Answer, Request, Servers, resolve

from policyctl.adapters import registry_wire
from policyctl.adapters.registry import Registry
from policyctl.adapters.registry_reference import parse_reference
from policyctl.adapters.web import Reach, reach_of
from policyctl.domain.manifest import FileEntry, digest_of
from policyctl.errors import PolicyctlError, ServerError, UsageError
from policyctl.settings import RegistrySettings

PASSWORD = "secret-word"
BASIC = "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
BLOB = FileEntry("f", 7, digest_of(b"content"))
INSIDE = "what a service inside says to nobody else"


@pytest.fixture
def servers(tmp_path: Path, monkeypatch) -> Iterator[Servers]:
    """Hosts of the whole world at 127.0.0.1, and of a private network at 127.0.0.2."""
    found = Servers(tmp_path)
    reaches = {"127.0.0.1": Reach.WORLD, "127.0.0.2": Reach.PRIVATE}
    monkeypatch.setattr(registry_wire, "reach_of", lambda address: reaches.get(address, Reach.MACHINE))
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield found
    found.stop()


def _registry(servers: Servers, host: str) -> Registry:
    settings = RegistrySettings(username="ann", password=PASSWORD, ca_file=servers.ca_file, timeout_s=300.0)
    return Registry(parse_reference(f"oci://{host}/walker:1"), settings)


def _secrets(*asked: list[Request]) -> list[str]:
    """Every header that a server got and that could open the registry."""
    return [value for each in asked for request in each for value in request.headers.values() if "Ba" in value]


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("127.0.0.1", Reach.MACHINE),
        ("127.8.9.1", Reach.MACHINE),
        ("::1", Reach.MACHINE),
        ("0.0.0.0", Reach.MACHINE),
        ("::ffff:127.0.0.1", Reach.MACHINE),
        ("64:ff9b::7f00:1", Reach.MACHINE),
        ("169.254.169.254", Reach.LINK),
        ("fe80::1%eth0", Reach.LINK),
        ("::ffff:169.254.169.254", Reach.LINK),
        ("10.1.2.3", Reach.PRIVATE),
        ("172.16.0.1", Reach.PRIVATE),
        ("192.168.1.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("2002:0a00:0001::", Reach.PRIVATE),
        ("64:ff9b::a00:1", Reach.PRIVATE),
        ("8.8.8.8", Reach.WORLD),
        ("2606:4700::1", Reach.WORLD),
    ],
)
def test_an_address_says_from_where_it_can_be_reached(address: str, reach: Reach) -> None:
    """Also where an IPv6 address only carries an IPv4 one."""
    assert reach_of(address) is reach


def test_a_token_service_that_the_registry_names_gets_the_password_over_tls(servers: Servers) -> None:
    """As Docker Hub does it: registry and token service are two hosts, and the token goes to the registry alone."""

    def give(request: Request) -> Answer:
        assert request.headers["Authorization"] == BASIC
        return 200, {}, json.dumps({"token": "t-1"}).encode()

    auth, tokens = servers.start(give, tls=True)

    def answer(request: Request) -> Answer:
        if request.headers.get("Authorization") == "Bearer t-1":
            return 200, {}, b"{}"
        realm = f'Bearer realm="https://auth.test:{auth}/token",service="s",scope="repository:walker:pull"'
        return 401, {"WWW-Authenticate": realm}, b""

    port, _ = servers.start(answer, tls=True)
    assert _registry(servers, f"registry.test:{port}").manifest("") == b"{}"
    assert [request.path for request in tokens] == ["/token?service=s&scope=repository%3Awalker%3Apull"]


@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.test:{plain}/token",
        "http://127.0.0.1:{plain}/token",
        "http://localhost:{plain}/token",
        "https://ann:secret@auth.test:{tls}/token",
        "https://inside.test:{inside}/token",
        "ftp://auth.test/token",
        "//auth.test:{tls}/token",
        "https:///token",
        "https://[bad/token",
        "",
    ],
)
def test_a_token_service_without_tls_or_inside_gets_nothing(servers: Servers, realm: str) -> None:
    """A registry of the world cannot send its callers where they are overheard, nor into their own network."""

    def refuse(_: Request) -> Answer:
        return 200, {}, json.dumps({"token": "t"}).encode()

    plain, plain_asked = servers.start(refuse)
    tls, tls_asked = servers.start(refuse, tls=True)
    inside, inside_asked = servers.start(refuse, tls=True, address="127.0.0.2")
    challenge = f'Bearer realm="{realm.format(plain=plain, tls=tls, inside=inside)}",service="s"'
    port, asked = servers.start(lambda _: (401, {"WWW-Authenticate": challenge}, b""), tls=True)
    with pytest.raises(PolicyctlError):
        _registry(servers, f"registry.test:{port}").manifest("")
    assert _secrets(asked, plain_asked, tls_asked, inside_asked) == []
    assert plain_asked == tls_asked == inside_asked == []


def test_a_registry_of_this_machine_sends_no_password_to_another_in_clear(servers: Servers, monkeypatch) -> None:
    """Its token service may speak plain HTTP on this machine; a remote one may not."""
    monkeypatch.setattr(registry_wire, "reach_of", lambda a: Reach.MACHINE if a == "127.0.0.1" else Reach.PRIVATE)
    remote, remote_asked = servers.start(lambda _: (200, {}, b'{"token": "t"}'), address="127.0.0.2")
    here, here_asked = servers.start(lambda _: (200, {}, b'{"token": "t"}'))

    def challenge(realm: str):
        def answer(request: Request) -> Answer:
            if request.headers.get("Authorization") == "Bearer t":
                return 200, {}, b"{}"
            return 401, {"WWW-Authenticate": f'Bearer realm="{realm}"'}, b""

        return answer

    port, _ = servers.start(challenge(f"http://inside.test:{remote}/token"))
    with pytest.raises(ServerError, match=r"inside\.test is at 127\.0\.0\.2"):
        _registry(servers, f"127.0.0.1:{port}").manifest("")
    assert remote_asked == []
    port, _ = servers.start(challenge(f"http://localhost:{here}/token"))
    assert _registry(servers, f"127.0.0.1:{port}").manifest("") == b"{}"
    assert [request.headers["Authorization"] for request in here_asked] == [BASIC]


def test_a_host_that_a_redirect_leads_to_learns_nothing(servers: Servers) -> None:
    """Neither the password that the registry got, nor an answer to its challenge."""
    auth, tokens = servers.start(lambda _: (200, {}, b'{"token": "t"}'), tls=True)
    challenge = {"WWW-Authenticate": f'Bearer realm="https://auth.test:{auth}/token"'}
    storage, stored = servers.start(lambda _: (401, challenge, b""), tls=True)

    def answer(request: Request) -> Answer:
        if "Authorization" not in request.headers:
            return 401, {"WWW-Authenticate": 'Basic realm="r"'}, b""
        return 307, {"Location": f"https://storage.test:{storage}/blob"}, b""

    port, asked = servers.start(answer, tls=True)
    with pytest.raises(UsageError, match=r"storage\.test"):
        _registry(servers, f"registry.test:{port}").manifest("")
    assert _secrets(asked) == [BASIC]
    assert len(stored) == 1
    assert _secrets(stored, tokens) == []
    assert tokens == []


def test_a_blob_may_lie_on_a_storage_host(servers: Servers, tmp_path: Path) -> None:
    """As registries of clouds do it: the download is sent on, without credentials, over TLS."""
    storage, stored = servers.start(lambda _: (200, {}, b"content"), tls=True)

    def answer(request: Request) -> Answer:
        if "Authorization" not in request.headers:
            return 401, {"WWW-Authenticate": 'Basic realm="r"'}, b""
        return 307, {"Location": f"https://storage.test:{storage}/blob?signature=1"}, b""

    port, _ = servers.start(answer, tls=True)
    _registry(servers, f"registry.test:{port}").fetch(BLOB, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"content"
    assert _secrets(stored) == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{plain}/x",
        "http://storage.test:{plain}/x",
        "https://inside.test:{inside}/x",
        "file:///etc/passwd",
    ],
)
def test_a_redirect_leads_neither_to_plain_http_nor_inside(servers: Servers, status: int, target: str) -> None:
    """Nothing is asked there, and nothing that a service inside says is shown."""
    plain, plain_asked = servers.start(lambda _: (500, {}, INSIDE.encode()))
    inside, inside_asked = servers.start(lambda _: (500, {}, INSIDE.encode()), tls=True, address="127.0.0.2")
    onward = {"Location": target.format(plain=plain, inside=inside)}
    port, _ = servers.start(lambda _: (status, onward, b""), tls=True)
    with pytest.raises(ServerError) as refused:
        _registry(servers, f"registry.test:{port}").manifest("")
    assert INSIDE not in str(refused.value)
    assert plain_asked == inside_asked == []


def test_a_registry_inside_may_use_storage_beside_it(servers: Servers, tmp_path: Path) -> None:
    """A private network's registry sends on into that network, and not to services of this machine."""
    storage, _ = servers.start(lambda _: (200, {}, b"content"), tls=True, address="127.0.0.2")
    here, here_asked = servers.start(lambda _: (200, {}, b"content"), tls=True, address="127.0.0.3")
    for target in (f"https://inside.test:{storage}/b", f"https://127.0.0.3:{here}/b"):
        port, _ = servers.start(lambda _, to=target: (307, {"Location": to}, b""), tls=True, address="127.0.0.2")
        store = _registry(servers, f"inside.test:{port}")
        if "127.0.0.3" in target:
            with pytest.raises(ServerError, match="this machine"):
                store.fetch(BLOB, tmp_path / "g")
        else:
            store.fetch(BLOB, tmp_path / "f")
    assert here_asked == []


def test_a_name_that_leads_inside_counts_by_the_address_that_was_connected_to(servers: Servers, monkeypatch) -> None:
    """A name that a second look-up would show elsewhere deceives nobody."""
    inside, inside_asked = servers.start(lambda _: (200, {}, b"{}"), tls=True, address="127.0.0.2")
    looked_up: list[str] = []

    def rebinding(host: str, *args: object, **more: object) -> object:
        looked_up.append(host)
        turns = looked_up.count("storage.test")
        return resolve("inside.test" if host == "storage.test" and turns == 1 else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    onward = {"Location": f"https://storage.test:{inside}/x"}
    port, _ = servers.start(lambda _: (307, onward, b""), tls=True)
    with pytest.raises(ServerError, match=r"storage\.test, which is at 127\.0\.0\.2"):
        _registry(servers, f"registry.test:{port}").manifest("")
    assert inside_asked == []


def test_an_upload_is_sent_on_by_the_same_rules(servers: Servers, tmp_path: Path) -> None:
    """Storage over TLS gets the bytes and no password; plain HTTP and what is inside get nothing."""
    storage, stored = servers.start(lambda _: (201, {}, b""), tls=True)
    plain, plain_asked = servers.start(lambda _: (201, {}, b""))
    inside, inside_asked = servers.start(lambda _: (201, {}, b""), tls=True, address="127.0.0.2")
    (tmp_path / "f").write_bytes(b"content")
    for target in (f"https://storage.test:{storage}", f"http://storage.test:{plain}", f"https://inside.test:{inside}"):

        def answer(request: Request, target: str = target) -> Answer:
            if "Authorization" not in request.headers:
                return 401, {"WWW-Authenticate": 'Basic realm="r"'}, b""
            return 202, {"Location": f"{target}/put?state=1&empty="}, b""

        port, _ = servers.start(answer, tls=True)
        store = _registry(servers, f"registry.test:{port}")
        if str(storage) in target:
            store.put(BLOB, tmp_path / "f")
        else:
            with pytest.raises(ServerError):
                store.put(BLOB, tmp_path / "f")
    (sent,) = stored
    assert sent.path == "/put?state=1&empty=&digest=" + BLOB.digest.replace(":", "%3A")
    assert _secrets(stored) == []
    assert plain_asked == inside_asked == []


def test_redirects_end(servers: Servers) -> None:
    """A circle is noticed."""
    port, asked = servers.start(lambda request: (307, {"Location": request.path}, b""), tls=True)
    with pytest.raises(ServerError, match="redirects more than"):
        _registry(servers, f"registry.test:{port}").manifest("")
    assert len(asked) < 10


def test_what_a_registry_says_drives_no_terminal(servers: Servers) -> None:
    """Its words are shown on one line, without control characters, and not in full length."""
    port, _ = servers.start(lambda _: (418, {}, b"\x1b[2J\r\nsaid" + b"x" * 5000), tls=True)
    with pytest.raises(ServerError, match="said") as refused:
        _registry(servers, f"registry.test:{port}").manifest("")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("token", ['"a\\r\\nX: y"', '""', "null", "7", '["t"]', '{"token": "t"}', '"é"'])
def test_a_token_that_is_none_is_refused(servers: Servers, token: str) -> None:
    """Nothing of it reaches a header."""

    def answer(request: Request) -> Answer:
        if request.path.startswith("/token"):
            return 200, {}, f'{{"token": {token}}}'.encode()
        return 401, {"WWW-Authenticate": f'Bearer realm="https://registry.test:{port}/token"'}, b""

    port, _ = servers.start(answer, tls=True)
    with pytest.raises(UsageError, match="gives no token"):
        _registry(servers, f"registry.test:{port}").manifest("")
