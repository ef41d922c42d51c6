"""What the start-up options of Triton's front ends change, at the scale of a policy.

    python benchmarks/front_ends.py --rounds 6

One tritonserver for each option, all at once, serves the same policy (an MLP of
64-256-256-8, native OpenVINO backend). They are asked in turn, in interleaved
rounds, in another order each time: over gRPC by perf_analyzer, over HTTP by wrk
(``apt install wrk``), because at 32 clients over HTTP perf_analyzer itself now
and then never ends, while the server goes on answering it. Every ratio is against the server
without the option, paired by round, with a 95 % bootstrap interval; the server
``same`` is without it as well, and shows what chance makes of it.

``--option NAME=ARGUMENT`` adds another one: an argument for tritonserver
(``--http-thread-count=4``) or a variable of its environment (``MALLOC_ARENA_MAX=2``).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import psutil

from backends import CLIENTS, NATIVE, Bench, Candidate, Seen, Table, configure, cpu_s, export_mlp, ratio
from http_variants import Variant
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.triton import Triton
from policyctl.client import Protocol
from policyctl.domain.artifacts import GOLDEN_FILE, Format
from policyctl.domain.golden import Golden
from policyctl.serving.backend_directory import add_native, assemble
from policyctl.serving.command import ServerOptions
from policyctl.serving.locate import locate
from policyctl.serving.native import choose
from policyctl.serving.ports import free_ports
from policyctl.serving.process import TritonProcess
from policyctl.settings import NativeMode
from policyctl_benchmarks.perf_analyzer import input_data_json, link_libraries, locate_perf_analyzer
from policyctl_benchmarks.wrk import locate_wrk, run_wrk

GRPC, HTTP = (Protocol.GRPC,), (Protocol.HTTP,)
BOTH = GRPC + HTTP
BASE = "default"
POLICY = Candidate(NATIVE, NATIVE, Format.OPENVINO)
OUTPUT = "action"


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """A start-up option under test.

    Attributes:
        name: In the table.
        given: Arguments for tritonserver, which begin with ``--``, or variables of its environment.
        protocols: By which it is asked.
    """

    name: str
    given: tuple[str, ...] = ()
    protocols: tuple[Protocol, ...] = BOTH


OPTIONS = (
    Option("same"),
    Option("grpc pool 1", ("--grpc-infer-allocation-pool-size=1",), GRPC),
    Option("grpc pool 64", ("--grpc-infer-allocation-pool-size=64",), GRPC),
    Option("http threads 1", ("--http-thread-count=1",), HTTP),
    Option("http threads 2", ("--http-thread-count=2",), HTTP),
    Option("http threads 4", ("--http-thread-count=4",), HTTP),
    Option("http threads 16", ("--http-thread-count=16",), HTTP),
    Option("no CPU metrics", ("--allow-cpu-metrics=false",)),
    Option("no metrics", ("--allow-metrics=false",)),
    Option("two malloc arenas", ("MALLOC_ARENA_MAX=2",)),
    Option("large tcache", ("GLIBC_TUNABLES=glibc.malloc.tcache_count=2000:glibc.malloc.tcache_max=65536",)),
)


def start(option: Option, folder: Path, backends: Path, data: Path, window_ms: int) -> Bench:
    """Serve the policy by a server of its own that has `option`."""
    http, grpc, metrics = free_ports(3)
    server = ServerOptions(
        repository=folder / "repository",
        backend_directory=backends,
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        extra_args=tuple(word for word in option.given if word.startswith("--")),
    )
    variables = dict(word.split("=", 1) for word in option.given if not word.startswith("--"))
    process = TritonProcess(server)
    with mock.patch.dict(os.environ, variables):
        process.start()
        process.wait_live(30)
    client = Triton(Endpoint(http=f"127.0.0.1:{http}", grpc=f"127.0.0.1:{grpc}"))
    client.load(POLICY.name, 1)
    client.close()
    return Bench(process, locate_perf_analyzer(), link_libraries(folder / "libraries"), data, window_ms)


def run_rounds(benches: dict[Option, Bench], golden: Golden, rounds: int, seed: int) -> dict[Protocol, Table]:
    """Everything once a round, in random order."""
    seen: dict[Protocol, Table] = {protocol: {} for protocol in BOTH}
    order = random.Random(seed)
    for number in range(rounds):
        for protocol in BOTH:
            for clients in CLIENTS:
                asked = [option for option in benches if protocol in option.protocols]
                for option in order.sample(asked, len(asked)):
                    found = measure(benches[option], golden, clients, protocol)
                    seen[protocol].setdefault((option.name, clients), []).append(found)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return seen


def measure(bench: Bench, golden: Golden, clients: int, protocol: Protocol) -> Seen:
    """Ask one server for about three windows."""
    if protocol is Protocol.GRPC:
        return bench.measure(POLICY, clients)
    url = f"http://127.0.0.1:{bench.process.options.http_port}/v2/models/{POLICY.name}/infer"
    request = Variant(POLICY.name, url, "triton-binary", bench.process.pid).request(golden, 1, output=OUTPUT)
    before, cpu = bench.answered(POLICY.name), cpu_s(bench.process.pid)
    seconds = max(1, round(3 * bench.window_ms / 1000))
    found = run_wrk(request, clients=clients, seconds=seconds, binary=locate_wrk())
    used, count = cpu_s(bench.process.pid) - cpu, bench.answered(POLICY.name) - before
    return Seen(found.p50_us, found.p95_us, found.p99_us, found.requests_per_s, used / max(count, 1) * 1e6)


def report(protocol: Protocol, seen: Table, options: Sequence[Option], memory: dict[str, float]) -> None:
    """The medians of the server without an option, and each other's ratios to it."""
    rng = np.random.default_rng(0)
    cells = [f"{np.median([s.p50_us for s in seen[BASE, c]]):.0f} us p50 at {c}" for c in CLIENTS]
    cells += [f"{np.median([s.per_s for s in seen[BASE, c]]):,.0f}/s at {c}" for c in CLIENTS[1:]]
    print(f"\n{protocol.value}, {BASE}: {', '.join(cells)} clients; {memory[BASE]:.0f} MB\n")
    columns = ["p50, 1 client", *(f"infer/s, {c} clients" for c in CLIENTS[1:]), "p99, 32 clients", "CPU, 32 clients"]
    print(f"| option | {' | '.join(columns)} | MB |\n|---|{'---|' * (len(columns) + 1)}")
    for option in options:
        if option.name == BASE or protocol not in option.protocols:
            continue
        asked = [(1, "p50_us"), *((c, "per_s") for c in CLIENTS[1:]), (CLIENTS[-1], "p99_us"), (CLIENTS[-1], "cpu_us")]
        found = [ratio(seen, option.name, BASE, clients, what, rng) for clients, what in asked]
        print(f"| {option.name} | {' | '.join(found)} | {memory[option.name]:.0f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--window-ms", type=int, default=300, help="three such windows a measurement")
    parser.add_argument("--widths", default="64-256-256-8", help="of the policy's layers")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=ARGUMENT", help="one more")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="these alone; repeat it")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    given = parser.parse_args()
    more = [Option(name, (word,)) for name, _, word in (text.partition("=") for text in given.option)]
    options = [Option(BASE), *(o for o in (*OPTIONS, *more) if not given.only or o.name in given.only)]
    native = choose(NativeMode.ON).backend
    if native is None:
        sys.exit("The native backend is not built: make native")
    with tempfile.TemporaryDirectory(prefix="policyctl-front-ends-") as name:
        folder = Path(name)
        contract = export_mlp(folder / "release", [int(width) for width in given.widths.split("-")])
        backends = assemble(locate(), folder / "backends")
        add_native(backends, NATIVE, native.library, native.openvino)
        data = folder / "observations.json"
        golden = Golden.from_bytes((folder / "release" / GOLDEN_FILE).read_bytes(), contract)
        data.write_text(input_data_json(golden))
        benches: dict[Option, Bench] = {}
        try:
            for number, option in enumerate(options):
                # Shared memory is claimed by repository, so each server has its own.
                configure(folder / str(number) / "repository", folder / "release", contract, POLICY)
                benches[option] = start(option, folder / str(number), backends, data, given.window_ms)
            seen = run_rounds(benches, golden, given.rounds, given.seed)
            memory = {o.name: psutil.Process(b.process.pid).memory_info().rss / 1e6 for o, b in benches.items()}
        finally:
            for bench in benches.values():
                bench.process.stop()
    print(f"{len(os.sched_getaffinity(0))} cores, {given.rounds} rounds of 3 x {given.window_ms} ms")
    for protocol in BOTH:
        report(protocol, seen[protocol], options, memory)
    if given.json:
        rows = [
            {"option": name, "clients": clients, "protocol": protocol.value, **dataclasses.asdict(one)}
            for protocol, table in seen.items()
            for (name, clients), found in table.items()
            for one in found
        ]
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
