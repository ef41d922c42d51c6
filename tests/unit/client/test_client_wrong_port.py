"""A client whose protocol is not that of the port: what it says is text, and says so."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from policyctl.adapters.control_api import ControlApi
from policyctl.client import PolicyClient
from policyctl.client.errors import UnreachableError
from policyctl.domain.protocol import Protocol
from policyctl.errors import ServerError, connection_text


@pytest.fixture
def grpc_port() -> Iterator[int]:
    """A port where gRPC is spoken, as at Triton's."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


@pytest.fixture
def http_port() -> Iterator[int]:
    """A port where HTTP/1.1 is spoken."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_http_asked_of_a_grpc_port_is_no_noise(grpc_port: int) -> None:
    """The frame that gRPC answers with means nothing to people."""
    client = PolicyClient("walker", url=f"127.0.0.1:{grpc_port}", protocol=Protocol.HTTP, deadline_s=30.0)
    with client, pytest.raises(UnreachableError, match="speaks no HTTP, as Triton's gRPC port does not") as refused:
        client.act([0.0, 0.0])
    assert refused.value.problem.isprintable()


def test_a_control_api_asked_for_at_a_grpc_port_is_no_noise(grpc_port: int, monkeypatch) -> None:
    """The same by the command line's --api."""
    monkeypatch.setattr("policyctl.adapters.control_api.PATIENCE_S", 0.0)
    with pytest.raises(ServerError, match="speaks no HTTP") as refused:
        ControlApi(f"http://127.0.0.1:{grpc_port}").get("/v1/status")
    assert refused.value.problem.isprintable()


def test_grpc_asked_of_an_http_port_says_so(http_port: int) -> None:
    """Without the names of frames."""
    client = PolicyClient("walker", url=f"127.0.0.1:{http_port}", protocol=Protocol.GRPC, deadline_s=30.0)
    with client, pytest.raises(UnreachableError, match="speaks no gRPC, as Triton's HTTP port does not"):
        client.act([0.0, 0.0])


def test_a_refused_connection_is_told_by_the_system(monkeypatch) -> None:
    """Not by the name and address of a library's object."""
    monkeypatch.setattr("policyctl.adapters.control_api.PATIENCE_S", 0.0)
    with pytest.raises(ServerError, match=r"\(Connection refused\)"):
        ControlApi("http://127.0.0.1:9").get("/v1/status")


_NO_GRPC = "what answers there speaks no gRPC, as Triton's HTTP port does not"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (TimeoutError(), "it did not answer in time"),
        (OSError(111, "Connection refused"), "Connection refused"),
        (ValueError("wrapped", OSError(111, "Connection refused")), "Connection refused"),
        ("a\x00b\n\tc", "a b c"),
        ("failed to connect to all addresses; Socket closed", _NO_GRPC),
        ("failed to connect to all addresses; recvmsg: Connection reset by peer (104)", _NO_GRPC),
    ],
)
def test_why_a_connection_failed_is_one_line_of_text(reason: object, text: str) -> None:
    """Whatever a library wraps it into."""
    assert connection_text(reason) == text
