"""`docker-compose.yml` on a real engine: what docs/containers.md says to type, from secrets to a promoted policy."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded import exported, wait_for

from harness.docker_engine import Engine
from policyctl.client import PolicyClient
from policyctl.errors import PolicyctlError

ROOT = Path(__file__).parents[2]
OURS = ("triton", "control", "api")
"""The services whose images can be made here."""


class Composed:
    """The services of the file, in a folder with what it mounts."""

    def __init__(self, docker: Engine, folder: Path) -> None:
        self.docker, self.folder = docker, folder

    def __call__(self, *arguments: str, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", "compose", "--profile", "cpu", *arguments],
            cwd=self.folder,
            env={**os.environ, "DOCKER_HOST": self.docker.host},
            capture_output=True,
            text=True,
            check=False,
            **options,
        )
        assert not check or done.returncode == 0, done.stderr + self.logs()
        return done

    def logs(self) -> str:
        return self("logs", "--no-color", check=False).stdout

    def answers(self) -> str | None:
        """The release that answers a client on this machine; None where none does."""
        try:
            with PolicyClient("walker", url="127.0.0.1:8001", deadline_s=2.0) as client:
                return client.act([0.0] * 4).release
        except PolicyctlError:
            return None


@pytest.fixture(scope="module")
def compose(docker: Engine, tmp_path_factory) -> Iterator[Composed]:
    """Secrets and a token, and the three services up and healthy."""
    at = tmp_path_factory.mktemp("compose")
    found = Composed(docker, at)
    version = subprocess.run(["docker", "compose", "version", "--short"], capture_output=True, text=True, check=False)
    if version.returncode != 0:
        pytest.skip("Docker Compose 2 is not installed (bookworm has 1.29)")
    shutil.copy(ROOT / "docker-compose.yml", at)
    for name in ("containers", "alerts", "grafana"):
        shutil.copytree(ROOT / name, at / name)
    folder = at / "secrets"
    folder.mkdir(mode=0o700)
    for name in ("triton_key", "grafana_admin_password", "webhook_url"):
        (folder / name).write_text(f"{secrets.token_hex(24)}\n")
    try:
        token = found("run", "--rm", "-T", "control", "token", "create", "prometheus").stdout
        (folder / "api_token").write_text(token)
        found("up", "--no-build", "--detach", "--wait", *OURS)
        yield found
    finally:
        found("down", "--volumes", "--timeout", "1", check=False)


def test_the_file_serves_a_promoted_policy_and_gets_over_a_restart_of_each_part(compose: Composed) -> None:
    """Secrets, a token that is a token, publish, promote, probe; Triton killed, the control plane killed."""
    token = (compose.folder / "secrets" / "api_token").read_text()
    assert len(token.split()) == 1, token
    compose(
        *("run", "--rm", "-T", "--volume", f"{exported(1)}:/export:ro", "control"),
        *("publish", "/export", "--model", "walker", "--release", "1.0.0"),
    )
    compose("exec", "-T", "control", "policyctl", "promote", "walker", "1.0.0")
    compose("exec", "-T", "control", "policyctl", "probe", "--require")
    wait_for(lambda: compose.answers() == "1.0.0")
    assert "ok" in compose("exec", "-T", "control", "policyctl", "doctor").stdout

    compose("kill", "triton")
    compose("up", "--no-build", "--detach", "--wait", "triton")
    wait_for(lambda: compose.answers() == "1.0.0")

    compose("kill", "control")
    assert compose.answers() == "1.0.0"
    compose("up", "--no-build", "--detach", "--wait", "control")
    wait_for(lambda: compose("exec", "-T", "control", "policyctl", "probe", "--require", check=False).returncode == 0)
    assert compose.answers() == "1.0.0"


def test_every_service_is_as_hardened_as_the_file_says(compose: Composed) -> None:
    """As the engine shows it: user, root file system, capabilities, memory without swap, ports on loopback."""
    for name in OURS:
        (identity,) = compose("ps", "--quiet", name).stdout.split()
        (shown,) = json.loads(compose.docker.docker("inspect", identity).stdout)
        host = shown["HostConfig"]
        assert shown["Config"]["User"] == "1000:1000"
        assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
        assert host["Memory"] == host["MemorySwap"] > 0
        bound = [binding["HostIp"] for bindings in (host["PortBindings"] or {}).values() for binding in bindings]
        assert set(bound) <= {"127.0.0.1"}
