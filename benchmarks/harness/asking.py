"""Ask a served policy in short turns, in a separate process: how long each call took, as JSON.

    python asking.py MODEL URL PROTOCOL WAY NUMBERS

It reads a turn a line, ``{"callers": 4, "seconds": 0.05}``, and answers with a
line, ``{"times_us": [...], "cpu_us": ...}``: how long each call took, and the
processor's time for all of them in this process. It imports the client alone, so that the client
of another checkout can be asked as well.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from policyctl.client import PolicyClient

MOST_CALLERS = 4
WARM = 50


def main() -> None:
    """Answer turns until there are no more."""
    model, url, protocol, way, numbers = sys.argv[1:]
    observation = np.random.default_rng(0).uniform(-1, 1, int(numbers)).astype(np.float32)
    clients = [PolicyClient(model, url=url, protocol=protocol, deadline_s=10.0) for _ in range(MOST_CALLERS)]
    asks = [client.episode().act if way == "episode" else client.act for client in clients]
    for ask in asks * WARM:
        ask(observation)
    print(flush=True)
    for line in sys.stdin:
        said = json.loads(line)
        print(json.dumps(turn(asks[: said["callers"]], observation, said["seconds"])), flush=True)


def turn(asks: Sequence[Callable[[Any], Any]], observation: Any, seconds: float) -> dict[str, Any]:
    """All callers ask without a pause for so long."""
    times: list[list[int]] = [[] for _ in asks]
    start = threading.Barrier(len(asks))

    def run(ask: Callable[[Any], Any], taken: list[int]) -> None:
        start.wait()
        until = time.perf_counter_ns() + int(seconds * 1e9)
        now = time.perf_counter_ns()
        while now < until:
            begun = now
            ask(observation)
            now = time.perf_counter_ns()
            taken.append(now - begun)

    begun_ns = time.process_time_ns()
    threads = [threading.Thread(target=run, args=pair) for pair in zip(asks, times, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used_ns = time.process_time_ns() - begun_ns
    return {"times_us": [taken_ns / 1e3 for each in times for taken_ns in each], "cpu_us": used_ns / 1e3}


if __name__ == "__main__":
    main()
