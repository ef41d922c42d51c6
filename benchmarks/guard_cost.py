"""What the guard of Triton costs a gRPC request.

    python benchmarks/guard_cost.py --rounds 12

Two bare servers on one repository, one with the guard and one without; bursts
of perf_analyzer alternate between them in an order drawn anew each round.
Ratios are within a round; only they mean anything.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bare_servers import bare_server, prepared, unguarded
from policyctl.serving.native import choose
from policyctl_benchmarks.perf_analyzer import (
    PerfAnalyzerOptions,
    input_data_json,
    link_libraries,
    locate_perf_analyzer,
    run,
)

WAYS = ("without", "with")


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    given = parser.parse_args()
    rng = np.random.default_rng(time.time_ns())
    seen: dict[tuple[int, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="policyctl-guard-") as name, ExitStack() as stack:
        folder = Path(name)
        control, opened = prepared(folder)
        data = folder / "observations.json"
        data.write_text(input_data_json(opened.golden))
        native, urls = choose(control.settings.serving.native).backend, {}
        for way in WAYS:
            with unguarded(way == "without"):
                server = stack.enter_context(
                    bare_server(control.repository.root, folder, "cartpole", opened.published.slot, native=native)
                )
            urls[way] = f"127.0.0.1:{server.options.grpc_port}"
        libraries, binary = link_libraries(folder / "libraries"), locate_perf_analyzer()
        for _ in range(given.rounds):
            for way in map(str, rng.permutation(WAYS)):
                for clients in given.clients:
                    options = PerfAnalyzerOptions(
                        model="cartpole",
                        url=urls[way],
                        concurrency=(clients,),
                        measurement_interval_ms=400,
                        input_data=data,
                    )
                    (found,) = run(options, binary=binary, library_path=libraries)
                    seen.setdefault((clients, way), []).append((found.p50_us, found.throughput_per_s))
    print("| clients | p50 us without, with | ratio (quartiles) | infer/s without, with | ratio (quartiles) |")
    print("|---|---|---|---|---|")
    for clients in given.clients:
        bare, guarded = (np.array(seen[clients, way]) for way in WAYS)
        low, middle, high = np.percentile(guarded / bare, (25, 50, 75), axis=0)
        medians = np.median(bare, axis=0), np.median(guarded, axis=0)
        cells = [
            f"{medians[0][i]:.0f}, {medians[1][i]:.0f} | {middle[i]:.3f} ({low[i]:.3f} .. {high[i]:.3f})"
            for i in (0, 1)
        ]
        print(f"| {clients} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
