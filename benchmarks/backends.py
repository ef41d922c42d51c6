"""What a request costs by each backend: latency, throughput and server CPU, beside a backend that writes zeros.

    python benchmarks/backends.py --rounds 6

One tritonserver serves the same policy (an MLP, 64-256-256-8 unless told
otherwise) by every backend, and perf_analyzer asks them over gRPC in
interleaved rounds. Client and server share the machine, and machines have good
and bad minutes, so only the ratios within one run mean anything: they are paired
by round, and come with bootstrap intervals.

``--variant NAME:KEY=VALUE,...`` adds the native backend with other options of
OpenVINO, ``--build NAME=LIBRARY`` another build of it, ``--nvidia LIBRARY`` a
build of NVIDIA's OpenVINO backend, ``--nvidia-onnxruntime LIBRARY`` of its ONNX
Runtime backend (their own libraries beside them).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
import psutil
import torch

from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.pbtxt import ServingOptions, render
from policyctl.adapters.triton import Triton
from policyctl.client import Protocol
from policyctl.domain.artifacts import CONTRACT_FILE, GOLDEN_FILE, MANIFEST_FILE, Format
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.integrity import build_manifest
from policyctl.serving.backend_directory import add_native, assemble
from policyctl.serving.command import ServerOptions
from policyctl.serving.locate import locate
from policyctl.serving.native import choose
from policyctl.serving.ports import free_ports
from policyctl.serving.process import TritonProcess
from policyctl.settings import NativeMode
from policyctl_benchmarks.intervals import mean_with_interval
from policyctl_benchmarks.perf_analyzer import (
    PerfAnalyzerOptions,
    input_data_json,
    link_libraries,
    locate_perf_analyzer,
    run,
)
from policyctl_exporters import export_policy

FLOOR, NATIVE, TWIN, ONNX = "floor", "openvino_native", "openvino_python", "onnxruntime_python"
CLIENTS = (1, 8, 32)
BUILD = Path(__file__).resolve().parent.parent / "build" / "backend_openvino"
OWN_MODELS = Path(sys.modules["policyctl.serving"].__path__[0]) / "backends"


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """One backend under test.

    Attributes:
        name: In the table, and of its Triton model.
        backend: Name of Triton's backend.
        format: Which artifact it serves.
        parameters: For ``config.pbtxt``.
        max_batch: 0 where Triton must not batch.
    """

    name: str
    backend: str
    format: Format
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    max_batch: int = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """One candidate in one round at one number of clients."""

    p50_us: float
    p95_us: float
    p99_us: float
    per_s: float
    cpu_us: float


Table = dict[tuple[str, int], list[Seen]]
"""What was seen of each candidate at each number of clients, by round."""


def export_mlp(folder: Path, widths: Sequence[int]) -> Contract:
    """Export a random MLP of these widths; how fast it is does not depend on its weights."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for taken, given in itertools.pairwise(widths):
        layers += [torch.nn.Linear(taken, given), torch.nn.Tanh()]
    export_policy(
        torch.nn.Sequential(*layers),
        folder,
        formats=[Format.ONNX, Format.OPENVINO],
        observation_space=gym.spaces.Box(-1, 1, (widths[0],)),
        action_space=gym.spaces.Box(-1, 1, (widths[-1],)),
        golden_rows=16,
    )
    return Contract.from_json(json.loads((folder / CONTRACT_FILE).read_bytes()))


def lay_backends(folder: Path, given: argparse.Namespace) -> tuple[Path, list[Candidate]]:
    """A backend directory that has all of them, side by side."""
    choice = choose(NativeMode.ON)
    native = choice.backend
    if native is None or not (BUILD / "libtriton_floor.so").is_file():
        sys.exit("The native backend is not built: make native")
    found = assemble(locate(), folder)
    add_native(found, FLOOR, BUILD / "libtriton_floor.so")
    add_native(found, NATIVE, native.library, native.openvino)
    for name, own in ((TWIN, "openvino"), (ONNX, "onnxruntime")):
        (found / name).mkdir(exist_ok=True)
        shutil.copyfile(OWN_MODELS / own / "model.py", found / name / "model.py")
    candidates = [
        Candidate(FLOOR, FLOOR, Format.OPENVINO),
        Candidate(NATIVE, NATIVE, Format.OPENVINO),
        Candidate(TWIN, TWIN, Format.OPENVINO),
        Candidate(ONNX, ONNX, Format.ONNX),
    ]
    for variant in given.variant:
        name, _, options = variant.partition(":")
        parameters = dict(option.split("=", 1) for option in options.split(",") if option)
        candidates.append(Candidate(name, NATIVE, Format.OPENVINO, parameters))
    for build in given.build:
        name, _, library = build.partition("=")
        add_native(found, name, Path(library), native.openvino)
        candidates.append(Candidate(name, name, Format.OPENVINO))
    for name, library, fmt in (
        ("openvino_nvidia", given.nvidia, Format.OPENVINO),
        ("onnxruntime_nvidia", given.nvidia_onnxruntime, Format.ONNX),
    ):
        if library:
            # Its own folder is kept as it is, because its libraries lie beside it.
            shutil.copytree(library.parent, found / name)
            (found / name / library.name).rename(found / name / f"libtriton_{name}.so")
            # NVIDIA's OpenVINO backend compiles one size of batch, so Triton must not form any.
            candidates.append(Candidate(name, name, fmt, max_batch=0 if fmt is Format.OPENVINO else 64))
    return found, [c for c in candidates if not given.only or c.name in given.only or c.name == FLOOR]


def configure(repository: Path, release: Path, contract: Contract, candidate: Candidate) -> None:
    """Put the release into the repository under the candidate's name."""
    slot = repository / candidate.name / "1"
    shutil.copytree(release, slot)
    manifest = build_manifest(slot, model=candidate.name, release="1.0.0")
    (slot / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    text = render(
        contract,
        release="1.0.0",
        slot=1,
        releases={"1": "1.0.0"},
        manifest_digest=manifest.digest,
        format=candidate.format,
        options=ServingOptions(parameters=candidate.parameters),
    )
    own = "onnxruntime" if candidate.format is Format.ONNX else "openvino"
    text = text.replace(f'backend: "{own}"', f'backend: "{candidate.backend}"')
    if candidate.max_batch == 0:
        text = text.replace("max_batch_size: 64", "max_batch_size: 0").replace("dims: ", "dims: -1\n  dims: ")
        text = text[: text.index("dynamic_batching")] + text[text.index("parameters") :]
    (repository / candidate.name / "config.pbtxt").write_text(text)


def cpu_s(pid: int) -> float:
    """CPU time of the server and of its stubs, so far."""
    server = psutil.Process(pid)
    return sum(sum(p.cpu_times()[:2]) for p in (server, *server.children(recursive=True)))


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """A running server and what measures it."""

    process: TritonProcess
    binary: Path
    libraries: Path
    data: Path
    window_ms: int

    def answered(self, model: str) -> int:
        """Requests that `model` has answered so far."""
        url = f"http://127.0.0.1:{self.process.options.http_port}/v2/models/{model}/stats"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return int(json.load(reply)["model_stats"][0]["inference_stats"]["success"]["count"])

    def measure(self, candidate: Candidate, clients: int, protocol: Protocol = Protocol.GRPC) -> Seen:
        """Ask one candidate with perf_analyzer."""
        before, cpu = self.answered(candidate.name), cpu_s(self.process.pid)
        server = self.process.options
        options = PerfAnalyzerOptions(
            model=candidate.name,
            url=f"127.0.0.1:{server.grpc_port if protocol is Protocol.GRPC else server.http_port}",
            protocol=protocol,
            concurrency=(clients,),
            input_data=self.data,
            measurement_interval_ms=self.window_ms,
            # Writing every request down takes the client more time than the floor takes to answer it.
            exact=False,
            time_limit_s=30 + 12 * self.window_ms / 1000,
        )
        (found,) = run(options, binary=self.binary, library_path=self.libraries)
        used, count = cpu_s(self.process.pid) - cpu, self.answered(candidate.name) - before
        return Seen(found.p50_us, found.p95_us, found.p99_us, found.requests_per_s, used / max(count, 1) * 1e6)


def start(folder: Path, given: argparse.Namespace) -> tuple[Bench, list[Candidate]]:
    """Export, configure and serve every candidate."""
    release = folder / "release"
    contract = export_mlp(release, [int(width) for width in given.widths.split("-")])
    backends, candidates = lay_backends(folder / "backends", given)
    for candidate in candidates:
        configure(folder / "repository", release, contract, candidate)
    http, grpc, metrics = free_ports(3)
    server = ServerOptions(
        repository=folder / "repository",
        backend_directory=backends,
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        extra_args=tuple(given.server_argument),
    )
    process = TritonProcess(server)
    process.start()
    process.wait_live(30)
    client = Triton(Endpoint(http=f"127.0.0.1:{http}", grpc=f"127.0.0.1:{grpc}"))
    for candidate in candidates:
        client.load(candidate.name, 1)
    client.close()
    data = folder / "observations.json"
    data.write_text(input_data_json(Golden.from_bytes((release / GOLDEN_FILE).read_bytes(), contract)))
    bench = Bench(process, locate_perf_analyzer(), link_libraries(folder / "libraries"), data, given.window_ms)
    return bench, candidates


def run_rounds(bench: Bench, candidates: Sequence[Candidate], given: argparse.Namespace) -> Table:
    """Everything once a round, in another order each time."""
    seen: Table = {}
    for number in range(given.rounds):
        for clients in CLIENTS:
            shift = number % len(candidates)
            for candidate in (*candidates[shift:], *candidates[:shift]):
                seen.setdefault((candidate.name, clients), []).append(bench.measure(candidate, clients))
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    return seen


def ratio(seen: Table, name: str, base: str, clients: int, what: str, rng: np.random.Generator) -> str:
    """Geometric mean over rounds of `name` over `base`, with its 95 % interval."""
    pairs = zip(seen[name, clients], seen[base, clients], strict=True)
    logs = [math.log(getattr(own, what) / getattr(other, what)) for own, other in pairs]
    if len(logs) < 2:
        return f"{math.exp(logs[0]):.2f}"
    found = mean_with_interval(logs, rng=rng)
    return f"{math.exp(found.mean):.2f} [{math.exp(found.low):.2f}, {math.exp(found.high):.2f}]"


def report(seen: Table, names: Sequence[str]) -> None:
    """Two tables: medians over rounds, and paired ratios."""
    rng = np.random.default_rng(0)

    def median(name: str, clients: int, what: str) -> float:
        return float(np.median([getattr(one, what) for one in seen[name, clients]]))

    columns = [f"infer/s, {c} clients" for c in CLIENTS[1:]]
    print(f"| backend | p50/p95/p99 us, 1 client | {' | '.join(columns)} | server CPU us a request, 1/8/32 clients |")
    print("|---|---|" + "---|" * len(columns) + "---|")
    for name in names:
        latency = "/".join(f"{median(name, 1, f'p{q}_us'):.0f}" for q in (50, 95, 99))
        rates = " | ".join(f"{median(name, clients, 'per_s'):,.0f}" for clients in CLIENTS[1:])
        cost = "/".join(f"{median(name, clients, 'cpu_us'):.0f}" for clients in CLIENTS)
        print(f"| {name} | {latency} | {rates} | {cost} |")
    for base in [name for name in (FLOOR, TWIN) if name in names]:
        print(f"\n| ratio to {base} | p50, 1 client | {' | '.join(columns)} | server CPU, 1 client |")
        print("|---|---|" + "---|" * len(columns) + "---|")
        for name in names:
            cells = [ratio(seen, name, base, 1, "p50_us", rng)]
            cells += [ratio(seen, name, base, clients, "per_s", rng) for clients in CLIENTS[1:]]
            cells += [ratio(seen, name, base, 1, "cpu_us", rng)]
            print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--window-ms", type=int, default=1000, help="three such windows a measurement")
    parser.add_argument("--widths", default="64-256-256-8", help="of the policy's layers")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this one and the floor; repeat it")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME:KEY=VALUE,...")
    parser.add_argument("--build", action="append", default=[], metavar="NAME=LIBRARY")
    parser.add_argument("--nvidia", type=Path, metavar="LIBRARY")
    parser.add_argument("--nvidia-onnxruntime", type=Path, metavar="LIBRARY")
    parser.add_argument("--server-argument", action="append", default=[], help="for tritonserver, as it is")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policyctl-backends-") as name:
        bench, candidates = start(Path(name), given)
        try:
            seen = run_rounds(bench, candidates, given)
        finally:
            bench.process.stop()
    print(
        f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, {given.rounds} rounds\n"
    )
    report(seen, [candidate.name for candidate in candidates])
    if given.json:
        rows = [{"backend": n, "clients": c, **dataclasses.asdict(s)} for (n, c), found in seen.items() for s in found]
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
