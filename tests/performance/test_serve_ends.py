"""`policyctl serve` is asked to end at any moment of its life, many times over."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from embedded import Embedded, embedded, runs, wait_for

pytestmark = pytest.mark.server

SPIN = "while True: pass"
TIMES = int(os.environ.get("TIMES", "1"))
ROUNDS = {models: TIMES * rounds for models, rounds in {0: 4, 1: 8, 60: 1}.items()}
"""By the number of models that are served; TIMES=20 makes hundreds of them."""


@contextmanager
def spinning(processes: int) -> Iterator[None]:
    """So many processes compute meanwhile."""
    running = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(processes)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


@pytest.fixture(scope="module", params=ROUNDS)
def served(request, tmp_path_factory) -> Iterator[tuple[Embedded, int, float]]:
    """A repository that serves so many aliases, their number, and how long its server takes to get ready."""
    with embedded(tmp_path_factory.mktemp("ends")) as server:
        server.control.repository.create()
        if request.param:
            server.publish("1.0.0", 1)
            server.start()
            for number in range(request.param):
                server.run("promote", "walker", "1.0.0", "--alias", f"a{number}")
            assert server.stop() == 0
        began = time.monotonic()
        server.start()
        ready_s = time.monotonic() - began
        assert server.stop() == 0
        yield server, request.param, ready_s


@pytest.mark.parametrize("busy", [0, 2], ids=["quiet", "busy"])
def test_a_server_ends_when_it_is_asked_to_at_any_moment(served: tuple[Embedded, int, float], busy: int) -> None:
    """SIGTERM comes at random from the first line of output on. No process, no memory and no last resort is left."""
    server, models, ready_s = served
    moments = random.Random(f"{models} {busy}")
    stuck = server.root / ".policyctl" / "logs" / "stuck.txt"
    with spinning(busy):
        for round_ in range(ROUNDS[models]):
            server.log.write_text("")
            server.begin()
            wait_for(lambda: server.log_text or not server.is_running, every_s=0.005)
            time.sleep(moments.uniform(0, ready_s + 1))
            assert server.is_running, server.log_text
            family = psutil.Process(server.process.pid).children(recursive=True)
            code = server.stop()
            where = f"round {round_} with {models} models: exit code {code}\n{server.log_text}"
            # Until it listens for signals, SIGTERM ends it as it ends any process.
            assert code in {0, -signal.SIGTERM}, where
            assert not stuck.exists(), f"{where}\n{stuck.read_text()}"
            wait_for(lambda family=family: not any(map(runs, family)))
            if code == 0:
                assert server.memory_left() == [], where
