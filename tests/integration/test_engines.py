"""`policyctl serve` with the engines that are not its own child: somebody else's Triton, and a container.

The external server is the real one, killed and started again by the test. The
container is not one, so that no Docker is needed: tests/containers has a real one. A stand-in takes what the
`docker` package sends, and runs the command that was sent, entry point and
mounted key included, with the real tritonserver of the wheel.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from docker_stand_in import Container, DockerStandIn
from embedded import PATIENCE_S, Embedded, exported, wait_for

from policyctl.adapters import endpoint as endpoints
from policyctl.domain.artifacts import Format
from policyctl.domain.verdict import Verdict
from policyctl.services.golden_questions import probe
from policyctl.services.releases.publish import publish
from policyctl.services.rollout.promote import promote
from policyctl.services.show.status import status
from policyctl.serving import shared_memory
from policyctl.serving.backend_directory import assemble
from policyctl.serving.command import environment
from policyctl.serving.locate import locate
from policyctl.serving.ports import free_ports
from policyctl.serving.process import ServerOptions, TritonProcess
from policyctl.settings import DockerSettings

pytestmark = pytest.mark.server

KEY = "key-of-somebody-else"


class Somebody:
    """Runs a Triton on a repository, always on the same ports."""

    def __init__(self, root: Path, backends: Path) -> None:
        http_port, grpc_port, metrics_port = free_ports(3)
        self.options = ServerOptions(
            repository=root,
            backend_directory=assemble(locate(), backends),
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            api_key=KEY,
        )
        self.process: TritonProcess | None = None

    def start(self) -> None:
        self.process = TritonProcess(self.options)
        self.process.start()
        self.process.wait_live(PATIENCE_S)

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.stop()


@contextmanager
def somebody(server: Embedded, folder: Path) -> Iterator[Somebody]:
    server.root.mkdir(parents=True, exist_ok=True)
    other = Somebody(server.root, folder / "backends")
    try:
        yield other
    finally:
        if other.process is not None:
            other.process.stop()


def _run_id(server: Embedded) -> str:
    """The id of the announced run; empty while there is none."""
    found = endpoints.read(server.control.repository)
    return "" if found is None else found.server_id


def _next_run(server: Embedded, *known: str) -> str:
    """Wait for another run to be announced."""
    wait_for(lambda: _run_id(server) not in {"", *known})
    return _run_id(server)


def _answers(server: Embedded) -> bool:
    """Whether production gives a golden action."""
    (found,) = probe(server.control)
    return found.verdict is Verdict.PASSED and found.release == "1.0.0"


def test_somebody_elses_triton_is_brought_up_waited_for_and_brought_up_again(server, tmp_path, monkeypatch) -> None:
    """Silent at first, then there, then killed, then restarted between two looks: served each time, never stopped."""
    publish(server.control, exported(1), model="walker", release="1.0.0")
    with somebody(server, tmp_path) as other:
        monkeypatch.setenv("POLICYCTL_SERVER__ENGINE", "external")
        monkeypatch.setenv("POLICYCTL_SERVER__URL", f"127.0.0.1:{other.options.grpc_port}")
        monkeypatch.setenv("POLICYCTL_SERVER__HTTP_URL", f"127.0.0.1:{other.options.http_port}")
        monkeypatch.setenv("POLICYCTL_SERVER__API_KEY", KEY)
        with server.log.open("ab") as stream:
            server.process = subprocess.Popen(
                [sys.executable, "-m", "policyctl.cli.main", "serve", "--repository", str(server.root)],
                stdout=stream,
                stderr=stream,
            )
        server.has_said(f"no Triton answers at 127.0.0.1:{other.options.grpc_port}")
        other.start()
        first = _next_run(server)
        promote(server.control, model="walker", release="1.0.0", alias="production")
        assert status(server.control).engine == "external"
        wait_for(lambda: _answers(server))

        server.process.send_signal(signal.SIGSTOP)
        other.kill()
        other.start()
        server.process.send_signal(signal.SIGCONT)
        second = _next_run(server, first)
        server.has_said("Somebody restarted the server")
        wait_for(lambda: _answers(server))

        other.kill()
        server.has_said("policyctl did not start it")
        other.start()
        _next_run(server, first, second)
        wait_for(lambda: _answers(server))
        assert other.process is not None
        assert server.stop() == 0
        assert other.process.is_running()
    assert _run_id(server) == ""


class Ran:
    """A container's command, run by the wheel's tritonserver."""

    def __init__(self, container: Container, root: Path, folder: Path) -> None:
        install, sent = locate(), container.sent
        home = folder / "image"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        self._claim = shared_memory.claim(root)
        # What the image brings: tritonserver on PATH, its caches, and its backends.
        (home / "tritonserver").write_text(
            f'#!/bin/sh\nexec "{install.tritonserver}" "$@" --cache-directory="{install.caches}"'
            f' --backend-config=python,shm-region-prefix-name="{self._claim.prefix}"\n'
        )
        (home / "tritonserver").chmod(0o755)
        mounted = {m["Target"]: m["Source"] for m in sent["HostConfig"]["Mounts"]}
        backends = str(assemble(install, folder / "backends"))
        published = {
            inner.removesuffix("/tcp"): bound[0]["HostPort"]
            for inner, bound in sent["HostConfig"]["PortBindings"].items()
        }

        def here(word: str) -> str:
            word = mounted.get(word, word).replace("/opt/tritonserver/backends", backends)
            name, _, value = word.partition("=")
            if name.endswith("-port"):
                return f"{name}={published[value]}"
            return f"{name}=127.0.0.1" if name.endswith("-address") else word

        variables = environment(install)
        variables["PATH"] = f"{home}:{variables['PATH']}"
        self._process = subprocess.Popen(
            [here(word) for word in (*sent["Entrypoint"], *sent["Cmd"])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=home,
            env=variables,
            start_new_session=True,
        )

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE_S)
        self._claim.remove()
        self._claim.close()


@pytest.fixture
def engine(server, tmp_path, monkeypatch) -> Iterator[DockerStandIn]:
    """A stand-in for Docker that runs what it is sent."""
    found = DockerStandIn(images=(DockerSettings().image,), runner=lambda c: Ran(c, server.root, tmp_path))
    monkeypatch.setenv("DOCKER_HOST", found.host)
    monkeypatch.setenv("POLICYCTL_SERVER__ENGINE", "docker")
    yield found
    found.close()


def test_what_is_sent_to_docker_serves_and_is_replaced_when_it_dies(server, engine) -> None:
    """Promoted as ONNX, which NVIDIA's backends serve best; a dead container is removed, and another one started."""
    publish(server.control, exported(1), model="walker", release="1.0.0")
    server.start()
    promote(server.control, model="walker", release="1.0.0", alias="production")
    (row,) = status(server.control).aliases
    assert (row.format, server.answered_by()) == (Format.ONNX.value, "1.0.0")
    first = engine.only.id
    engine.end(engine.only, ExitCode=139)
    wait_for(lambda: engine.containers and first not in engine.containers and _run_id(server))
    wait_for(lambda: _answers(server))
    server.has_said("The container has ended")
    assert server.stop() == 0
    assert not engine.containers
    assert not (server.root / ".policyctl" / "server" / "key").exists()
