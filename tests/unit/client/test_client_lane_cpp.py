"""The lane's client in C++: its example program under sanitizers, against a server that answers what a test says."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_lane import PATIENCE_S, Lane, Reply, action_at, answer, lanes

from policyctl.client import local_messages

ROOT = Path(__file__).resolve().parents[3]
HEADER = ROOT / "examples/cpp/policyctl_lane.hpp"
SERVER = ROOT / "backend_openvino/src/lane_message.h"
CONTRACT = 4
OF_THE_LANE, OF_THE_CLIENT = 100, 1000
DEADLINE, UNREACHABLE, UNREADABLE, USAGE, CHANGED, GONE = range(1000, 1006)
LONG_S = int(PATIENCE_S * 1e6)
ACTION = "2 4"


def codes(path: Path) -> dict[str, int]:
    """The codes of a header, by Python's names."""
    block = re.search(r"enum (?:class )?Code[^{]*\{(.*?)\};", path.read_text(), re.DOTALL)
    assert block is not None
    entries = re.findall(r"\bk(\w+) = (\d+)", block[1])
    return {re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper(): int(code) for name, code in entries}


def test_all_sides_have_the_same_codes() -> None:
    """The server has those of the lane, the client in C++ all that an answer may have, and some after them."""
    of_answers = {code.name: code.value for code in local_messages.Code if code}
    assert codes(SERVER) == {name: code for name, code in of_answers.items() if code >= OF_THE_LANE}
    assert {name: code for name, code in codes(HEADER).items() if code < OF_THE_CLIENT} == of_answers


@pytest.mark.parametrize("path", [SERVER, HEADER], ids=["server", "client"])
def test_all_sides_speak_the_same_version(path: Path) -> None:
    """And begin alike."""
    constants = dict(re.findall(r"\b(kMagic|kVersion) = (\w+)", path.read_text()))
    assert {name: int(value, 0) for name, value in constants.items()} == {
        "kMagic": local_messages.MAGIC,
        "kVersion": local_messages.VERSION,
    }


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled with sanitizers; what they see ends it with an exit code that no test allows."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    program = tmp_path_factory.mktemp("cpp") / "control_loop"
    warnings = ("-Wall", "-Wextra", "-Wshadow", "-Wpedantic", "-Werror")
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    source = ROOT / "examples/cpp/control_loop.cpp"
    done = subprocess.run(
        [compiler, "-std=c++17", "-O1", "-g", *warnings, *sanitizers, str(source), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in done.stderr and "san" in done.stderr:
        pytest.skip("this compiler has no sanitizers")
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], Lane]]:
    """Starts a server."""
    with lanes() as start:
        yield start


Loop = Callable[..., contextlib.AbstractContextManager[Callable[[str], str]]]


@pytest.fixture
def loop(program: Path) -> Loop:
    """Runs the program on a server; what it gives answers one observation."""

    @contextlib.contextmanager
    def run(url: str, deadline_us: int = LONG_S, **environment: str) -> Iterator[Callable[[str], str]]:
        with subprocess.Popen(
            [str(program), "walker", url, "0", str(deadline_us)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            stdin, stdout = process.stdin, process.stdout

            def ask(line: str) -> str:
                stdin.write(f"{line}\n")
                stdin.flush()
                return stdout.readline().removesuffix("\n")

            yield ask
            stdin.close()
        assert process.returncode == 0

    return run


def refused(program: Path, url: str) -> tuple[int, str]:
    """The code and the text with which the program does not start."""
    done = subprocess.run(
        [str(program), "walker", url, "0", "1"], input="", capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    code, _, problem = done.stderr.removeprefix("error ").partition(": ")
    return int(code), problem


def tensor(name: str, *shape: int) -> bytes:
    head = bytes((len(name),)) + name.encode() + struct.pack("<BBQQ", 11, len(shape), 0, 0)
    return head + struct.pack(f"<{len(shape)}q", *shape)


def contract(
    release: str = "1.0.0",
    digest: str = "one",
    inputs: int = 4,
    outputs: tuple[str, ...] = ("action",),
    slot: int = 3,
) -> bytes:
    texts = b"".join(local_messages.text(value) for value in (release, digest))
    tensors = tensor("observation", inputs) + b"".join(tensor(name, 2) for name in outputs)
    return answer(slot=slot, request_id=b"", rest=texts + struct.pack("<HH", 1, len(outputs)) + tensors)


def kind_of(request: bytes) -> int:
    return int.from_bytes(request[:4], "little")


def answered(request: bytes, rest: bytes, code: int = 0, slot: int = 3) -> bytes:
    return answer(code, slot=slot, request_id=request[33:49], rest=rest)


def doubled(request: bytes, memory: memoryview) -> bytes:
    """The contract; or the first two numbers, doubled."""
    if kind_of(request) == CONTRACT:
        return contract()
    memory[4096:4104] = (np.frombuffer(memory[:8], np.float32) * 2).tobytes()
    return answered(request, action_at(4096))


def saying(rest: bytes, code: int = 0) -> Reply:
    """The contract; or always the same."""
    return lambda request, memory: contract() if kind_of(request) == CONTRACT else answered(request, rest, code)


def code_of(line: str) -> int:
    """Of an error; 0 of an action."""
    words = line.split()
    return int(words[1]) if words[0] == "hold" else 0


def test_an_action_comes_with_its_release(serve: Callable[[Reply], Lane], loop: Loop) -> None:
    """Each line is one request, with its time and its id."""
    server = serve(doubled)
    with loop(server.url) as ask:
        assert [ask("1 2 3 4"), ask("5 6 7 8")] == ["1.0.0 2 4", "1.0.0 10 12"]
    _, *requests = server.requests
    assert len({request[33:49] for request in requests}) == len(requests) == 2
    assert all(0 < struct.unpack_from("<IHHQ", request)[3] <= LONG_S for request in requests)


def test_what_does_not_fit_the_contract_is_not_sent(serve: Callable[[Reply], Lane], loop: Loop) -> None:
    """The error says what the contract says; the next observation is answered."""
    server = serve(doubled)
    with loop(server.url) as ask:
        for line in ("1 2 3", "1 2 3 4 5", ""):
            said = ask(line)
            assert code_of(said) == USAGE
            assert "the contract says 4 of float32" in said
        assert ask("1 2 3 4") == f"1.0.0 {ACTION}"
    assert len(server.requests) == 2


def test_the_usual_lane_is_that_of_python(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> None:
    """By the same variable, in the same folder."""
    with lanes() as start:
        server = start(doubled)
        usual = Path(server.url.removeprefix("local:")).parent / f"policyctl-{os.getuid()}" / "lane.sock"
        usual.parent.mkdir()
        usual.symlink_to(server.url.removeprefix("local:"))
        with loop("local:", XDG_RUNTIME_DIR=str(usual.parent.parent)) as ask:
            assert ask("1 2 3 4") == f"1.0.0 {ACTION}"


def test_a_late_answer_is_not_that_to_the_next_observation(serve: Callable[[Reply], Lane], loop: Loop) -> None:
    """A missed deadline ends the session; the next observation has another one."""
    state = SimpleNamespace(silent=True)

    def reply(request: bytes, memory: memoryview) -> bytes | None:
        return None if state.silent and kind_of(request) != CONTRACT else doubled(request, memory)

    server = serve(reply)
    with loop(server.url, deadline_us=200_000) as ask:
        assert code_of(ask("1 2 3 4")) == DEADLINE
        assert server.ended.acquire(timeout=PATIENCE_S)
        state.silent = False
        while code_of(said := ask("5 6 7 8")) == DEADLINE:  # the machine is busy
            pass
        assert said == "1.0.0 10 12"


def test_a_session_that_ended_meanwhile_is_replaced(serve: Callable[[Reply], Lane], loop: Loop) -> None:
    """The request could not be sent, so it is sent once in another session."""
    server = serve(doubled)
    with loop(server.url) as ask:
        ask("1 2 3 4")
        server.end_sessions()
        assert ask("1 2 3 4") == f"1.0.0 {ACTION}"
    assert [kind_of(request) for request in server.requests] == [CONTRACT, 1, CONTRACT, 1]


def test_a_session_that_takes_longer_than_a_deadline_is_opened_while_the_machine_holds(
    serve: Callable[[Reply], Lane], loop: Loop
) -> None:
    """No `ask` could open it within its deadline, however often it begins."""
    server = serve(doubled)
    with loop(server.url, deadline_us=1_000_000) as ask:
        assert ask("1 2 3 4") == f"1.0.0 {ACTION}"
        server.before_greeting = lambda: time.sleep(1.5)
        server.end_sessions()
        assert code_of(ask("1 2 3 4")) == DEADLINE
        said = (ask("1 2 3 4") for _ in range(10))
        assert f"1.0.0 {ACTION}" in said


def test_what_was_sent_is_not_sent_again(serve: Callable[[Reply], Lane], loop: Loop) -> None:
    """A server that ends the session after it has the request may have begun it."""

    def leave(request: bytes, memory: memoryview) -> bytes:
        if len(server.requests) == 2:
            raise ConnectionError
        return doubled(request, memory)

    server = serve(leave)
    with loop(server.url) as ask:
        said = ask("1 2 3 4")
        assert (code_of(said), "ended the session" in said) == (UNREACHABLE, True)
        assert len(server.requests) == 2
        assert ask("1 2 3 4") == f"1.0.0 {ACTION}"


@pytest.mark.parametrize(("code", "shown"), [(4, 4), (5, 5), (101, 101), (105, 105), (99, 1), (1000, 1), (1 << 31, 1)])
def test_an_error_of_the_server_has_its_code_and_its_words(
    serve: Callable[[Reply], Lane], loop: Loop, code: int, shown: int
) -> None:
    """A code that the client does not know is an ordinary error; the session goes on."""
    server = serve(saying(b"too\nb\xffd", code))
    with loop(server.url) as ask:
        assert [ask("1 2 3 4"), ask("1 2 3 4")] == [f"hold {shown} too?b?d"] * 2
    assert len(server.sizes) == 1


OTHER_OUTPUT = action_at(4096).replace(b"action", b"extras")
IMPOSSIBLE = {
    "nothing": b"",
    "a name that no log can show": action_at(4096).replace(b"action", b"act\non"),
    "cut": action_at(4096)[:-1],
    "longer than it says": action_at(4096) + b"x",
    "behind the end": action_at((1 << 16) - 4),
    "an offset that wraps around": action_at((1 << 64) - 4),
    "more bytes than the shape": action_at(4096, size=12),
    "bytes that wrap around": action_at(4096, size=(1 << 64) - 1),
    "another type": action_at(4096, number=10),
    "strings": action_at(4096, number=13),
    "an unknown type": action_at(4096, number=200),
    "two rows": action_at(4096, shape=(2, 1)),
    "another shape": action_at(4096, size=12, shape=(1, 3)),
    "a dimension below 0": action_at(4096, shape=(1, -2)),
    "a shape that wraps around": action_at(4096, shape=(1, (1 << 62) + 2, 2)),
    "no dimensions": action_at(4096, shape=()),
    "another output": OTHER_OUTPUT,
    "two outputs": action_at(4096) + OTHER_OUTPUT[6:],
}


@pytest.mark.parametrize("rest", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_answer_that_cannot_be_read_is_no_action(serve: Callable[[Reply], Lane], loop: Loop, rest: bytes) -> None:
    """Nothing is read past the memory or the message; each time it is the same error."""
    with loop(serve(saying(rest)).url) as ask:
        assert [code_of(ask("1 2 3 4")) for _ in range(2)] == [UNREADABLE] * 2


def test_an_answer_to_another_request_is_no_action(serve: Callable[[Reply], Lane], loop: Loop) -> None:
    """Its id shows it."""

    def reply(request: bytes, memory: memoryview) -> bytes:
        return contract() if kind_of(request) == CONTRACT else answer(request_id=b"0" * 16, rest=action_at(4096))

    with loop(serve(reply).url) as ask:
        assert code_of(ask("1 2 3 4")) == UNREADABLE


def test_whatever_bytes_a_server_sends_the_client_lives(serve: Callable[[Reply], Lane], loop: Loop) -> None:
    """A thousand answers and contracts with some bytes changed: each becomes an action or an error."""
    chosen = random.Random(7)

    def reply(request: bytes, memory: memoryview) -> bytes:
        message = bytearray(doubled(request, memory))
        if len(server.requests) == 1:
            return bytes(message)
        for _ in range(chosen.randrange(3)):
            message[chosen.randrange(len(message))] = chosen.choice((0, 1, 127, 255, chosen.randrange(256)))
        if chosen.random() < 0.1:
            message = message[: chosen.randrange(1, len(message))]
        return bytes(message)

    server = serve(reply)
    with loop(server.url) as ask:
        seen = {code_of(ask("1 2 3 4")) for _ in range(1000)}
    assert {0, UNREADABLE} <= seen


@pytest.mark.parametrize(
    "said",
    [
        b"x",
        answer(),
        contract(release=""),
        contract()[:-1],
        contract() + b"x",
        contract(inputs=0),
        contract(inputs=-4),
        contract(inputs=1 << 40),
        contract(outputs=("action",) * 65),
    ],
)
def test_a_contract_that_cannot_be_read_ends_the_start(
    serve: Callable[[Reply], Lane], program: Path, said: bytes
) -> None:
    """Whatever it says, no memory is laid out by it."""
    code, problem = refused(program, serve(lambda request, memory: said).url)
    assert (code, "cannot be read" in problem) == (UNREADABLE, True)


def test_memory_that_a_server_can_cut_short_is_not_used(serve: Callable[[Reply], Lane], program: Path) -> None:
    """It is shorter than it should be, or its size is not sealed."""
    for missing_bytes, seals in ((4096, None), (0, 0)):
        server = serve(doubled)
        server.missing_bytes = missing_bytes
        server.seals = server.seals if seals is None else seals
        code, problem = refused(program, server.url)
        assert (code, "shorter than it should be" in problem) == (UNREADABLE, True)


def test_without_a_server_there_is_none_to_reach(program: Path, tmp_path: Path) -> None:
    """The error names the path; a url that names no socket is the caller's mistake."""
    code, problem = refused(program, f"local:/tmp/no-lane-{os.getpid()}")
    assert (code, "/tmp/no-lane-" in problem) == (UNREACHABLE, True)
    for url in ("127.0.0.1:8001", "local:relative", f"local:/{'x' * 200}"):
        assert refused(program, url)[0] == USAGE


def moving(contracts: list[bytes | None], answers: list[tuple[int, str]]) -> Reply:
    """The contracts in turn (None: the slot is gone), and slot and release of the answers, the last one for ever."""
    contracts, answers = contracts[::-1], answers[::-1]

    def reply(request: bytes, memory: memoryview) -> bytes:
        if kind_of(request) == CONTRACT:
            said = contracts.pop()
            return answer(3, request_id=b"", rest=b"unknown model") if said is None else said
        slot, release = answers.pop() if len(answers) > 1 else answers[0]
        memory[4096:4104] = np.array([2, 4], np.float32).tobytes()
        return answered(request, action_at(4096).replace(b"\x051.0.0", local_messages.text(release)), slot=slot)

    return reply


OTHER = {"digest": "two"}


@pytest.mark.parametrize("says_release", [True, False])
@pytest.mark.parametrize(
    ("release", "fresh", "code"),
    [
        ("1.1.0", {}, 0),
        ("2.0.0", {}, 0),
        ("1.1.0", OTHER, 0),
        ("1.1.0", OTHER | {"outputs": ("value", "action")}, 0),
        ("1.1.0", OTHER | {"outputs": ("value",)}, CHANGED),
        ("1.1.0", OTHER | {"inputs": 5}, CHANGED),
        ("2.0.0", OTHER, CHANGED),
        ("1.1.0-rc.1", OTHER, CHANGED),
    ],
)
def test_an_action_is_given_only_by_a_contract_that_agrees(
    serve: Callable[[Reply], Lane], loop: Loop, release: str, fresh: dict[str, Any], code: int, says_release: bool
) -> None:
    """The contract of the slot that answered is read before its action, whether or not the answer names its release."""
    answers = [(slot, name if says_release else "") for slot, name in ((3, "1.0.0"), (4, release))]
    server = serve(moving([contract(), contract(release, slot=4, **fresh)], answers))
    with loop(server.url) as ask:
        assert ask("1 2 3 4") == f"1.0.0 {ACTION}"
        said = ask("1 2 3 4")
    assert code_of(said) == code
    assert code or said == f"{release} {ACTION}"
    assert [kind_of(request) for request in server.requests] == [CONTRACT, 1, 1, CONTRACT]


def test_a_release_that_is_gone_again_is_asked_past(serve: Callable[[Reply], Lane], loop: Loop) -> None:
    """Its answer is thrown away and the question asked again, three times in all."""
    fresh = contract("1.1.0", slot=4)
    with loop(serve(moving([contract(), None, fresh], [(4, "1.1.0")])).url) as ask:
        assert ask("1 2 3 4") == f"1.1.0 {ACTION}"
    for contracts, answered_by in (
        ([contract(), None, None, None], (4, "1.1.0")),
        ([contract()] * 4, (4, "1.1.0")),
        ([contract()], (3, "1.1.0")),
    ):
        server = serve(moving(contracts, [answered_by]))
        with loop(server.url) as ask:
            assert code_of(ask("1 2 3 4")) == GONE
        assert [kind_of(request) for request in server.requests].count(1) == 3
