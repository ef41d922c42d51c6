"""What is asked of Docker, in the very words that the real `docker` package sends to an engine."""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker_stand_in import DockerStandIn
from pydantic import ValidationError

from policyctl.errors import ServerError, UnsupportedError, UsageError
from policyctl.serving import container_request as module
from policyctl.serving.command import ServerOptions
from policyctl.serving.container import TritonContainer, connect, require_image
from policyctl.serving.container_request import Mounts, creation, user_of
from policyctl.serving.logs import LogLine
from policyctl.serving.ports import free_ports
from policyctl.settings import DockerSettings

KEY = "a-key-of-some-length"


@pytest.fixture
def options(tmp_path) -> ServerOptions:
    """A server on free ports of loopback."""
    http_port, grpc_port, metrics_port = free_ports(3)
    return ServerOptions(
        tmp_path / "models",
        Path("/somewhere"),
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        api_key=KEY,
        trace_file=tmp_path / "traces" / "trace",
    )


@pytest.fixture
def mounts(tmp_path) -> Mounts:
    """A key and a trace folder."""
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "traces").mkdir()
    return Mounts(tmp_path / "key", tmp_path / "traces")


def _sent(engine: DockerStandIn, options: ServerOptions, mounts: Mounts, gpu: bool = False, **settings) -> dict:
    container = TritonContainer(options, DockerSettings(**settings), mounts, gpu=gpu)
    container.start()
    try:
        return dict(engine.only.sent)
    finally:
        container.stop()


def test_the_container_can_change_nothing_and_gain_nothing(engine, options, mounts) -> None:
    """No root, no capability, no new privilege, nothing writable but traces and memory, bounds on everything."""
    sent = _sent(engine, options, mounts)
    host = sent["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["ReadonlyRootfs"] is True
    assert not host.get("Privileged")
    assert host["Init"] is True
    assert (host["Memory"], host["MemorySwap"]) == (4096 << 20, 4096 << 20)
    assert (host["ShmSize"], host["PidsLimit"]) == (256 << 20, 1024)
    assert host["RestartPolicy"]["Name"] == "no"
    assert int(sent["User"].split(":")[0]) > 0
    writable = {m["Target"] for m in host["Mounts"] if not m["ReadOnly"]}
    assert writable == {str(mounts.traces)}
    assert {m["Type"] for m in host["Mounts"]} == {"bind"}
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}


def test_its_ports_are_published_on_loopback_alone(engine, options, mounts) -> None:
    """Docker opens what it publishes past the machine's firewall, so nothing else may be published."""
    bindings = _sent(engine, options, mounts)["HostConfig"]["PortBindings"]
    assert bindings == {
        f"{inner}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(outer)}]
        for inner, outer in zip((8000, 8001, 8002), options.ports, strict=True)
    }
    for host in ("0.0.0.0", "192.0.2.1", "::", "localhost", "example.com"):
        with pytest.raises(UsageError, match=host):
            creation(ServerOptions(options.repository, Path("/b"), host=host), DockerSettings(), mounts, gpu=False)


@pytest.mark.parametrize("network", ["", "lab", "host"])
def test_the_network_is_a_setting(engine, options, mounts, network: str) -> None:
    """On the host's network it listens on loopback itself; on any other, inside, and loopback is published."""
    sent = _sent(engine, options, mounts, network=network)
    assert sent["HostConfig"]["NetworkMode"] == (network or "default")
    assert ("PortBindings" in sent["HostConfig"]) is (network != "host")
    address, port = ("127.0.0.1", options.http_port) if network == "host" else ("0.0.0.0", 8000)
    assert {f"--http-address={address}", f"--http-port={port}"} <= set(sent["Cmd"])


def test_every_path_means_the_same_inside_and_outside(engine, options, mounts) -> None:
    """So configurations, traces and messages need no translation; the repository cannot be written."""
    sent = _sent(engine, options, mounts)
    by_target = {m["Target"]: m for m in sent["HostConfig"]["Mounts"]}
    repository = str(options.repository)
    assert by_target[repository]["Source"] == repository
    assert by_target[repository]["ReadOnly"] is True
    assert by_target[str(mounts.traces)]["Source"] == str(mounts.traces)
    assert f"--model-repository={repository}" in sent["Cmd"]
    assert f"--trace-config=triton,file={options.trace_file}" in sent["Cmd"]
    assert "--backend-directory=/opt/tritonserver/backends" in sent["Cmd"]
    assert {"--model-control-mode=explicit", "--disable-auto-complete-config"} <= set(sent["Cmd"])


def test_the_key_is_in_no_place_that_docker_shows(engine, options, mounts, tmp_path) -> None:
    """What `docker inspect` shows does not hold it; the shell in front of tritonserver puts it into the rules."""
    sent = _sent(engine, options, mounts)
    assert KEY not in str(sent)
    (tmp_path / "key").write_text(KEY)
    fake = tmp_path / "bin" / "tritonserver"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nfor each in "$@"; do echo "$each"; done\n')
    fake.chmod(0o755)
    shell, flag, script, key_file = sent["Entrypoint"]
    assert [m["Source"] for m in sent["HostConfig"]["Mounts"] if m["Target"] == key_file] == [str(mounts.key)]
    done = subprocess.run(
        [shell, flag, script, str(mounts.key), *sent["Cmd"]],
        env={"PATH": f"{fake.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    rule = f"model-repository,logging,trace:policyctl-key={KEY}"
    assert done.stdout.splitlines() == [
        *sent["Cmd"],
        f"--http-restricted-api={rule}",
        f"--grpc-restricted-protocol={rule}",
    ]


def test_gpus_are_asked_for_by_a_device_request(engine, options, mounts) -> None:
    """All of them where a GPU serves, none where not."""
    assert "DeviceRequests" not in _sent(engine, options, mounts)["HostConfig"]
    (asked,) = _sent(engine, options, mounts, gpu=True)["HostConfig"]["DeviceRequests"]
    assert (asked["Count"], asked["Capabilities"]) == (-1, [["gpu"]])


def test_our_backends_are_mounted_over_the_images_where_asked(engine, options, mounts) -> None:
    """Then a release's files are verified by the backend that loads them."""
    sent = _sent(engine, options, mounts, backends="policyctl")
    over = {
        m["Target"]: m for m in sent["HostConfig"]["Mounts"] if m["Target"].startswith("/opt/tritonserver/backends")
    }
    assert set(over) == {f"/opt/tritonserver/backends/{name}" for name in ("openvino", "onnxruntime", "pytorch")}
    for mount in over.values():
        assert mount["ReadOnly"] is True
        assert (Path(mount["Source"]) / "model.py").is_file()


@pytest.mark.parametrize("user", ["0:0", "0:1000", "root", "1000", "", "1000:1000"])
def test_it_never_runs_as_root(monkeypatch, user: str) -> None:
    """Root is refused by number and by name; where policyctl is root, the image's own user serves."""
    if user in {"", "1000:1000"}:
        monkeypatch.setattr(module.os, "getuid", lambda: 0)
        assert user_of(DockerSettings(user=user)) == "1000:1000"
        monkeypatch.setattr(module.os, "getuid", lambda: 1234)
        monkeypatch.setattr(module.os, "getgid", lambda: 99)
        assert user_of(DockerSettings(user=user)) == (user or "1234:99")
        return
    with pytest.raises(UsageError, match=r"docker\.user"):
        user_of(DockerSettings(user=user))


def test_an_image_that_is_not_there_is_refused_and_not_fetched(engine, options, mounts) -> None:
    """Ten gigabytes are nobody's surprise; the remedy is the command."""
    with pytest.raises(UnsupportedError, match="not on this machine") as refused:
        _sent(engine, options, mounts, image="nvcr.io/nvidia/tritonserver:25.06-py3")
    assert "docker pull nvcr.io/nvidia/tritonserver:25.06-py3" in refused.value.remedy
    assert not [call for call in engine.calls if "images/create" in call]


def test_without_a_docker_engine_it_says_so(monkeypatch, options, mounts) -> None:
    """Nobody listens there: exit code 8, with what to try."""
    (port,) = free_ports(1)
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
    with pytest.raises(UnsupportedError, match="reach Docker") as refused:
        TritonContainer(options, DockerSettings(), mounts).start()
    assert "docker info" in refused.value.remedy


def test_what_an_earlier_supervisor_left_is_removed_first(engine, options, mounts) -> None:
    """A container outlives a killed supervisor; a second one of the same repository never starts next to it."""
    first = TritonContainer(options, DockerSettings(), mounts)
    first.start()
    left = engine.only.id
    other = TritonContainer(ServerOptions(Path("/other"), Path("/b")), DockerSettings(), mounts)
    other.start()
    second = TritonContainer(options, DockerSettings(), mounts)
    second.start()
    assert left not in engine.containers
    assert len(engine.containers) == 2
    assert not first.is_running()
    second.stop()
    other.stop()
    assert not engine.containers


def test_a_container_that_ended_or_was_restarted_is_another_run(engine, options, mounts) -> None:
    """Restarted behind our back nothing is loaded in it; the error of a lack of memory names the setting."""
    container = TritonContainer(options, DockerSettings(memory_mib=512), mounts)
    container.start()
    assert container.is_running()
    engine.begin(engine.only)
    assert not container.is_running()
    assert container.ended() == "somebody restarted it"
    engine.end(engine.only, OOMKilled=True, ExitCode=137)
    assert not container.is_running()
    assert container.ended() == "out of memory: docker.memory_mib is 512"
    container.stop()
    assert not engine.containers
    assert not container.is_running()


def test_a_container_that_is_paused_is_said_to_be_and_goes_at_once(engine, options, mounts) -> None:
    """A paused server answers nobody; no signal reaches it, so it is removed without being asked to end."""
    container = TritonContainer(options, DockerSettings(), mounts)
    container.start()
    engine.only.state["Status"] = "paused"
    assert not container.is_running()
    assert (container.ended(), container.exit_code()) == ("somebody paused it", None)
    engine.calls.clear()
    container.stop()
    assert not engine.containers
    assert not any(call.endswith("/stop") for call in engine.calls)


def test_a_container_is_over_as_soon_as_somebody_stops_it(engine, options, mounts) -> None:
    """Triton lets go of its models at the first signal and ends later; it is not asked again, but killed."""
    container = TritonContainer(options, DockerSettings(), mounts)
    container.start()
    engine.happened.put(_event("kill", signal="15"))
    _wait_for(container.may_have_ended)
    assert not container.is_running()
    assert (container.ended(), container.exit_code()) == ("somebody stopped it", None)
    engine.calls.clear()
    container.stop()
    assert not any(call.endswith("/stop") for call in engine.calls)


def test_a_signal_that_ends_nothing_ends_no_run(engine, options, mounts) -> None:
    """What Docker reports is a reason to look; what it shows then decides."""
    container = TritonContainer(options, DockerSettings(), mounts)
    container.start()
    assert not container.may_have_ended()
    engine.happened.put(_event("kill", signal="1"))
    engine.happened.put(_event("pause"))
    _wait_for(container.may_have_ended)
    assert container.is_running()
    assert not container.may_have_ended()
    container.stop()


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _event(action: str, **attributes: str) -> dict[str, Any]:
    return {"Action": action, "Actor": {"Attributes": attributes}}


def test_a_silent_server_is_killed_without_being_asked_first(engine, options, mounts) -> None:
    """Docker's stop would wait for its whole grace; a server that answers has that."""
    for at_once in (False, True):
        container = TritonContainer(options, DockerSettings(), mounts)
        container.start()
        engine.calls.clear()
        container.stop(at_once=at_once)
        assert not engine.containers
        assert any(call.endswith("/stop") for call in engine.calls) is not at_once


@pytest.mark.parametrize(
    ("before_s", "words"),
    [
        (0.3, "out of memory: docker.memory_mib is 512"),
        (
            40.0,
            "exit code 137; 40 s before that the kernel ended a process in it for its memory: docker.memory_mib is 512",
        ),
    ],
)
def test_an_old_lack_of_memory_is_not_the_reason_of_a_later_end(engine, options, mounts, before_s, words) -> None:
    """Docker's flag says it of both; its events say when the kernel ended a process."""
    container = TritonContainer(options, DockerSettings(memory_mib=512), mounts)
    container.start()
    finished = datetime(2026, 1, 1, 1, tzinfo=UTC).timestamp()
    engine.out_of_memory = [finished - 100, finished - before_s]
    engine.end(engine.only, ExitCode=137, OOMKilled=True, FinishedAt="2026-01-01T01:00:00.000000001Z")
    assert not container.is_running()
    assert container.ended() == words
    container.stop()


def test_a_taken_port_is_refused_in_plain_words_before_anything_is_made(engine, options, mounts) -> None:
    """It names port, holder and remedy, as the embedded server does; Docker's text names the holder nowhere."""
    with (
        _answering(options.grpc_port),
        pytest.raises(ServerError, match=f"port {options.grpc_port} of 127.0.0.1 is held"),
    ):
        TritonContainer(options, DockerSettings(), mounts).start()
    assert not engine.containers


def test_an_image_without_bash_is_refused_where_python_based_backends_shall_serve(engine) -> None:
    """Triton starts them through it, and every load would hang; nothing that was made to look stays."""
    client, image = connect(), DockerSettings().image
    require_image(client, image, python_backends=True)
    engine.files = {"/usr/bin/bash"}
    require_image(client, image, python_backends=True)
    engine.files = set()
    require_image(client, image)
    with pytest.raises(UnsupportedError, match="has no bash"):
        require_image(client, image, python_backends=True)
    assert not engine.containers


def test_so_few_processes_that_triton_cannot_load_are_refused() -> None:
    """Triton has 70 to 76 threads on two cores, and its loads hang where it may not start one more."""
    assert DockerSettings(pids=256).pids == 256
    with pytest.raises(ValidationError, match="pids"):
        DockerSettings(pids=255)


def test_a_docker_that_went_away_says_nothing_of_the_server(engine, options, mounts) -> None:
    """Triton may go on without it; whether it answers is the prober's question."""
    container = TritonContainer(options, DockerSettings(), mounts)
    container.start()
    engine.close()
    assert container.is_running()
    container.stop()


def test_it_is_live_when_it_answers_and_its_last_words_are_told_where_it_does_not(engine, options, mounts) -> None:
    """By its HTTP port on loopback; a container that ended first is named with what it said."""
    heard: list[LogLine] = []
    container = TritonContainer(options, DockerSettings(), mounts, on_log=heard.append)
    lines = [b'I0101 00:00:00.000001 1 a.cc:1] "up"\n', f'E0101 00:00:00.000001 1 b.cc:2] "bad {KEY}"\n'.encode()]
    engine.runner = lambda created: created.lines.extend(lines) or SimpleNamespace(stop=lambda: None)
    container.start()
    with _answering(options.http_port):
        container.wait_live(5)
    engine.end(engine.only, ExitCode=1)
    with pytest.raises(ServerError, match=r"exit code 1.*bad \*\*\*"):
        container.wait_live(5)
    assert [line.message for line in heard] == ["up", "bad ***"]
    container.stop()


def _answering(port: int):
    class Live(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/v2/health/live" else 404)
            self.end_headers()

        def log_message(self, *_) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Live)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    class Closing:
        def __enter__(self) -> None: ...

        def __exit__(self, *_) -> None:
            server.shutdown()
            server.server_close()

    return Closing()
