"""The real server on a disk that is really full: what is served serves on, and comes back without a hand."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded import Embedded, embedded, exported, wait_for

from policyctl.client import PolicyClient
from policyctl.errors import PolicyctlError

pytestmark = pytest.mark.server


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Embedded]:
    """A repository on a file system of 16 MiB, released and served."""
    root = tmp_path / "site" / "model_repository"
    root.mkdir(parents=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", root], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.decode().strip()}")
    try:
        with embedded(tmp_path / "site") as server:
            server.publish("1.0.0", 1)
            server.start()
            server.run("promote", "walker", "1.0.0")
            yield server
    finally:
        subprocess.run(["umount", "-l", root], check=True)


def _fill(root: Path) -> Path:
    """Take every byte that is left."""
    filler = root / ".policyctl" / "orphans-of-a-test"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, bytes(1 << 16))
    except OSError:
        pass
    finally:
        os.close(descriptor)
    (root / ".policyctl" / "no-room").touch()
    return filler


def _answers(url: str) -> bool:
    try:
        with PolicyClient("walker", url=url, deadline_s=2.0) as client:
            return client.act([0.0] * 4).release == "1.0.0"
    except PolicyctlError:
        return False


def test_a_server_that_dies_on_a_full_disk_comes_back_and_is_found_once_there_is_room(small: Embedded) -> None:
    """tritonserver is killed: it is started, certified and asked again; commands find it when the disk has room."""
    before = small.endpoint
    filler = _fill(small.root)
    os.kill(before["pid"], signal.SIGKILL)
    small.has_said("Commands on this machine do not find the server")
    assert small.is_running
    wait_for(lambda: _answers(before["grpc"]))
    assert small.run("status", "--check", check=False).returncode == 6
    filler.unlink()
    small.has_said("find the server again")
    assert small.answered_by() == "1.0.0"
    assert small.endpoint["pid"] != before["pid"]
    assert small.stop() == 0


def test_a_server_starts_and_serves_on_a_disk_that_is_full(small: Embedded) -> None:
    """It needs no room of its own; a publish is refused in words, and what serves does not notice."""
    http, grpc = small.endpoint["http"], small.endpoint["grpc"]
    assert small.stop() == 0
    _fill(small.root)
    ports = {"http_port": http, "grpc_port": grpc}
    small.begin(*(f"--{name.replace('_', '-')}={address.rpartition(':')[2]}" for name, address in ports.items()))
    wait_for(lambda: "Ready: 1 served" in small.log_text.rpartition("do not find the server")[2])
    wait_for(lambda: _answers(grpc))
    refused = small.run("publish", str(exported(2)), "--model", "walker", "--release", "1.1.0", check=False)
    assert (refused.returncode, "No space left" in refused.stderr) == (2, True)
    wait_for(lambda: _answers(grpc))
    assert small.stop() == 0
