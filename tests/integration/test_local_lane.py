"""The local lane on the real Triton: its answers, its moves, and clients that break its rules."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from embedded import PATIENCE_S, Embedded, asking, embedded, exported, stopped, wait_for
from numpy.typing import NDArray

from policyctl import lane
from policyctl.client import (
    DeadlineError,
    NotServedError,
    OverloadedError,
    PolicyClient,
    RefusedError,
    UnreachableError,
)
from policyctl.client.local_messages import Code
from policyctl.domain.artifacts import FILES, Format
from policyctl.errors import BusyError, UsageError
from policyctl.serving import triton_lane

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(triton_lane.find() is None, reason="the local lane is not built: make native"),
]

RELEASES = {"1.0.0": 1, "1.1.0": 2}
OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (16, 4)).astype(np.float32)
HELLO = struct.pack("<IIQ", 0x4C504C43, 2, 1 << 16)
CALLERS = 8
ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 1000
"""The code by which the client in C++ says that no answer came in time."""
MORE_THAN_SESSIONS = 70
WIDE = 10_000
"""Numbers of another policy's observation: 64 of them are more than a request may have here."""


@pytest.fixture(scope="module", params=["auto", "off"], ids=["native", "python"])
def served(request: pytest.FixtureRequest) -> Iterator[Embedded]:
    """A server with a lane, whose requests have at most 2 MiB. pytest's folders are too deep for a socket."""
    with (
        tempfile.TemporaryDirectory(prefix="lane-") as name,
        pytest.MonkeyPatch.context() as patch,
        embedded(Path(name)) as server,
    ):
        patch.setenv("POLICYCTL_SERVING__NATIVE", request.param)
        patch.setenv("POLICYCTL_SERVER__MAX_REQUEST_MIB", "2")
        patch.setenv("POLICYCTL_SERVER__LANE", f"local:{name}/lane")
        for release, seed in RELEASES.items():
            server.publish(release, seed)
        server.run("publish", str(exported(1, WIDE)), "--model", "wide", "--release", "1.0.0")
        server.start()
        for model in ("walker", "wide"):
            server.run("promote", model, "1.0.0")
        yield server


@pytest.fixture
def url(served: Embedded) -> str:
    return f"local:{served.root.parent}/lane"


@pytest.fixture
def ends() -> None:
    """For a test that ends the server's process."""


@pytest.fixture(autouse=True)
def lives(served: Embedded, url: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the same process answers rightly, and no session is left."""
    wait_for(lambda: served.triton)
    before = served.triton
    yield
    if "ends" not in request.fixturenames:
        assert served.triton == before
    with PolicyClient("walker", url=url, deadline_s=PATIENCE_S) as client:
        wait_for(lambda: asks(client))
        action = client.act(OBSERVATIONS[0])
    np.testing.assert_allclose(action.value, right(action.release)[0], rtol=0, atol=1e-4)
    wait_for(lambda: regions(served) == 0)


def right(release: str) -> NDArray[np.float32]:
    """What the policy of a release says itself; of shape (16, 2)."""
    import torch

    program = torch.jit.load(exported(RELEASES[release]) / FILES[Format.TORCHSCRIPT][0])  # type: ignore[no-untyped-call]
    with torch.no_grad():
        actions: NDArray[np.float32] = program(torch.from_numpy(OBSERVATIONS))[0].numpy()
    return actions


def regions(served: Embedded) -> int:
    """How many clients' memories the server has; -1 where it is being started."""
    return -1 if served.triton is None else Path(f"/proc/{served.triton}/maps").read_text().count("policyctl-lane")


@contextlib.contextmanager
def raw(url: str) -> Iterator[socket.socket]:
    with lane.connect(lane.path_of(url), PATIENCE_S) as connection:
        assert code_of(connection.recv(1 << 14)) == 0
        yield connection


def greeted(connection: socket.socket) -> mmap.mmap:
    connection.send(HELLO)
    message, files, _, _ = socket.recv_fds(connection, 1 << 14, 1)
    assert code_of(message) == 0
    try:
        return mmap.mmap(files[0], 1 << 16)
    finally:
        os.close(files[0])


def code_of(message: bytes) -> int:
    return int.from_bytes(message[:4], "little")


def text(value: str) -> bytes:
    return bytes((len(value),)) + value.encode()


def question(
    rows: int = 1,
    offset: int = 0,
    *,
    kind: int = 1,
    model: str = "walker",
    timeout_us: int = 0,
    answer_at: int = 4096,
    columns: int = 4,
) -> bytes:
    start = struct.pack("<IHHQqQ", kind, 1, 1, timeout_us, -1, answer_at)
    tensor = text("observation") + struct.pack("<BBQQqq", 11, 2, offset, 4 * columns * rows, rows, columns)
    return b"".join((start, text("mine"), text(model), text("action"), tensor))


def test_answers_are_those_of_grpc_to_the_last_bit(served: Embedded, url: str) -> None:
    """Single and in batches, with the memory made larger for them; with times, and from the same release."""
    for model, width, counts in (("walker", 4, (1, 7, 64, 3)), ("wide", WIDE, (1, 32, 2))):
        rows = np.random.default_rng(1).uniform(-1, 1, (64, width)).astype(np.float32)
        with (
            PolicyClient(model, url=url, deadline_s=PATIENCE_S) as local,
            PolicyClient(model, url=served.endpoint["grpc"], deadline_s=PATIENCE_S) as grpc,
        ):
            for count in counts:
                one, other = local.act_batch(rows[:count]), grpc.act_batch(rows[:count])
                np.testing.assert_array_equal(one.value, other.value)
                assert (one.release, one.slot) == (other.release, other.slot)
    with (
        PolicyClient("walker", url=url, deadline_s=PATIENCE_S) as local,
        PolicyClient("walker", url=served.endpoint["grpc"], deadline_s=PATIENCE_S) as grpc,
    ):
        action = local.act(OBSERVATIONS[0], request_id="robot-7", timing=True)
        assert action.request_id == "robot-7"
        assert (action.server is None) is (grpc.act(OBSERVATIONS[0], timing=True).server is None)
        assert local.served() == grpc.served()
        action.outputs["action"][...] = 0  # a copy of the caller's
        with local.episode() as episode:
            np.testing.assert_array_equal(episode.act(OBSERVATIONS[1]).value, grpc.act(OBSERVATIONS[1]).value)


def test_errors_are_those_of_grpc(served: Embedded, url: str) -> None:
    """An unknown alias, a request above the limit, an id that no log can show: each says what is wrong."""
    for alias in ("staging", "7.0.0"):
        found = []
        for where in (url, served.endpoint["grpc"]):
            with PolicyClient("walker", url=where, alias=alias, deadline_s=PATIENCE_S) as client:
                with pytest.raises(Exception, match="is not served at") as refused:
                    client.act(OBSERVATIONS[0])
                found.append(type(refused.value))
        assert found[0] is found[1]
    with (
        PolicyClient("wide", url=url, deadline_s=PATIENCE_S) as client,
        pytest.raises(RefusedError, match="POLICYCTL_SERVER__MAX_REQUEST_MIB"),
    ):
        client.act_batch(np.zeros((64, WIDE), np.float32))
    with PolicyClient("walker", url=url, deadline_s=PATIENCE_S) as client:
        with pytest.raises(RefusedError, match="printable ASCII"):
            client.act(OBSERVATIONS[0], request_id="two\nlines")
        with pytest.raises(UsageError, match="more than 255 bytes"):
            client.act(OBSERVATIONS[0], request_id="x" * 256)
        with pytest.raises(UsageError, match="nan"):
            client.act([np.nan, 0, 0, 0])


def test_promotions_and_rollbacks_lose_nothing(served: Embedded, url: str) -> None:
    """Eight callers ask without pause while the alias moves: no failure, no wrong action, both releases answer."""
    actions = {release: right(release) for release in RELEASES}
    with (
        PolicyClient("walker", url=url, deadline_s=PATIENCE_S) as client,
        asking([client] * CALLERS, OBSERVATIONS, actions) as callers,
    ):
        counts, failures = callers.answers, callers.failures
        for _ in range(3):
            before = counts["1.1.0"]
            served.run("promote", "walker", "1.1.0")
            wait_for(lambda before=before: counts["1.1.0"] > before or failures)
            before = counts["1.0.0"]
            served.run("rollback", "walker")
            wait_for(lambda before=before: counts["1.0.0"] > before or failures)
    assert failures == []
    assert set(counts) == set(RELEASES)


@pytest.mark.parametrize("step", ["connected", "greeted", "asked", "asked twice"])
def test_a_client_that_goes_at_any_step_leaves_nothing(served: Embedded, url: str, step: str) -> None:
    """Fifty of them, also one that asks again before it is answered; `lives` looks for what is left."""
    for _ in range(50):
        with raw(url) as connection:
            if step == "connected":
                continue
            memory = greeted(connection)
            memory[:16] = OBSERVATIONS[0].tobytes()
            for _ in range({"greeted": 0, "asked": 1}.get(step, 2)):
                with contextlib.suppress(BrokenPipeError):
                    connection.send(question())


def test_a_killed_client_leaves_nothing(served: Embedded, url: str) -> None:
    """A process that asks without pause ends by SIGKILL; `lives` looks for what is left."""
    program = (
        "import sys; from policyctl.client import PolicyClient\n"
        f"client = PolicyClient('walker', url={url!r}, deadline_s={PATIENCE_S})\n"
        "while True: client.act([0.1, 0.2, 0.3, 0.4]); print('.', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(20):
            assert process.stdout.readline()
        process.kill()


def test_whatever_bytes_a_client_sends_the_server_lives(served: Embedded, url: str) -> None:
    """Up to three thousand messages with some bytes changed: each is answered, or ends its session."""
    chosen = random.Random(7)
    good = [question(), question(3), *(question(kind=kind) for kind in (2, 3, 4)), question(model="x" * 200)]
    answered = 0
    for number in range(150):
        with raw(url) as connection:
            memory = greeted(connection)
            memory[:] = np.resize(OBSERVATIONS, len(memory) // 4).tobytes()
            for _ in range(20):
                message = bytearray(chosen.choice(good))
                for _ in range(chosen.randrange(4)):
                    message[chosen.randrange(len(message))] = chosen.choice((0, 1, 127, 255, chosen.randrange(256)))
                if chosen.random() < 0.1:
                    message = message[: chosen.randrange(1, len(message))]
                try:
                    connection.send(message)
                    if not connection.recv(1 << 14):
                        break
                except ConnectionError:
                    break
                answered += 1
        assert number or answered
    assert answered > 1000


@pytest.mark.parametrize(
    ("hello", "code", "problem"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", Code.INVALID_ARGUMENT, "no client of the lane"),
        (struct.pack("<IIQ", 0x4C504C43, 1, 4096), Code.OTHER_VERSION, "version 1"),
        (struct.pack("<IIQ", 0x4C504C43, 2, 0), Code.INVALID_ARGUMENT, "at most"),
        (struct.pack("<IIQ", 0x4C504C43, 2, 1 << 63), Code.INVALID_ARGUMENT, "at most"),
        (HELLO[:7], Code.INVALID_ARGUMENT, "shorter than it says"),
    ],
)
def test_a_hello_that_is_none_is_refused(url: str, hello: bytes, code: Code, problem: str) -> None:
    """The refusal says why, and the session ends."""
    with raw(url) as connection:
        connection.send(hello)
        message = connection.recv(1 << 14)
        assert code_of(message) == code
        assert problem in message.decode(errors="replace")
        assert connection.recv(1 << 14) == b""


def test_a_message_that_is_too_long_ends_its_session(url: str) -> None:
    """It is not read in part."""
    with raw(url) as connection:
        greeted(connection)
        connection.send(question() + bytes(1 << 14))
        assert connection.recv(1 << 14) == b""


def test_nobody_can_cut_the_memory_short(url: str) -> None:
    """Its size is sealed, and the seals are as well."""
    with raw(url) as connection:
        connection.send(HELLO)
        _, (file,), _, _ = socket.recv_fds(connection, 1 << 14, 1)
        try:
            for size in (0, 4096, 1 << 20):
                with pytest.raises(PermissionError):
                    os.ftruncate(file, size)
        finally:
            os.close(file)


def test_memory_that_changes_while_it_is_read_harms_its_own_client_alone(served: Embedded, url: str) -> None:
    """One client writes noise, NaN and large numbers without pause while it asks; another one's actions stay right."""
    stop = threading.Event()
    noise = [np.full(4, v, np.float32).tobytes() for v in (np.nan, np.inf, 1e30, -1.0)] + [os.urandom(16)]

    def scribble(memory: mmap.mmap) -> None:
        for each in itertools.cycle(noise):
            if stop.is_set():
                return
            for at in (0, 4096):
                memory[at : at + 16] = each

    with raw(url) as connection, PolicyClient("walker", url=url, deadline_s=PATIENCE_S) as other:
        memory = greeted(connection)
        thread = threading.Thread(target=scribble, args=(memory,))
        thread.start()
        try:
            for _ in range(300):
                connection.send(question())
                assert connection.recv(1 << 14)
                action = other.act(OBSERVATIONS[0])
                np.testing.assert_allclose(action.value, right(action.release)[0], rtol=0, atol=1e-4)
        finally:
            stop.set()
            thread.join(PATIENCE_S)


def test_sessions_are_bounded_and_those_who_never_speak_lose_theirs(url: str) -> None:
    """The 65th is turned away with the reason. A connection without a hello ends by itself."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(raw(url)) for _ in range(64)]
        for connection in held[:63]:
            greeted(connection)
        with lane.connect(lane.path_of(url), PATIENCE_S) as one_more:
            assert "64 sessions" in one_more.recv(1 << 14).decode(errors="replace")
        client = stack.enter_context(PolicyClient("walker", url=url, deadline_s=PATIENCE_S))
        with pytest.raises(UnreachableError, match="64 sessions"):
            client.act(OBSERVATIONS[0])
        assert held[63].recv(1) == b""
        wait_for(lambda: asks(client))


def asks(client: PolicyClient, observation: NDArray[np.float32] = OBSERVATIONS[0]) -> bool:
    with contextlib.suppress(UnreachableError, OverloadedError, NotServedError):
        client.act(observation)
        return True
    return False


def test_a_deadline_ends_the_session_and_not_the_client(served: Embedded, url: str) -> None:
    """A stopped server lets a deadline pass. Once it goes on, the next call gets its own answer, not the late one."""
    with PolicyClient("walker", url=url, deadline_s=PATIENCE_S) as client:
        client.act(OBSERVATIONS[0])
        with stopped(served), pytest.raises(DeadlineError, match=r"of 0\.05 s"):
            client.act(OBSERVATIONS[0], deadline_s=0.05)
        action = client.act(OBSERVATIONS[1])
        np.testing.assert_allclose(action.value, right(action.release)[1], rtol=0, atol=1e-4)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_refused(url: str) -> None:
    """By the rights of the socket; and by the lane, where somebody has opened these."""
    path = Path(lane.path_of(url))
    path.parent.chmod(0o755)
    assert "PermissionError" in as_nobody(path)
    path.chmod(0o666)
    assert "for the user of the server alone" in as_nobody(path)
    path.chmod(0o600)
    path.parent.chmod(0o700)


def as_nobody(path: Path) -> str:
    """What another user gets from the socket; in a child of this process, whose Python is root's alone."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setuid(65534)
            with lane.connect(str(path), PATIENCE_S) as connection:
                os.write(writer, connection.recv(1 << 14))
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said.decode(errors="replace")


@pytest.mark.parametrize("listens", [True, False])
def test_a_second_server_does_not_take_the_socket(served: Embedded, url: str, tmp_path: Path, listens: bool) -> None:
    """It does not start, and names the first; also while that one's Triton is started again, and nobody listens."""
    path = Path(lane.path_of(url))
    aside = path.with_name("aside")
    if not listens:
        path.rename(aside)
    try:
        with embedded(tmp_path) as other:
            other.begin()
            assert other.process is not None
            assert other.process.wait(PATIENCE_S) == BusyError.exit_code
            other.has_said(f"policyctl serve of {served.root}")
        assert path.exists() is listens
    finally:
        if not listens:
            aside.rename(path)


def test_a_server_does_not_replace_a_file_by_its_socket(
    served: Embedded, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not start, and the file stays as it is."""
    path = Path(f"{lane.path_of(url)}.note")
    path.write_text("precious")
    monkeypatch.setenv("POLICYCTL_SERVER__LANE", f"local:{path}")
    with embedded(tmp_path) as other:
        other.begin()
        assert other.process is not None
        assert other.process.wait(PATIENCE_S) == UsageError.exit_code
        other.has_said("something else than a socket of this user is there")
    assert path.read_text() == "precious"


@pytest.mark.usefixtures("ends")
def test_a_model_that_hangs_does_not_shut_the_lane_for_others(served: Embedded, url: str) -> None:
    """Its own requests are refused in the end; clients that have gone leave neither memory nor sessions.

    On a busy machine the supervisor finds the hang first, and may start the server again.
    """
    if not stubs_of(served, "wide"):
        pytest.skip("the native backend has no process of a model that a test can stop")
    with PolicyClient("walker", url=url, deadline_s=PATIENCE_S) as other:
        # After some time Triton replaces a process that is stopped, so on a busy machine it may be too late.
        wait_for(lambda: is_refused_while_stopped(served, url, other))
    with PolicyClient("wide", url=url, deadline_s=PATIENCE_S) as client:
        wait_for(lambda: asks(client, np.zeros(WIDE, np.float32)))


def stubs_of(served: Embedded, model: str) -> list[psutil.Process]:
    """The processes of Triton's Python backend that serve `model`."""
    stubs: list[psutil.Process] = []
    if (pid := served.triton) is None:
        return stubs
    with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
        for each in psutil.Process(pid).children(recursive=True):
            if any(f"/{served.root.name}/{model}/" in part for part in each.cmdline()):
                stubs.append(each)
    return stubs


def is_refused_while_stopped(served: Embedded, url: str, other: PolicyClient) -> bool:
    """Stop the model, ask by many clients that go at once, and see whether one more is refused for that."""
    stubs, answer = stubs_of(served, "wide"), b""
    try:
        for stub in stubs:
            stub.suspend()
        for _ in range(MORE_THAN_SESSIONS):
            with raw(url) as connection:
                greeted(connection)
                connection.send(question(model="wide", columns=WIDE))
        action = other.act(OBSERVATIONS[0])
        np.testing.assert_allclose(action.value, right(action.release)[0], rtol=0, atol=1e-4)
        with raw(url) as connection:
            greeted(connection)
            connection.send(question(model="wide", columns=WIDE))
            answer = connection.recv(1 << 14)
    except (OSError, UnreachableError, NotServedError, psutil.NoSuchProcess):
        pass  # the server has just ended
    finally:
        for stub in stubs:
            with contextlib.suppress(psutil.NoSuchProcess):
                stub.resume()
    return answer != b"" and code_of(answer) == Code.MODEL_HANGS


class Loop:
    """The control loop of `examples/cpp` on a server, as `make cpp` compiles it."""

    def __init__(self, url: str, deadline_s: float) -> None:
        self._process = subprocess.Popen(
            [str(ROOT / "build/control_loop"), "walker", url, "0", str(int(deadline_s * 1e6))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(PATIENCE_S) == 0
        assert self._process.stdout is not None
        self._process.stdout.close()

    def act(self, observation: NDArray[np.float32]) -> tuple[str, NDArray[np.float32]]:
        """The release and the action; or ``hold`` with what is wrong, and nothing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(f"{number:.9g}" for number in observation) + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        if said.startswith("hold"):
            return said, np.empty(0, np.float32)
        release, *numbers = said.split()
        return release, np.array(numbers, np.float32)


@pytest.fixture(scope="module")
def compiled() -> None:
    """The program; a machine may have the library of the lane and no compiler."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("there is no C++ compiler")
    done = subprocess.run(["make", "cpp"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("compiled")
def test_a_control_loop_in_cpp_gets_the_actions_of_python(served: Embedded, url: str) -> None:
    """To the last bit, from each release while the alias moves; an observation of another shape is refused."""
    with PolicyClient("walker", url=url, deadline_s=PATIENCE_S) as python, Loop(url, PATIENCE_S) as loop:
        for moves in ((), ("promote", "walker", "1.1.0"), ("rollback", "walker")):
            if moves:
                served.run(*moves)
            for observation in OBSERVATIONS:
                action = python.act(observation)
                release, numbers = loop.act(observation)
                assert release == action.release
                np.testing.assert_array_equal(numbers, action.value)
        said, _ = loop.act(OBSERVATIONS[0][:3])
        assert "has 3 numbers of float32 here, the contract says 4 of float32" in said
        assert loop.act(OBSERVATIONS[0])[0] == "1.0.0"


@pytest.mark.usefixtures("compiled")
def test_a_control_loop_in_cpp_loses_nothing_while_the_alias_moves(served: Embedded, url: str) -> None:
    """It asks without pause: no failure, no wrong action, both releases answer."""
    actions = {release: right(release) for release in RELEASES}
    counts: Counter[str] = Counter()
    failures: list[str] = []
    stop = threading.Event()

    def ask(loop: Loop) -> None:
        for row in itertools.cycle(range(len(OBSERVATIONS))):
            if stop.is_set():
                return
            release, numbers = loop.act(OBSERVATIONS[row])
            if release not in actions or not np.allclose(numbers, actions[release][row], rtol=0, atol=1e-4):
                failures.append(release)
            counts[release] += 1

    with Loop(url, PATIENCE_S) as loop:
        thread = threading.Thread(target=ask, args=(loop,))
        thread.start()
        try:
            for moves in (("promote", "walker", "1.1.0"), ("rollback", "walker")):
                served.run(*moves)
                release = moves[-1] if moves[-1] in RELEASES else "1.0.0"
                before = counts[release]
                wait_for(lambda release=release, before=before: counts[release] > before or failures)
        finally:
            stop.set()
            thread.join(PATIENCE_S)
    assert failures == []
    assert set(counts) == set(RELEASES)


@pytest.mark.usefixtures("compiled", "ends")
def test_a_control_loop_in_cpp_finds_a_killed_server_again(served: Embedded, url: str) -> None:
    """Until the server is back each call ends with an error; a stopped one lets the deadline pass."""
    pid = served.endpoint["pid"]
    with Loop(url, PATIENCE_S) as loop:
        assert loop.act(OBSERVATIONS[0])[0] == "1.0.0"
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: served.triton not in {None, pid})
        wait_for(lambda: loop.act(OBSERVATIONS[0])[0] == "1.0.0")
    with Loop(url, deadline_s=0.2) as loop:
        wait_for(lambda: loop.act(OBSERVATIONS[0])[0] == "1.0.0")
        with stopped(served):
            assert loop.act(OBSERVATIONS[0])[0].startswith(f"hold {DEADLINE} ")


@pytest.mark.usefixtures("ends")
def test_a_killed_server_is_found_again(served: Embedded, url: str) -> None:
    """The client of before gets answers once the server is back; until then it gets errors, and no action."""
    pid = served.endpoint["pid"]
    with (
        PolicyClient("walker", url=url, deadline_s=PATIENCE_S) as client,
        PolicyClient("walker", url=url, deadline_s=PATIENCE_S) as idle,
    ):
        client.act(OBSERVATIONS[0])
        idle.act(OBSERVATIONS[0])
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: served.triton not in {None, pid})
        wait_for(lambda: asks(client))
        idle.act(OBSERVATIONS[0])  # its first call since then


@pytest.mark.usefixtures("ends")
def test_a_stopped_server_leaves_no_socket(served: Embedded, url: str) -> None:
    """After SIGTERM nothing is at its path; the next start serves there again."""
    assert served.stop() == 0
    assert not Path(lane.path_of(url)).exists()
    with PolicyClient("walker", url=url) as client, pytest.raises(UnreachableError):
        client.act(OBSERVATIONS[0])
    served.start()
