"""Whether Triton lives where it traces every request of eight busy clients, with its guard and without.

    python benchmarks/traced_load.py --runs 3 --seconds 20

Each run starts a server anew and keeps eight clients of perf_analyzer at it
without pause, until the time is over or the server is. Recordings are Triton's
own trace files, with tensors; spans go to a receiver on the same machine that
throws them away. Ways alternate, in an order drawn anew each run.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bare_servers import bare_server, prepared, receiver, unguarded
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.triton import Triton
from policyctl.errors import ServerError
from policyctl.services.control import Control
from policyctl.serving.command import Spans
from policyctl.serving.native import choose
from policyctl.serving.process import TritonProcess
from policyctl.settings import NativeMode
from policyctl_benchmarks.perf_analyzer import (
    PerfAnalyzerOptions,
    input_data_json,
    link_libraries,
    locate_perf_analyzer,
    run,
)

CLIENTS = 8
RECORDING = {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": "1", "trace_count": "-1", "log_frequency": "1000"}

Way = tuple[str, str, str]
"""What traces, which backend serves, and whether the guard is preloaded."""

WAYS: tuple[Way, ...] = tuple(
    itertools.product(("recording", "spans"), ("Python-based", "native"), ("without", "with"))
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: how many requests were answered, about, and what became of the server."""

    requests: float
    ended: str


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs have in common."""

    control: Control
    folder: Path
    slot: int
    data: Path
    target: str
    seconds: float

    def outcome(self, way: Way) -> Outcome:
        """One run on a server of its own."""
        kind, backend, guard = way
        native = choose(NativeMode.ON).backend if backend == "native" else None
        traces = self.folder / "traces"
        traces.mkdir(mode=0o700)
        spans = Spans(self.target, 1, "benchmark") if kind == "spans" else None
        root, file = self.control.repository.root, None if spans else traces / "trace"
        try:
            with (
                unguarded(guard == "without"),
                bare_server(
                    root, self.folder, "cartpole", self.slot, spans=spans, trace_file=file, native=native
                ) as server,
            ):
                if not spans:
                    client = Triton(Endpoint(http="", grpc=f"127.0.0.1:{server.options.grpc_port}"))
                    client.trace("cartpole", RECORDING)
                    client.close()
                return self._load(server)
        finally:
            shutil.rmtree(traces)

    def _load(self, server: TritonProcess) -> Outcome:
        libraries, binary = link_libraries(self.folder / "libraries"), locate_perf_analyzer()
        options = PerfAnalyzerOptions(
            model="cartpole",
            url=f"127.0.0.1:{server.options.grpc_port}",
            concurrency=(CLIENTS,),
            measurement_interval_ms=500,
            input_data=self.data,
            time_limit_s=15.0,
        )
        begun, requests = time.monotonic(), 0.0
        while time.monotonic() - begun < self.seconds:
            burst = time.monotonic()
            try:
                (found,) = run(options, binary=binary, library_path=libraries)
            except ServerError:
                time.sleep(1.0)  # a server that crashes prints its stack first
                code = server.exit_code()
                return Outcome(requests, "stuck" if code is None else f"signal {-code}")
            requests += found.throughput_per_s * (time.monotonic() - burst)
        return Outcome(requests, "")


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    rng = np.random.default_rng(time.time_ns())
    with tempfile.TemporaryDirectory(prefix="policyctl-traced-") as name, receiver() as target:
        folder = Path(name)
        control, opened = prepared(folder)
        data = folder / "observations.json"
        data.write_text(input_data_json(opened.golden))
        bench = Bench(control, folder, opened.published.slot, data, target, given.seconds)
        seen: dict[Way, list[Outcome]] = {way: [] for way in WAYS}
        for _ in range(given.runs):
            for index in rng.permutation(len(WAYS)):
                seen[WAYS[index]].append(bench.outcome(WAYS[index]))
    print("| traced | backend | guard | runs that it did not live through | requests answered in all |")
    print("|---|---|---|---|---|")
    for (kind, backend, guard), outcomes in seen.items():
        ended = [each.ended for each in outcomes if each.ended]
        how = f" ({', '.join(sorted(ended))})" if ended else ""
        requests = sum(each.requests for each in outcomes)
        print(f"| {kind} | {backend} | {guard} | {len(ended)} of {len(outcomes)}{how} | {requests:.0f} |")


if __name__ == "__main__":
    main()
