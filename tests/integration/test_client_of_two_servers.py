"""A client of two servers loses no request while one of them dies, comes back, and moves its alias."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from embedded import PATIENCE_S, Embedded, asking, embedded, exported, wait_for
from numpy.typing import NDArray

from policyctl.client import PolicyClient
from policyctl.domain.artifacts import FILES, Format

pytestmark = pytest.mark.server

RELEASES = {"1.0.0": 1, "1.1.0": 2}


def answers_of(seed: int, observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the policy of `seed` says itself; of shape (n, 2)."""
    import torch

    program = torch.jit.load(exported(seed) / FILES[Format.TORCHSCRIPT][0])  # type: ignore[no-untyped-call]
    with torch.no_grad():
        found: NDArray[np.float32] = program(torch.from_numpy(observations))[0].numpy()
    return found


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Embedded]]:
    """Two servers of a repository each, with the same two releases, and one of them in production."""
    folder = tmp_path_factory.mktemp("two-servers")
    with embedded(folder / "one") as one, embedded(folder / "two") as two:
        for server in (one, two):
            for release, seed in RELEASES.items():
                server.publish(release, seed)
            server.start()
            server.run("promote", "walker", "1.0.0")
        yield [one, two]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_nothing_is_lost_while_one_server_dies_and_the_other_moves(servers: list[Embedded], protocol: str) -> None:
    """Four callers ask without pause: each server is killed once, and the alias moves on the one that lives."""
    observations = np.random.default_rng(0).uniform(-1, 1, (16, 4)).astype(np.float32)
    right = {release: answers_of(seed, observations) for release, seed in RELEASES.items()}
    urls = [server.endpoint[protocol] for server in servers]
    with ExitStack() as stack:
        ways = {"url": urls, "protocol": protocol, "deadline_s": PATIENCE_S}
        clients = [stack.enter_context(PolicyClient("walker", **ways)) for _ in range(4)]
        callers = stack.enter_context(asking(clients, observations, right))
        counts, failures = callers.answers, callers.failures
        for dies, lives in (servers, servers[::-1]):
            seen = sum(counts.values())
            wait_for(lambda seen=seen: sum(counts.values()) > seen + 50 or failures)
            pid = dies.triton
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            lives.run("promote", "walker", "1.1.0")
            wait_for(lambda: counts["1.1.0"] > 0 or failures)
            lives.run("rollback", "walker")
            wait_for(lambda dies=dies, pid=pid: dies.triton not in {None, pid}, every_s=0.3)
            wait_for(lambda dies=dies: dies.answered_by() == "1.0.0", every_s=0.3)
    assert failures == []
    assert set(counts) == {"1.0.0", "1.1.0"}
