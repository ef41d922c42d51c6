"""The client's end of the local lane, against a server of some lines that answers whatever a test says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_lane import PATIENCE_S, Lane, Reply, action_at, answer, lanes

from policyctl import lane
from policyctl.client import (
    AsyncPolicyClient,
    DeadlineError,
    NotServedError,
    OverloadedError,
    PolicyClient,
    RefusedError,
    UnreachableError,
)
from policyctl.client.calls import FetchConfig, Infer
from policyctl.client.local_wire import LocalTransport
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import ServerError, UnsupportedError, UsageError

OUTPUTS = (TensorSpec("action", "float32", (2,)),)


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], Lane]]:
    """Starts a server."""
    with lanes() as start:
        yield start


def infer(rows: int = 1, **more: str) -> Infer:
    return Infer({"observation": np.ones((rows, 4), np.float32)}, ("action",), "id", OUTPUTS, **more)


def doubled(request: bytes, memory: memoryview) -> bytes:
    """The first two numbers, doubled."""
    numbers = np.frombuffer(memory[:8], np.float32) * 2
    memory[4096:4104] = numbers.tobytes()
    return answer(rest=action_at(4096))


def test_an_answer_says_who_gave_it_and_is_a_copy(serve: Callable[[Reply], Lane]) -> None:
    """Outputs, slot, id and release come back; the next answer does not change them."""
    with contextlib.closing(LocalTransport("walker", serve(doubled).url)) as transport:
        one = transport.perform(infer(), PATIENCE_S)
        assert (one.slot, one.request_id, one.parameters) == (3, "id", {"release": "1.0.0"})
        call = Infer({"observation": np.full((1, 4), 5, np.float32)}, ("action",), "id", OUTPUTS, timing=True)
        other = transport.perform(call, PATIENCE_S)
        assert other.parameters == {"release": "1.0.0", "compute_us": 7}
        assert (one.outputs["action"].tolist(), other.outputs["action"].tolist()) == ([[2, 2]], [[10, 10]])


def test_another_model_is_named_in_its_own_requests(serve: Callable[[Reply], Lane]) -> None:
    """Calls of one shape to two models are two requests."""
    server = serve(doubled)
    with contextlib.closing(LocalTransport("walker", server.url)) as transport:
        for model in ("", "walker.1.0.0", ""):
            transport.perform(infer(model=model), PATIENCE_S)
    assert [b"\x0cwalker.1.0.0" in request for request in server.requests] == [False, True, False]


@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        (3, b"Request for unknown model: 'walker' is not found", NotServedError),
        (4, b"input observation has NaN", RefusedError),
        (5, b"Exceeds maximum queue size", OverloadedError),
        (5, b"Request timeout expired", DeadlineError),
        (5, b"the server stops", UnreachableError),
        (2, b"something", ServerError),
        (99, b"something", ServerError),
        (1000, b"64 sessions of the lane are open", ServerError),
    ],
)
def test_an_error_of_the_server_is_that_of_other_wires(
    serve: Callable[[Reply], Lane], code: int, message: bytes, error: type[ServerError]
) -> None:
    """By its code and its words, which it repeats; the session goes on."""
    server = serve(lambda request, memory: answer(code, rest=message))
    with contextlib.closing(LocalTransport("walker", server.url)) as transport:
        for _ in range(2):
            with pytest.raises(ServerError) as raised:
                transport.perform(infer(), PATIENCE_S)
            assert type(raised.value) is error
    assert len(server.sizes) == 1


@pytest.mark.parametrize(
    "said",
    [
        b"x",
        answer(rest=b"\xff"),
        answer(rest=action_at(1 << 40)),
        answer(rest=action_at(4096, size=12)),
        answer(rest=action_at(4096, number=13)),
        answer(rest=action_at(4096, number=77)),
        answer(rest=action_at(4096, shape=(-7, 2))),
        answer(request_id=b"\xff"),
        answer(100, needed=1 << 17),  # each time
    ],
)
def test_an_answer_that_cannot_be_read_is_no_action(serve: Callable[[Reply], Lane], said: bytes) -> None:
    """Whatever the server says, it is an error of the server."""
    with contextlib.closing(LocalTransport("walker", serve(lambda request, memory: said).url)) as transport:
        for _ in range(2):
            with pytest.raises(ServerError):
                transport.perform(infer(), PATIENCE_S)


def test_memory_grows_with_what_a_call_needs_and_with_what_the_server_says(serve: Callable[[Reply], Lane]) -> None:
    """Inputs that do not fit open a larger session, and so does an answer that does not."""
    needed = 1 << 21

    def reply(request: bytes, memory: memoryview) -> bytes:
        return doubled(request, memory) if len(memory) >= needed else answer(100, needed=needed)

    server = serve(reply)
    with contextlib.closing(LocalTransport("walker", server.url)) as transport:
        transport.perform(infer(), PATIENCE_S)
        transport.perform(infer(1 << 18), PATIENCE_S)
        transport.perform(infer(), PATIENCE_S)
    assert server.sizes[:2] == [1 << 16, needed]
    assert len(server.sizes) == 3
    assert server.sizes[2] >= 24 << 18


def test_a_late_answer_is_not_that_to_the_next_question(serve: Callable[[Reply], Lane]) -> None:
    """A missed deadline ends the session; the next call has another one."""
    silent = iter([True, False])
    server = serve(lambda request, memory: None if next(silent) else doubled(request, memory))
    with contextlib.closing(LocalTransport("walker", server.url)) as transport:
        with pytest.raises(DeadlineError):
            transport.perform(infer(), 0.05)
        assert server.ended.acquire(timeout=PATIENCE_S)
        assert transport.perform(infer(), PATIENCE_S).slot == 3
    assert len(server.sizes) == 2


def test_a_child_process_does_not_use_its_parent_s_session(serve: Callable[[Reply], Lane]) -> None:
    """After a fork each has its own: two that write into one memory would get one another's actions."""
    server = serve(doubled)
    with contextlib.closing(LocalTransport("walker", server.url)) as transport:
        transport.perform(infer(), PATIENCE_S)
        if (child := os.fork()) == 0:
            status = 1
            try:
                status = int(transport.perform(infer(), PATIENCE_S).slot != 3)
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        transport.perform(infer(), PATIENCE_S)
    assert len(server.sizes) == 2


def test_a_session_ends_though_a_child_process_has_a_copy_of_it(serve: Callable[[Reply], Lane]) -> None:
    """The server sees it when the client closes, while the child still lives."""
    server = serve(doubled)
    reader, writer = os.pipe()
    with contextlib.closing(LocalTransport("walker", server.url)) as transport:
        transport.perform(infer(), PATIENCE_S)
        if (child := os.fork()) == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    try:
        assert server.ended.acquire(timeout=PATIENCE_S)
    finally:
        os.close(reader)
        os.close(writer)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_thread_that_ends_ends_its_session(serve: Callable[[Reply], Lane]) -> None:
    """Nobody has to close it."""
    server = serve(doubled)
    with contextlib.closing(LocalTransport("walker", server.url)) as transport:
        thread = threading.Thread(target=transport.perform, args=(infer(), PATIENCE_S))
        thread.start()
        thread.join(PATIENCE_S)
        assert server.ended.acquire(timeout=PATIENCE_S)


def test_a_session_that_ended_meanwhile_is_replaced(serve: Callable[[Reply], Lane]) -> None:
    """The request could not be sent, so it is sent once in another session, and the call has its answer."""
    server = serve(doubled)
    with contextlib.closing(LocalTransport("walker", server.url)) as transport:
        transport.perform(infer(), PATIENCE_S)
        server.end_sessions()
        assert transport.perform(infer(), PATIENCE_S).slot == 3
    assert (len(server.sizes), len(server.requests)) == (2, 2)


def test_what_was_sent_is_not_sent_again(serve: Callable[[Reply], Lane]) -> None:
    """A server that ends the session after it has the request may have begun it."""

    def leave(request: bytes, memory: memoryview) -> bytes:
        if len(server.requests) > 1:
            raise ConnectionError
        return doubled(request, memory)

    server = serve(leave)
    with contextlib.closing(LocalTransport("walker", server.url)) as transport:
        transport.perform(infer(), PATIENCE_S)
        with pytest.raises(UnreachableError, match="ended the session"):
            transport.perform(infer(), PATIENCE_S)
    assert (len(server.sizes), len(server.requests)) == (1, 2)


def test_the_server_gets_the_time_that_is_left(serve: Callable[[Reply], Lane]) -> None:
    """What it took to open the session is not in the request's time."""
    server = serve(doubled)
    server.before_greeting = lambda: time.sleep(0.3)
    with contextlib.closing(LocalTransport("walker", server.url)) as transport:
        transport.perform(infer(), PATIENCE_S)
    timeout_us = struct.unpack_from("<IHHQ", server.requests[0])[3]
    assert 0 < timeout_us <= (PATIENCE_S - 0.3) * 1e6


def test_the_steps_of_a_new_session_have_one_deadline(
    serve: Callable[[Reply], Lane], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A greeting that comes at its end leaves no time for the next step."""
    passed_s = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed_s[0])
    monkeypatch.setattr("policyctl.client.local_session.time", clock)
    server = serve(doubled)
    server.before_greeting = lambda: passed_s.__setitem__(0, PATIENCE_S)
    with (
        contextlib.closing(LocalTransport("walker", server.url)) as transport,
        pytest.raises(DeadlineError),
    ):
        transport.perform(infer(), PATIENCE_S)
    assert server.requests == []


@pytest.mark.parametrize(
    ("messages", "error", "problem"),
    [
        ([b"x"], ServerError, "cannot be read"),
        ([answer(), b"x"], ServerError, "cannot be read"),
        ([answer(), answer()], UnreachableError, "Too many open files"),
    ],
)
def test_a_handshake_that_cannot_be_read_is_an_error_of_the_server(
    messages: list[bytes], error: type[ServerError], problem: str
) -> None:
    """Also where the memory does not come, because this process can have no more files."""
    with (
        tempfile.TemporaryDirectory(prefix="lane-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        listener.bind(f"{folder}/lane")
        listener.listen()

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                for message in messages:
                    connection.send(message)
                connection.recv(1)

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        with pytest.raises(error, match=problem) as raised:
            LocalTransport("walker", f"local:{folder}/lane").perform(infer(), PATIENCE_S)
        assert type(raised.value) is error
        assert ("ulimit -n" in raised.value.remedy) is (error is UnreachableError)
        thread.join(PATIENCE_S)


@pytest.mark.parametrize(
    ("code", "error", "remedy"),
    [
        (101, UnreachableError, "fewer threads or clients"),
        (102, UnreachableError, "fewer threads"),
        (103, UnreachableError, "Ask as that user"),
        (104, RefusedError, "same version of policyctl"),
        (105, OverloadedError, "whether the model hangs"),
    ],
)
def test_what_the_lane_itself_refuses_has_a_remedy_of_the_lane(
    serve: Callable[[Reply], Lane], code: int, error: type[ServerError], remedy: str
) -> None:
    """By its code, whatever it says; nothing about addresses and protocols, which are right."""
    server = serve(lambda request, memory: answer(code, rest=b"enough"))
    with contextlib.closing(LocalTransport("walker", server.url)) as transport, pytest.raises(error) as raised:
        transport.perform(infer(), PATIENCE_S)
    assert "enough" in raised.value.problem
    assert remedy in raised.value.remedy


def test_a_deadline_of_centuries_is_one(serve: Callable[[Reply], Lane]) -> None:
    """It is longer than a system call takes, and is cut short without an error."""
    server = serve(lambda request, memory: answer(5, rest=b"Exceeds maximum queue size"))
    with PolicyClient("walker", url=server.url, deadline_s=1e10) as client, pytest.raises(OverloadedError):
        client.act([0.0] * 4)


def test_a_server_of_another_user_is_not_asked(serve: Callable[[Reply], Lane], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says whose it is; nothing is sent."""
    server = serve(doubled)
    monkeypatch.setattr("policyctl.client.local_session.user_of", lambda connection: os.geteuid() + 1)
    with pytest.raises(UnsupportedError, match="belongs to another user"):
        LocalTransport("walker", server.url).perform(infer(), PATIENCE_S)
    assert server.requests == []


def test_without_a_server_there_is_none_to_reach(tmp_path: Path) -> None:
    """The error is that of other wires, and names the url."""
    url = f"local:{tempfile.gettempdir()}/no-lane-{os.getpid()}"
    with pytest.raises(UnreachableError, match="local:"):
        LocalTransport("walker", url).perform(FetchConfig(), PATIENCE_S)


@pytest.mark.parametrize(
    "url", ["local:relative", "local:/folder/", f"local:/{'x' * 100}", "local:/nul\0", "local:/\udcff"]
)
def test_a_url_that_names_no_socket_is_refused(url: str) -> None:
    """When the client is made, with what to write instead."""
    with pytest.raises(UsageError, match="names no UNIX socket"):
        PolicyClient("walker", url=url)


def test_what_the_lane_does_not_do_is_refused_when_the_client_is_made() -> None:
    """Shared memory by name belongs to gRPC, HTTP to its port, and the asyncio client would stop its loop."""
    with pytest.raises(UsageError, match="without HTTP"):
        PolicyClient("walker", url="local:/run/x", protocol="http")
    with pytest.raises(UsageError, match="over gRPC alone"):
        PolicyClient("walker", url="local:/run/x", shared_memory=True)

    async def make() -> None:
        AsyncPolicyClient("walker", url="local:/run/x")

    with pytest.raises(UsageError, match="is for PolicyClient"):
        asyncio.run(make())


def test_the_usual_lane_lies_in_a_folder_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Server and client find it by the same rule."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert lane.path_of("local:") == f"/run/user/7/policyctl-{os.getuid()}/lane.sock"
    assert lane.path_of("local:/run/robot/lane") == "/run/robot/lane"
