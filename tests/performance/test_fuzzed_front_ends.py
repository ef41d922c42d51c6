"""Many requests that no honest client sends, to both front ends at once, while an honest client asks."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from embedded import PATIENCE_S, Embedded, client_file, embedded, needs_guard
from fuzzed_requests import KEY, grpc_request, http_request, send_grpc, send_http

from policyctl.client import PolicyClient

pytestmark = [pytest.mark.server, needs_guard]

REQUESTS = 3000
SEED = int(os.environ.get("FUZZ_SEED", "20261"))
"""Another one asks other questions; a failure names it."""


@pytest.fixture(params=["off", "auto"], ids=["python", "native"])
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Embedded]:
    """A server of walker, which knows a region of 4096 bytes."""
    monkeypatch.setenv("POLICYCTL_SERVING__NATIVE", request.param)
    with client_file(KEY, bytes(4096)), embedded(tmp_path, apart=True) as server:
        server.publish("1.0.0", 1)
        server.start()
        server.run("promote", "walker", "1.0.0")
        yield server


def ask_by_http(port: int, seed: int, ended: multiprocessing.Queue[Counter[str]]) -> None:
    rng = random.Random(seed)
    ended.put(Counter(send_http(port, http_request(rng))[9:12].decode(errors="replace") for _ in range(REQUESTS)))


def ask_by_grpc(port: int, seed: int, ended: multiprocessing.Queue[Counter[str]]) -> None:
    rng = random.Random(seed)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ended.put(Counter(send_grpc(channel, *grpc_request(rng), rng).name for _ in range(REQUESTS)))


def test_no_request_ends_the_server_or_changes_the_answers_of_others(served: Embedded) -> None:
    """Every answer of an honest client, by gRPC and by HTTP, is the one that it had before."""
    pid, context = served.endpoint["pid"], multiprocessing.get_context("spawn")
    http, by_grpc = (int(served.endpoint[name].rpartition(":")[2]) for name in ("http", "grpc"))
    ended: multiprocessing.Queue[Counter[str]] = context.Queue()
    observations = np.random.default_rng(SEED).uniform(-1, 1, (64, 4)).astype(np.float32)
    hostile = [
        context.Process(target=ask_by_http, args=(http, SEED, ended)),
        context.Process(target=ask_by_grpc, args=(by_grpc, SEED, ended)),
    ]
    with (
        PolicyClient("walker", url=served.endpoint["grpc"], deadline_s=PATIENCE_S) as one,
        PolicyClient("walker", url=served.endpoint["http"], protocol="http", deadline_s=PATIENCE_S) as other,
    ):
        right = [one.act(observation).value for observation in observations]
        for process in hostile:
            process.start()
        asked = 0
        while any(process.is_alive() for process in hostile) or asked < 128:
            for client in (one, other):
                action = client.act(observations[asked % 64])
                assert np.array_equal(action.value, right[asked % 64]), f"seed {SEED}"
            asked += 1
    ends = [ended.get(timeout=60) for _ in hostile]
    assert served.endpoint["pid"] == pid, f"seed {SEED}: {served.log_text[-2000:]}"
    assert {"200", "400", "OK", "INVALID_ARGUMENT"} <= ends[0].keys() | ends[1].keys(), ends
