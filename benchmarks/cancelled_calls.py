"""Whether Triton lives where clients cancel gRPC calls at their deadlines, with its guard and without.

    python benchmarks/cancelled_calls.py --runs 3 --seconds 20

Each run starts a server anew. Two processes of twelve threads ask it without
pause, each call with a deadline drawn from 0.2 to 2.5 ms, around what an answer
takes; Triton's own client cancels the call at that time. Ways alternate, in an
order drawn anew each run. Memory is what tritonserver has resident, at the start
and at the end of the last run that it lived through.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from bare_servers import bare_server, prepared, unguarded
from policyctl.services.control import Control
from policyctl.serving.native import choose
from policyctl.settings import NativeMode

PROCESSES, THREADS = 2, 12
DEADLINES_S = (0.0002, 0.0025)

Way = tuple[str, str]
"""Which backend serves, and whether the guard is preloaded."""

WAYS: tuple[Way, ...] = tuple(itertools.product(("Python-based", "native"), ("without", "with")))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: calls that were answered and that were cancelled, what became of the server, and its memory."""

    answered: int
    cancelled: int
    ended: str
    mib: tuple[float, float]


def ask(url: str, seconds: float) -> dict[str, int]:
    """Be one process of clients, until the time is over or the server is."""
    counts = {"answered": 0, "cancelled": 0}
    lock, end = threading.Lock(), time.monotonic() + seconds

    def loop() -> None:
        tensor = triton.InferInput("observation", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 4), np.float32))
        with triton.InferenceServerClient(url, channel_args=[("grpc.use_local_subchannel_pool", 1)]) as client:
            while time.monotonic() < end:
                try:
                    client.infer("cartpole", [tensor], client_timeout=random.uniform(*DEADLINES_S))
                    outcome = "answered"
                except InferenceServerException as error:
                    if "DEADLINE" not in str(error.status()):
                        return
                    outcome = "cancelled"
                with lock:
                    counts[outcome] += 1

    threads = [threading.Thread(target=loop) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def outcome(control: Control, folder: Path, slot: int, way: Way, seconds: float) -> Outcome:
    """One run on a server of its own."""
    backend, guard = way
    native = choose(NativeMode.ON).backend if backend == "native" else None
    with (
        unguarded(guard == "without"),
        bare_server(control.repository.root, folder, "cartpole", slot, native=native) as server,
    ):
        before = server.memory().server_rss_bytes / 2**20
        command = [
            sys.executable,
            __file__,
            "--ask",
            f"127.0.0.1:{server.options.grpc_port}",
            "--seconds",
            str(seconds),
        ]
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(PROCESSES)]
        found = [json.loads(client.communicate()[0]) for client in clients]
        time.sleep(1.0)  # a server that crashes prints its stack first
        code = server.exit_code()
        after = server.memory().server_rss_bytes / 2**20 if code is None else 0.0
    ended = "" if code is None else f"signal {-code}"
    return Outcome(sum(f["answered"] for f in found), sum(f["cancelled"] for f in found), ended, (before, after))


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--ask", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        print(json.dumps(ask(given.ask, given.seconds)))
        return
    rng = np.random.default_rng(time.time_ns())
    seen: dict[Way, list[Outcome]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="policyctl-cancelled-") as name:
        folder = Path(name)
        control, opened = prepared(folder)
        for _ in range(given.runs):
            for index in rng.permutation(len(WAYS)):
                found = outcome(control, folder, opened.published.slot, WAYS[index], given.seconds)
                seen[WAYS[index]].append(found)
    print("| backend | guard | runs that it did not live through | answered | cancelled | MiB before, after |")
    print("|---|---|---|---|---|---|")
    for (backend, guard), outcomes in seen.items():
        ended = sorted(each.ended for each in outcomes if each.ended)
        how = f" ({', '.join(ended)})" if ended else ""
        lived = [each.mib for each in outcomes if not each.ended]
        memory = "{:.0f}, {:.0f}".format(*lived[-1]) if lived else ""
        print(
            f"| {backend} | {guard} | {len(ended)} of {len(outcomes)}{how} | {sum(e.answered for e in outcomes)}"
            f" | {sum(e.cancelled for e in outcomes)} | {memory} |"
        )


if __name__ == "__main__":
    main()
