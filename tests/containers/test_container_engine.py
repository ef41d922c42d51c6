"""`policyctl serve --engine docker` on a real Docker engine: moves, and every harm that a container can come to."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from embedded import Embedded, wait_for

from harness.container_harm import PATIENCE_S, Harmed, asking, outage_s
from harness.docker_engine import Engine

SAID = {
    Harmed.kill: "The container has ended: exit code 137",
    Harmed.stop: "Starting the container again",
    Harmed.restart: "Starting the container again",
    Harmed.pause: "The container has ended: somebody paused it",
    Harmed.freeze: "The server in the container does not answer",
    Harmed.run_out: "The container has ended: out of memory: docker.memory_mib is 1024",
}


@pytest.fixture
def served(server: Embedded, monkeypatch) -> Embedded:
    """Releases 1.0.0 and 1.1.0 of walker, the first in production."""
    monkeypatch.setenv("POLICYCTL_DOCKER__MEMORY_MIB", "1024")
    server.publish("1.0.0", 1)
    server.publish("1.1.0", 2)
    server.start()
    server.run("promote", "walker", "1.0.0")
    return server


def test_a_container_is_promoted_to_and_rolled_back_and_nobody_goes_without_an_answer(
    served: Embedded, docker: Engine
) -> None:
    """By one container from beginning to end, which is gone with its server; so is the key."""
    harmed = Harmed(docker, served.root)
    first = harmed.id
    with asking(served.endpoint["grpc"], [0.0] * 4, answer_s=PATIENCE_S) as answers:
        served.run("promote", "walker", "1.1.0")
        assert served.answered_by() == "1.1.0"
        served.run("rollback", "walker")
        assert served.answered_by() == "1.0.0"
    assert answers.failures == 0
    assert (harmed.id, first != "") == (first, True)
    (row,) = served.json("status")["aliases"]
    assert row["format"] == "onnx"
    assert served.stop() == 0
    assert harmed.id == ""
    assert not (served.root / ".policyctl" / "server" / "key").exists()


@pytest.mark.parametrize(
    "harms",
    [(Harmed.kill, Harmed.pause, Harmed.freeze), (Harmed.run_out, Harmed.stop, Harmed.restart)],
    ids=["killed, paused, frozen", "out of memory, stopped, restarted"],
)
def test_whatever_happens_to_the_container_another_one_answers(served: Embedded, docker: Engine, harms) -> None:
    """It is replaced, and the log gives the reason; more than three in a row would only wait for ever longer pauses."""
    harmed = Harmed(docker, served.root)
    with asking(served.endpoint["grpc"], [0.0] * 4) as answers:
        for harm in harms:
            before = len(served.log_text)
            outage_s(harmed, answers, harm)
            said = served.log_text[before:]
            assert SAID[harm] in said, f"{harm.__name__}: {said}"
    assert served.answered_by() == "1.0.0"
    assert served.stop() == 0


def test_an_engine_that_was_restarted_runs_another_container(served: Embedded, docker: Engine) -> None:
    """Docker that is away costs no more than its absence and a few seconds: it is asked for all the time."""
    harmed = Harmed(docker, served.root)
    with asking(served.endpoint["grpc"], [0.0] * 4) as answers:
        outage_s(harmed, answers, Harmed.restart_engine)
    assert served.answered_by() == "1.0.0"


def test_an_old_lack_of_memory_is_not_the_reason_of_a_later_kill(served: Embedded, docker: Engine) -> None:
    """The kernel ended another process of the container some time before: both are said, and which came when."""
    harmed = Harmed(docker, served.root)
    harmed.hog()
    ended = time.monotonic()
    wait_for(lambda: time.monotonic() - ended > 5)
    with asking(served.endpoint["grpc"], [0.0] * 4) as answers:
        outage_s(harmed, answers, Harmed.kill)
    served.has_said("The container has ended: exit code 137; ")


def test_the_container_holds_what_is_promised_of_it(served: Embedded, docker: Engine) -> None:
    """No root, no capability, a root file system and a repository that cannot be written, no key in its description."""
    harmed = Harmed(docker, served.root)
    key = (served.root / ".policyctl" / "server" / "key").read_text()
    assert key not in docker.docker("inspect", harmed.name).stdout
    triton = harmed.triton()
    assert triton.uids().real == 1000
    status = Path(f"/proc/{triton.pid}/status").read_text()
    capabilities = {line.split()[0]: int(line.split()[1], 16) for line in status.splitlines() if line.startswith("Cap")}
    assert capabilities == dict.fromkeys(capabilities, 0)
    for path in ("/usr/x", f"{served.root}/x"):
        refused = docker.docker("exec", "--user", "0:0", harmed.name, "sh", "-c", f"echo > {path}", check=False)
        assert "Read-only file system" in refused.stderr
    home = (served.root / ".policyctl" / "server").stat()
    assert (home.st_uid, home.st_mode & 0o777) == (0, 0o700)


def test_what_a_killed_supervisor_left_is_replaced_by_the_next(served: Embedded, docker: Engine) -> None:
    """Its container goes on until then; the next one is another, and serves."""
    harmed = Harmed(docker, served.root)
    left = harmed.id
    served.process.kill()
    served.process.wait()
    assert harmed.id == left
    served.start()
    wait_for(lambda: harmed.id not in {"", left})
    assert served.answered_by() == "1.0.0"
