"""`policyctl serve` on the real Triton: what dies comes back, what crashed is settled."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from embedded import PATIENCE_S, Embedded, exported, runs, wait_for

from policyctl.demo.background_server import policyctl
from policyctl.measuring.background_load import BackgroundLoad
from policyctl.measuring.load import LoadOptions, read_expected
from policyctl.services.integrity.verify import verify
from policyctl.services.rollout.promote import promote
from policyctl.services.show.status import status
from policyctl.serving.native import choose
from policyctl.serving.shared_memory import prefix_base
from policyctl.settings import NativeMode

pytestmark = pytest.mark.server


def _serve_one(server: Embedded) -> None:
    server.publish("1.0.0", 1)
    server.publish("1.1.0", 2)
    server.start()
    server.run("promote", "walker", "1.0.0")


def _stubs(server: Embedded) -> list[psutil.Process]:
    children = psutil.Process(server.endpoint["pid"]).children(recursive=True)
    return [c for c in children if "stub" in c.name()]


@pytest.mark.parametrize("mode", [NativeMode.OFF, NativeMode.AUTO])
def test_the_log_and_status_say_which_openvino_backend_serves(server, monkeypatch, mode: NativeMode) -> None:
    """Native where it is built and not switched off, and then without a process of its own; the reason is named."""
    monkeypatch.setenv("POLICYCTL_SERVING__NATIVE", mode)
    _serve_one(server)
    choice = choose(mode)
    assert server.json("status")["openvino_backend"] == choice.summary
    server.has_said(f"OpenVINO backend: {choice.summary}")
    assert bool(_stubs(server)) is (choice.backend is None)
    assert server.answered_by() == "1.0.0"


def test_the_server_comes_back_from_a_dead_stub_and_from_its_own_death(server, monkeypatch) -> None:
    """A killed stub is loaded again by the same server, a killed server started again, SIGTERM leaves nothing."""
    monkeypatch.setenv("POLICYCTL_SERVING__NATIVE", "off")
    _serve_one(server)
    first = server.endpoint["pid"]
    for stub in _stubs(server):
        stub.kill()
    server.has_said("Reloading walker")
    wait_for(lambda: server.answered_by() == "1.0.0")
    assert server.endpoint["pid"] == first
    assert "could not be loaded again" not in server.log_text
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: server.triton not in {None, first})
    assert server.answered_by() == "1.0.0"
    family = [psutil.Process(server.endpoint["pid"]), *_stubs(server)]
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 25
    wait_for(lambda: not any(map(runs, family)))
    assert not (server.root / ".policyctl" / "server.json").exists()


def test_a_release_refused_at_start_is_served_once_its_files_are_restored(server) -> None:
    """No restart and no command are needed; until then nothing answers, and status says so."""
    _serve_one(server)
    path = server.root / "walker" / "1" / "contract.json"
    good = path.read_bytes()
    server.stop()
    path.chmod(0o644)
    path.write_bytes(good.replace(b"1", b"2", 1))
    server.start()
    server.has_said("REFUSED walker")
    assert server.run("status", "--check", check=False).returncode == 6
    path.write_bytes(good)
    wait_for(lambda: server.answered_by() == "1.0.0")


def test_a_stopped_server_that_answers_nobody_is_replaced(server) -> None:
    """A frozen tritonserver (SIGSTOP) is noticed by its silence, killed and started again."""
    _serve_one(server)
    frozen = server.endpoint["pid"]
    os.kill(frozen, signal.SIGSTOP)
    wait_for(lambda: server.triton not in {None, frozen})
    assert server.answered_by() == "1.0.0"


def test_killing_the_supervisor_leaves_no_orphan_and_the_next_start_serves(server) -> None:
    """After SIGKILL of `policyctl serve` tritonserver is gone too, and commands know it."""
    _serve_one(server)
    orphan = psutil.Process(server.endpoint["pid"])
    server.stop(number=signal.SIGKILL)
    wait_for(lambda: not runs(orphan))
    refused = server.run("promote", "walker", "1.1.0", check=False)
    assert refused.returncode == 6
    assert "policyctl serve" in refused.stderr
    server.start()
    assert server.answered_by() == "1.0.0"


def test_the_repository_api_needs_the_key_and_everything_listens_on_loopback(served) -> None:
    """Nobody without the key can load or unload; the key's file is its owner's alone."""
    endpoint = served.endpoint
    for path in ("v2/repository/index", "v2/repository/models/walker/unload"):
        request = urllib.request.Request(f"http://{endpoint['http']}/{path}", data=b"{}", method="POST")
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=PATIENCE_S)
        assert error.value.code >= 400
    listening = [c.laddr.ip for c in psutil.Process(endpoint["pid"]).net_connections("tcp") if c.status == "LISTEN"]
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    mode = stat.S_IMODE((served.root / ".policyctl" / "server.json").stat().st_mode)
    assert mode == 0o600
    assert endpoint["api_key"] not in served.log_text
    assert served.answered_by() == "1.0.0"


def test_a_second_server_on_the_same_repository_is_refused(served) -> None:
    """Two supervisors would fight: the second is told who serves, and not which ports are taken."""
    free = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--control-metrics-port", "0")
    taken = ("--http-port", served.endpoint["http"].rpartition(":")[2])
    for ports in (free, taken):
        done = policyctl(served.root, "serve", *ports)
        assert done.returncode == 5
        assert "served already" in done.stderr


KILLER = """
import os, sys, traceback
from policyctl.adapters import triton
from policyctl.services.moves import mover as moves
from policyctl.services.control import Control
from policyctl.services.rollout.promote import promote
from policyctl.services.moves.rollback import rollback
from policyctl.settings import load

def move(point, kind, release):
    apply, count = moves.Mover._apply, [0]

    def killed_after(self, move, effect, *more):
        apply(self, move, effect, *more)
        count[0] += 1
        if count[0] == point:
            os._exit(137)

    moves.Mover._apply = killed_after
    control = Control.of(load())
    if kind == "promotion":
        promote(control, model="walker", release=release, alias="production")
    else:
        rollback(control, model="walker", alias="production")

for line in sys.stdin:
    point, kind, release = line.split()
    child = os.fork()
    if child == 0:
        try:
            move(int(point), kind, release)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def killed(served, tmp_path) -> Iterator[Callable[[int, str, str], bool]]:
    """Carry out a move in a process that dies after its n-th effect; whether it got that far.

    The processes are forked from one that has imported everything and talked to nobody.
    """
    errors = tmp_path / "errors"
    with (
        errors.open("wb") as stream,
        subprocess.Popen(
            [sys.executable, "-c", KILLER],
            env={**os.environ, "POLICYCTL_REPOSITORY": str(served.root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def carry_out(point: int, kind: str, release: str) -> bool:
            asked.write(f"{point} {kind} {release}\n")
            asked.flush()
            code = answers.readline().strip()
            assert code in {"0", "137"}, errors.read_text()
            return code == "137"

        yield carry_out


@pytest.mark.parametrize("kind", ["promotion", "rollback"])
def test_a_move_killed_after_any_effect_keeps_serving_and_is_settled(kind, served, killed) -> None:
    """At each effect boundary on the real server: no request fails, one of the two answers, and it gets settled."""
    options = LoadOptions(
        model="walker", url=served.endpoint["grpc"], clients=2, rate_per_client=50, deadline_s=60, duration_s=3600
    )
    expected = {r: read_expected(exported(seed)) for r, seed in {"1.0.0": 1, "1.1.0": 2}.items()}
    start, target = ("1.0.0", "1.1.0") if kind == "promotion" else ("1.1.0", "1.0.0")
    with BackgroundLoad(options, expected) as load:
        point, reached = 0, True
        while reached:
            point += 1
            promote(served.control, model="walker", release=start, alias="production")
            reached = killed(point, kind, target)
            assert served.answered_by() in {start, target}
            wait_for(lambda: status(served.control).unfinished is None)
            wait_for(lambda: status(served.control).healthy)
            assert all(finding.intact for finding in verify(served.control))
    assert load.report.clean, load.report
    assert point > (8 if kind == "promotion" else 4)


def test_a_full_journal_disk_is_told_and_loses_nothing(served) -> None:
    """With no space for the journal a promotion is refused, and the incumbent serves on."""
    code = (
        "import os\n"
        "from policyctl.adapters import files\n"
        "from policyctl.cli.main import main\n"
        "import errno, sys\n"
        "def full(descriptor, content): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "files.write_all = full\n"
        "sys.argv = ['policyctl', 'promote', 'walker', '1.1.0', '--alias', 'fresh']\n"
        "main()\n"
    )
    before = (served.root / ".policyctl" / "journal.jsonl").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "POLICYCTL_REPOSITORY": str(served.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert (served.root / ".policyctl" / "journal.jsonl").read_bytes() == before
    assert served.answered_by() in {"1.0.0", "1.1.0"}


def test_nothing_of_ours_is_left_in_shared_memory(server) -> None:
    """Start, promote, stop: /dev/shm holds no region of this repository's server."""
    prefix = prefix_base(server.root)
    _serve_one(server)
    assert list(Path("/dev/shm").glob(f"{prefix}*"))
    server.stop()
    assert not list(Path("/dev/shm").glob(f"{prefix}*"))
