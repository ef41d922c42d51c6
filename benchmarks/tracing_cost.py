"""What tracing costs a request: a recording, with the trace file that it needs at the start, and OpenTelemetry.

    python benchmarks/tracing_cost.py --rounds 12
    python benchmarks/tracing_cost.py --rounds 12 --ways "spans of one of 100" "spans of every request"

Servers on one repository, one started without any tracing as the plain one;
bursts of perf_analyzer alternate between the ways in an order drawn anew each
round. Ratios are to the plain server within one round; only they mean
anything. A recording reads its files while it runs, as `policyctl record` does;
spans go to a receiver on the same machine that throws them away.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from bare_servers import bare_server, prepared, receiver
from policyctl.serving.command import Spans
from policyctl.serving.native import choose
from policyctl_benchmarks.background_server import COMMAND, BackgroundServer
from policyctl_benchmarks.perf_analyzer import (
    PerfAnalyzerOptions,
    input_data_json,
    link_libraries,
    locate_perf_analyzer,
    run,
)

WAYS = ("plain", "off", "one of 100", "every request", "spans of one of 100", "spans of every request")
SPANS = {"spans of one of 100": 100, "spans of every request": 1}


@contextmanager
def recording(root: Path, folder: Path, way: str) -> Iterator[None]:
    """`policyctl record` at work, where the way asks for it."""
    if way in {"plain", "off", *SPANS}:
        yield
        return
    output = folder / f"{time.monotonic_ns()}.npz"
    asked = ["record", "cartpole", "-r", str(root), "--for", "60s", "--count", "10000000", "-o", str(output), "-q"]
    asked += ["--rate", "100" if way == "one of 100" else "1"]
    recorder = subprocess.Popen([*COMMAND, *asked], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    marker = root / ".policyctl" / "recording.json"
    try:
        while not marker.exists() and recorder.poll() is None:
            time.sleep(0.02)
        time.sleep(0.1)
        yield
    finally:
        recorder.terminate()
        recorder.wait(60)
        output.unlink(missing_ok=True)


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--ways", nargs="+", choices=WAYS[1:], default=list(WAYS[1:4]))
    given = parser.parse_args()
    rng = np.random.default_rng(time.time_ns())
    with tempfile.TemporaryDirectory(prefix="policyctl-tracing-") as name:
        folder = Path(name)
        control, opened = prepared(folder)
        with BackgroundServer(control.repository.root, folder / "serve.log") as server:
            data = folder / "observations.json"
            data.write_text(input_data_json(opened.golden))
            libraries, binary = link_libraries(folder / "libraries"), locate_perf_analyzer()
            seen: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
            with ExitStack() as stack:
                target, urls = stack.enter_context(receiver()), {}
                root, slot = control.repository.root, opened.published.slot
                native = choose(control.settings.serving.native).backend
                for way in ["plain", *(way for way in SPANS if way in given.ways)]:
                    spans = Spans(target, SPANS[way], "benchmark") if way in SPANS else None
                    bare = bare_server(root, folder, "cartpole", slot, spans=spans, native=native)
                    urls[way] = f"127.0.0.1:{stack.enter_context(bare).options.grpc_port}"
                for _ in range(given.rounds):
                    for way in rng.permutation(["plain", *given.ways]):
                        with recording(root, folder, way):
                            for clients in given.clients:
                                options = PerfAnalyzerOptions(
                                    model="cartpole",
                                    url=urls.get(str(way), server.endpoint["grpc"]),
                                    concurrency=(clients,),
                                    measurement_interval_ms=200,
                                    input_data=data,
                                )
                                (found,) = run(options, binary=binary, library_path=libraries)
                                figures = (found.p50_us, found.p99_us, found.throughput_per_s)
                                seen.setdefault((clients, str(way)), []).append(figures)
    report(seen, given.clients, given.ways)


def report(seen: dict[tuple[int, str], list[tuple[float, float, float]]], clients: list[int], ways: list[str]) -> None:
    """Medians over the rounds, each round against its own plain server."""
    print("| clients | tracing | p50 us | ratio (quartiles) | p99 ratio | infer/s | ratio (quartiles) |")
    print("|---|---|---|---|---|---|---|")
    for level in clients:
        plain = np.array(seen[level, "plain"])
        p50, _, rate = np.median(plain, axis=0)
        print(f"| {level} | none | {p50:.0f} | | | {rate:.0f} | |")
        for way in ways:
            these = np.array(seen[level, way])
            p50, _, rate = np.median(these, axis=0)
            low, middle, high = np.percentile(these / plain, (25, 50, 75), axis=0)
            print(
                f"| {level} | {way} | {p50:.0f} | {middle[0]:.3f} ({low[0]:.3f} .. {high[0]:.3f}) | {middle[1]:.2f}"
                f" | {rate:.0f} | {middle[2]:.3f} ({low[2]:.3f} .. {high[2]:.3f}) |"
            )


if __name__ == "__main__":
    main()
