"""How a server starts, ends and is kept in, on the real Triton."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from embedded import PATIENCE_S, embedded, runs, wait_for
from serving_fixtures import KEY, MODEL, Answer, Server, observations, publish, serving

from faults import SPIN_US, put_into
from policyctl.domain.artifacts import Format
from policyctl.errors import ServerError
from policyctl.serving import shared_memory
from policyctl.serving.backend_directory import assemble
from policyctl.serving.locate import locate
from policyctl.serving.memory import SERVER, usage
from policyctl.serving.ports import free_ports, is_free
from policyctl.serving.process import ServerOptions, TritonProcess

pytestmark = pytest.mark.server

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that serves one release, for tests that leave it as it is."""
    root = tmp_path_factory.mktemp("lifecycle")
    with serving(root / "repository", root / "backends") as running:
        running.serve(MODEL, Format.ONNX)
        yield running


@contextlib.contextmanager
def served(root: Path, **options: Any) -> Iterator[Server]:
    """A server that serves one release, for a test that ends it."""
    with serving(root / "repository", root / "backends", **options) as running:
        running.serve(MODEL, Format.ONNX)
        yield running


def processes_of(server: Server) -> list[psutil.Process]:
    leader = psutil.Process(server.process.pid)
    return [leader, *leader.children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if runs(process)]


def regions(prefix: str) -> list[str]:
    return [path.name for path in MEMORY.iterdir() if path.name.startswith(prefix)]


def stop_and_measure(server: Server, **options: Any) -> float:
    """Seconds that a stop takes; it has to leave no process and no memory."""
    processes, prefix = processes_of(server), server.process.shm_prefix
    assert len(processes) > 1
    assert len(regions(prefix)) > 1
    started = time.monotonic()
    server.process.stop(**options)
    took = time.monotonic() - started
    assert alive(processes) == []
    assert regions(prefix) == []
    return took


def test_a_stop_leaves_nothing(tmp_path: Path) -> None:
    """An orderly stop ends server and stubs, and clears their shared memory, long before Triton's 30 s."""
    with served(tmp_path) as server:
        assert stop_and_measure(server) < 25
        assert not server.process.is_running()
        server.process.stop()  # a second one has nothing to do


def test_a_stop_answers_what_is_in_flight(tmp_path: Path) -> None:
    """A request that is being computed is answered, though the server is ended as soon as nothing is in flight."""
    with serving(tmp_path / "repository", tmp_path / "backends") as server:
        for folder in (tmp_path / "backends").iterdir():
            put_into(folder)
        server.serve(MODEL, Format.ONNX, parameters={SPIN_US: "3000000"})
        stub = psutil.Process(usage(server.process.pid)[f"{MODEL}_0_0"].pid)
        idle_s = stub.cpu_times().user
        answers: list[Answer] = []
        asking = threading.Thread(target=lambda: answers.append(server.infer(MODEL, observations(1))))
        asking.start()
        wait_for(lambda: stub.cpu_times().user > idle_s + 0.1)
        assert asking.is_alive()
        server.process.stop()
        asking.join()
        assert [answer.status for answer in answers] == [200]
        wait_for(lambda: server.said("All models are stopped, unloading models"))


def test_a_stop_with_a_dead_stub_is_over_in_time(tmp_path: Path) -> None:
    """A stub that is gone does not hold the stop up for Triton's 30 s."""
    with served(tmp_path, exit_timeout_s=2) as server:
        os.kill(usage(server.process.pid)[f"{MODEL}_0_0"].pid, signal.SIGKILL)
        time.sleep(0.2)
        prefix = server.process.shm_prefix
        started = time.monotonic()
        server.process.stop()
        assert time.monotonic() - started < 25
        assert regions(prefix) == []


def test_a_hung_server_is_killed(tmp_path: Path) -> None:
    """A server that hears no signal is ended all the same, and its stubs with it."""
    with served(tmp_path) as server:
        os.kill(server.process.pid, signal.SIGSTOP)
        assert stop_and_measure(server, timeout_s=3.0) < 100


def test_a_dead_stub_shows_in_an_inference_and_a_reload_mends_it(tmp_path: Path) -> None:
    """Model and server say ready over a dead stub; asking tells, and unload and load bring it back."""
    with served(tmp_path, exit_timeout_s=1) as server:
        os.kill(usage(server.process.pid)[f"{MODEL}_0_0"].pid, signal.SIGKILL)
        assert server.infer(MODEL, observations(1)).status == 500
        assert server.call("GET", f"/v2/models/{MODEL}/ready")[0] == 200, "ready would now do as a probe"
        server.unload(MODEL)
        assert server.load(MODEL) == ""
        assert server.infer(MODEL, observations(1)).status == 200


CHILD = """
import sys
sys.path[:0] = sys.argv[1].split(":")
from pathlib import Path
from serving_fixtures import Format, MODEL, serving
root = Path(sys.argv[2])
with serving(root / "repository", root / "backends") as server:
    assert server.load(MODEL) == ""
    print(server.process.pid, server.port, server.process.shm_prefix, flush=True)
    sys.stdin.read()
"""


def watched_by(process: psutil.Process) -> set[int]:
    """The processes whose end this one waits for: it has a descriptor of each."""
    found = Path(f"/proc/{process.pid}/fdinfo").glob("*")
    lines = (line.split() for each in found for line in each.read_text().splitlines())
    return {int(words[1]) for words in lines if words[0] == "Pid:"}


def test_a_killed_parent_leaves_no_server(tmp_path: Path) -> None:
    """SIGKILL of who started the server ends server and stubs; the next start clears their shared memory."""
    publish(tmp_path / "repository", MODEL, Format.ONNX)
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CHILD, ":".join(sys.path), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None and child.stdout is not None
    with child.stdin, child.stdout:
        pid, port, prefix = child.stdout.readline().split()
        leader = psutil.Process(int(pid))
        processes = [leader, *leader.children(recursive=True)]
        assert len(processes) == 2
        assert watched_by(processes[1]) == {leader.pid}
        child.kill()
        child.wait()
    wait_for(lambda: alive(processes) == [])
    assert is_free(int(port), host="127.0.0.1")
    assert regions(prefix), "nothing was left behind, so clearing is not tested"
    with serving(tmp_path / "repository", tmp_path / "backends"):
        assert regions(prefix) == []


def test_the_memory_of_a_live_server_is_left_alone(server: Server) -> None:
    """Clearing after crashed servers of the same repository does not touch one that runs."""
    before = regions(server.process.shm_prefix)
    assert shared_memory.cleanup_stale(server.repository) == ()
    assert regions(server.process.shm_prefix) == before
    assert server.infer(MODEL, observations(1)).status == 200


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """The kernel watches the starting thread; ours lives as long as the server, whoever called start."""
    with serving(tmp_path / "other", tmp_path / "backends") as first:
        options = first.process.options
    process = TritonProcess(options)
    thread = threading.Thread(target=process.start)
    thread.start()
    thread.join()
    try:
        process.wait_live(PATIENCE_S)
        time.sleep(0.3)
        assert process.is_running()
    finally:
        process.stop()


def repository_index(server: Server, key: str) -> int:
    return server.call("POST", "/v2/repository/index", b"{}", key=key)[0]


def test_over_http_the_repository_needs_the_key(server: Server) -> None:
    """Without the key nobody can list, load or unload, or change logging and tracing; inference is open."""
    assert repository_index(server, KEY) == 200
    for key in ("", "wrong-key-000"):
        assert repository_index(server, key) == 403
        for path in (f"/v2/repository/models/{MODEL}/unload", "/v2/logging", "/v2/trace/setting"):
            assert server.call("POST", path, b"{}", key=key)[0] == 403
        assert server.call("GET", f"/v2/models/{MODEL}/ready", key=key)[0] == 200
    assert server.infer(MODEL, observations(1)).status == 200


def test_over_grpc_the_repository_needs_the_key(server: Server) -> None:
    """The same over gRPC, where the header has Triton's prefix."""
    import tritonclient.grpc as grpc
    from tritonclient.utils import InferenceServerException

    client = grpc.InferenceServerClient(f"127.0.0.1:{server.process.options.grpc_port}")
    with contextlib.closing(client):
        for headers in (None, {"triton-grpc-protocol-policyctl-key": "wrong-key-000"}):
            with pytest.raises(InferenceServerException, match="protocol is restricted"):
                client.unload_model(MODEL, headers=headers)
        index = client.get_model_repository_index(headers={"triton-grpc-protocol-policyctl-key": KEY})
        assert [model.name for model in index.models] == [MODEL]


def test_the_key_does_not_show_on_the_command_line(server: Server) -> None:
    """Other users of the machine, who can list its processes, do not learn the key, nor does the log."""
    assert server.process.key_hidden
    for process in processes_of(server):
        assert KEY not in " ".join(process.cmdline())
    assert KEY not in "\n".join(line.message for line in server.lines)


def test_a_server_listens_on_loopback_alone(server: Server) -> None:
    """All three ports are bound to 127.0.0.1, so that nobody outside reaches an open inference API."""
    connections = psutil.Process(server.process.pid).net_connections("inet")
    # gRPC binds the same IPv4 address by an IPv6 socket.
    listening = {
        (c.laddr.ip.removeprefix("::ffff:"), c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", port) for port in server.process.options.ports}


def test_http_can_be_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing listens there, gRPC serves, and the server's announcement says so."""
    monkeypatch.setenv("POLICYCTL_SERVER__HTTP", "off")
    with embedded(tmp_path) as quiet:
        quiet.publish("1.0.0", 1)
        quiet.start()
        quiet.run("promote", "walker", "1.0.0")
        assert quiet.answered_by() == "1.0.0"
        assert quiet.endpoint["http"] == ""
        quiet.has_said("HTTP off, gRPC 127.0.0.1:")
        listeners = psutil.Process(quiet.endpoint["pid"]).net_connections("tcp")
        ports = {each.laddr.port for each in listeners if each.status == psutil.CONN_LISTEN}
        assert ports == {int(quiet.endpoint[name].rpartition(":")[2]) for name in ("grpc", "metrics")}
        refused = quiet.run("bench", "walker", "--protocol", "http", "--time-limit", "10", check=False)
        assert "POLICYCTL_SERVER__HTTP" in refused.stderr


def test_memory_is_told_per_stub(server: Server) -> None:
    """Resident memory is known of the server and of each model instance."""
    uses = usage(server.process.pid)
    assert list(uses) == [SERVER, f"{MODEL}_0_0"]
    assert all(use.rss_bytes > 10_000_000 for use in uses.values())


def test_a_taken_port_is_refused_with_its_holder(server: Server, tmp_path: Path) -> None:
    """A start on a port in use fails at once and says who has it."""
    options = ServerOptions(
        repository=tmp_path, backend_directory=tmp_path, http_port=server.port, grpc_port=free_ports(1)[0]
    )
    with pytest.raises(ServerError, match=rf"port {server.port} .* tritonserver \(pid {server.process.pid}\)"):
        TritonProcess(options).start()


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    """Waiting for a server that cannot start takes no time, and its own words are in the error."""
    failing = serving(tmp_path / "repository", tmp_path / "backends", extra_args=("--no-such-option",))
    with pytest.raises(ServerError, match="before it answered") as caught, failing:
        pass
    assert "no-such-option" in caught.value.problem
    assert regions(shared_memory.prefix_base(tmp_path / "repository")) == []


def test_another_server_s_answer_is_not_taken_for_ours(tmp_path: Path) -> None:
    """A server is live only when the process that was started listens itself."""
    http_port, grpc_port, metrics_port = free_ports(3)
    (tmp_path / "repository").mkdir()
    process = TritonProcess(
        ServerOptions(
            repository=tmp_path / "repository",
            backend_directory=assemble(locate(), tmp_path / "backends"),
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            # It listens for gRPC only, so that whoever answers over HTTP is somebody else.
            extra_args=("--allow-http=false",),
        )
    )
    with impostor(http_port):
        process._refuse_taken_ports = lambda: None  # type: ignore[method-assign] - it came a moment later
        process.start()
        try:
            with pytest.raises(ServerError, match="did not answer"):
                process.wait_live(timeout_s=1.0)
        finally:
            process.stop(timeout_s=1.0)


@contextlib.contextmanager
def impostor(port: int) -> Iterator[None]:
    """Somebody who answers every request with 200."""
    listener = socket.create_server(("127.0.0.1", port))
    listener.settimeout(0.1)
    done = threading.Event()

    def answer() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError), contextlib.closing(listener.accept()[0]) as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        check = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        check.request("GET", "/v2/health/live")
        assert check.getresponse().status == 200
        check.close()
        yield
    finally:
        done.set()
        thread.join()
        listener.close()
