"""The parts of starting a server that need no server: log lines, ports, command line, launching."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from policyctl.errors import ServerError, UsageError
from policyctl.serving import launch, logs, memory, ports
from policyctl.serving.command import ServerOptions, Spans, command, environment, hide_argument
from policyctl.serving.locate import TritonInstall
from policyctl.serving.logs import Level, LogLine
from policyctl.serving.process import TritonProcess

INSTALL = TritonInstall(
    version="0.7.0",
    tritonserver=Path("/w/bin/tritonserver"),
    libraries=Path("/w/libs"),
    python_backend=Path("/w/python"),
    stub=Path("/w/stub"),
    caches=Path("/w/caches"),
    libpython=Path("/py/lib"),
    python_bin=Path("/py/bin"),
)
KEY = "a-key-of-some-length"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            'I1123 08:17:11.219482 2370 model_lifecycle.cc:472] "loading: m:1"',
            LogLine(Level.INFO, "model_lifecycle.cc:472", "loading: m:1"),
        ),
        (
            'E1123 08:18:14.481762 2370 main.cc:535] "failed to stop \\"x\\""',
            LogLine(Level.ERROR, "main.cc:535", 'failed to stop "x"'),
        ),
        ("W1123 08:18:14.481762 2370 a.cc:5] plain", LogLine(Level.WARNING, "a.cc:5", "plain")),
        ("V1123 08:18:14.481762 2370 a.cc:5] ", LogLine(Level.VERBOSE, "a.cc:5", "")),
        ("+-----+", LogLine(Level.INFO, "", "+-----+")),
        ("error: creating server", LogLine(Level.ERROR, "", "error: creating server")),
        (
            "/opt/tritonserver: unrecognized option '--x'",
            LogLine(Level.ERROR, "", "/opt/tritonserver: unrecognized option '--x'"),
        ),
        (
            'W1123 08:17:09.381593 2370 metrics.cc:798] "DCGM unable to start: DCGM initialization error"',
            LogLine(Level.INFO, "metrics.cc:798", "DCGM unable to start: DCGM initialization error"),
        ),
    ],
)
def test_a_log_line_is_read(text: str, line: LogLine) -> None:
    """Level, source and message; what Triton says on every machine without a GPU alarms nobody."""
    assert logs.parse(text) == line


def test_a_port_in_use_is_not_free_and_has_a_holder() -> None:
    """A listening socket of this very process is found, by port and by process id."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        assert not ports.is_free(port, host="127.0.0.1")
        assert f"(pid {os.getpid()})" in ports.holder(port)
        assert ports.listens(os.getpid(), port)
        assert not ports.listens(os.getppid(), port)
    assert ports.is_free(port, host="127.0.0.1")
    assert ports.holder(port) == ""


def test_free_ports_are_all_different() -> None:
    """One is not handed out twice in one call."""
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    assert all(ports.is_free(port, host="127.0.0.1") for port in found)


def test_the_kernel_gives_a_free_port_to_nobody_else_before_the_server_takes_it() -> None:
    """A process that asks for any port gets another one; a server that sets SO_REUSEADDR gets this one."""
    (port,) = ports.free_ports(1)
    with socket.socket() as chance, pytest.raises(OSError, match="in use"):
        chance.bind(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)):
        assert not ports.is_free(port, host="127.0.0.1")


def test_the_command_line_promises_what_serving_relies_on() -> None:
    """Loading is explicit, readiness is lenient, and all three ports are on the given address."""
    options = ServerOptions(repository=Path("/r"), backend_directory=Path("/b"), api_key=KEY)
    arguments = command(options, INSTALL, shm_prefix="p-")
    assert arguments[0] == "/w/bin/tritonserver"
    assert {
        "--model-control-mode=explicit",
        "--strict-readiness=false",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
        "--backend-config=python,shm-region-prefix-name=p-",
        f"--http-restricted-api=model-repository,logging,trace:policyctl-key={KEY}",
        f"--grpc-restricted-protocol=model-repository,logging,trace:policyctl-key={KEY}",
    } <= set(arguments)


def test_without_a_key_nothing_is_restricted() -> None:
    """An empty key does not become a rule that the empty header satisfies."""
    arguments = command(ServerOptions(Path("/r"), Path("/b")), INSTALL, shm_prefix="p-")
    assert not [argument for argument in arguments if "restricted" in argument]


def test_tracing_is_possible_where_a_file_is_named_and_is_off_at_the_start() -> None:
    """Triton takes the file at the start only; which requests are traced is said at run time."""
    arguments = command(ServerOptions(Path("/r"), Path("/b"), trace_file=Path("/t/trace")), INSTALL, shm_prefix="p-")
    assert [a for a in arguments if "trace" in a] == ["--trace-config=triton,file=/t/trace"]
    without = command(ServerOptions(Path("/r"), Path("/b")), INSTALL, shm_prefix="p-")
    assert not [a for a in without if "trace" in a]


def test_spans_take_the_place_of_the_trace_file() -> None:
    """Triton traces in one way at a time, and `count` would otherwise end it."""
    spans = Spans("http://127.0.0.1:4318/v1/traces", 100, "robots")
    options = ServerOptions(Path("/r"), Path("/b"), trace_file=Path("/t/trace"), spans=spans)
    assert [a.partition("=")[2] for a in command(options, INSTALL, shm_prefix="p-") if "trace" in a] == [
        "mode=opentelemetry",
        "opentelemetry,url=http://127.0.0.1:4318/v1/traces",
        "opentelemetry,resource=service.name=robots",
        "level=TIMESTAMPS",
        "rate=100",
        "count=-1",
    ]


def test_what_the_hardware_advised_reaches_the_server_and_nothing_else_does() -> None:
    """Pools are arguments where they are given, and Triton's own where not."""
    given = ServerOptions(Path("/r"), Path("/b"), pinned_pool_bytes=0, cuda_pools_bytes=(64,))
    wanted = {"--pinned-memory-pool-byte-size=0", "--cuda-memory-pool-byte-size=0:64"}
    assert wanted <= set(command(given, INSTALL, shm_prefix="p-"))
    without = command(ServerOptions(Path("/r"), Path("/b")), INSTALL, shm_prefix="p-")
    assert not [a for a in without if "pool" in a]


@pytest.mark.parametrize("key", ["short", "has space in it", "has,comma-in-it", "equals=in-the-key", "x" * 257])
def test_a_key_that_triton_would_misread_is_refused(key: str) -> None:
    """The refusal does not repeat the key, and neither do the options when they are printed."""
    with pytest.raises(UsageError) as caught:
        ServerOptions(Path("/r"), Path("/b"), api_key=key)
    assert key not in caught.value.problem
    assert KEY not in repr(ServerOptions(Path("/r"), Path("/b"), api_key=KEY))


def test_the_environment_puts_our_own_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries and python3 of this installation come first, without an empty entry; our settings stay here."""
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setenv("POLICYCTL_SERVER__API_KEY", KEY)
    variables = environment(INSTALL)
    assert variables["PATH"] == "/py/bin:/usr/bin"
    folders = variables["LD_LIBRARY_PATH"].split(":")
    assert folders[:2] == ["/w/libs", "/py/lib"]
    assert "" not in folders
    assert KEY not in variables.values()


def test_an_argument_is_hidden_from_other_users() -> None:
    """Every occurrence is overwritten in place, and the process does not notice."""
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, f"--a={KEY}", f"--b=x:{KEY}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    with child.stdin, child.stdout:
        assert child.stdout.readline() == b"up\n"
        assert KEY in " ".join(psutil.Process(child.pid).cmdline())
        assert hide_argument(child.pid, KEY)
        assert psutil.Process(child.pid).cmdline()[-2:] == [f"--a={'*' * len(KEY)}", f"--b=x:{'*' * len(KEY)}"]
    assert child.wait() == 0


def test_hiding_in_a_process_that_is_gone_says_so() -> None:
    """Where nothing could be hidden the answer is no, not an exception."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not hide_argument(child.pid, KEY)


def test_a_launched_program_dies_with_its_parent(tmp_path: Path) -> None:
    """The kernel ends it, however the parent was ended."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, os, time\n"
            "p = subprocess.Popen([sys.executable, sys.argv[1], str(os.getpid()), '/bin/sleep', '60'])\n"
            "print(p.pid, flush=True)\n"
            "time.sleep(60)\n",
            launch.__file__,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
    deadline = time.monotonic() + 300
    while child.name() != "sleep" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert child.name() == "sleep"
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    gone, _ = psutil.wait_procs([child], timeout=300)
    assert gone == [child]


def test_a_launch_whose_parent_is_gone_starts_nothing() -> None:
    """A parent that died before the kernel was asked to watch it is noticed as well."""
    done = subprocess.run(
        [sys.executable, launch.__file__, "1", "/bin/echo", "started"], capture_output=True, check=False, timeout=300
    )
    assert done.returncode == 1
    assert done.stdout == b""


def test_a_process_that_was_never_started_can_be_stopped() -> None:
    """Cleaning up after a failure needs no special case."""
    process = TritonProcess(ServerOptions(Path("/r"), Path("/b")), install=INSTALL)
    process.stop()
    assert not process.is_running()
    assert process.exit_code() is None
    with pytest.raises(ServerError):
        _ = process.pid


def test_a_stub_s_model_instance_is_its_eighth_argument() -> None:
    """Memory is listed by the instance; arguments of another form name none."""
    arguments = ["stub", "/r/m/1/x", "shm", "1048576", "1048576", "77", "/b/python", "336", "m_0_0", "/b/openvino"]
    assert memory.instance_of(arguments) == "m_0_0"
    assert memory.instance_of([]) == ""
