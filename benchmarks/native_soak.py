"""Whether the native OpenVINO backend lasts: requests by the million, loads by the thousand, memory, swaps.

    python benchmarks/native_soak.py --requests 1000000 --sanitize   # AddressSanitizer, UBSan, LeakSanitizer
    python benchmarks/native_soak.py --requests 10000000
    python benchmarks/native_soak.py --cycles 1000                   # load and unload
    python benchmarks/native_soak.py --swaps 30                      # against the Python-based backend
    python benchmarks/native_soak.py --memory                        # of a server with one CartPole policy

Good requests come from perf_analyzer with 32 clients; malformed ones from a
client of our own meanwhile, and each of those must be answered with an error.
With ``--sanitize`` the backend is compiled with the sanitizers and their runtime
is loaded into the server; a report that names the backend fails the run.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

import backends as bench
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.triton import Triton
from policyctl.serving.backend_directory import add_native, assemble
from policyctl.serving.command import ServerOptions
from policyctl.serving.locate import locate
from policyctl.serving.logs import LogLine, ignore
from policyctl.serving.native import choose
from policyctl.serving.ports import free_ports
from policyctl.serving.process import TritonProcess
from policyctl.settings import NativeMode
from policyctl_benchmarks.perf_analyzer import input_data_json, link_libraries, locate_perf_analyzer

ROOT = Path(__file__).resolve().parent.parent
SANITIZERS = "address,undefined"
CARTPOLE = "4-64-64-2"

GOOD = {"name": "observation", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
MALFORMED: tuple[tuple[list[dict[str, object]], int], ...] = (
    ([{**GOOD, "shape": [1, 5], "parameters": {"binary_data_size": 20}}], 20),
    ([{**GOOD, "shape": [4]}], 16),
    ([{**GOOD, "shape": [0, 4], "parameters": {"binary_data_size": 0}}], 0),
    ([{**GOOD, "shape": [65, 4], "parameters": {"binary_data_size": 1040}}], 1040),
    ([{**GOOD, "shape": [-1, 4]}], 16),
    ([{**GOOD, "shape": [2**62, 4]}], 16),
    ([{**GOOD, "datatype": "INT32"}], 16),
    ([{**GOOD, "datatype": "BYTES"}], 16),
    ([{**GOOD, "name": "observations"}], 16),
    ([GOOD, GOOD], 32),
    ([], 0),
    ([{**GOOD, "parameters": {"binary_data_size": 12}}], 12),
    ([{**GOOD, "parameters": {"binary_data_size": 20}}], 20),
    ([GOOD], -1),  # not a number
)


@contextlib.contextmanager
def served(folder: Path, *, sanitize: bool, versions: int = 1) -> Iterator[tuple[bench.Bench, Triton]]:
    """A server of a CartPole-sized policy by the native backend and by its twin; nothing is loaded yet."""
    contract = bench.export_mlp(folder / "release", [int(width) for width in CARTPOLE.split("-")])
    native = choose(NativeMode.ON).backend
    assert native is not None
    library = native.library
    if sanitize:
        script = [sys.executable, str(ROOT / "backend_openvino" / "build.py"), "--sanitize", SANITIZERS]
        subprocess.run([*script, "--into", str(folder / "sanitized")], check=True)
        library = folder / "sanitized" / library.name
    found = assemble(locate(), folder / "backends")
    add_native(found, bench.NATIVE, library, native.openvino)
    (found / bench.TWIN).mkdir(exist_ok=True)
    shutil.copyfile(bench.OWN_MODELS / "openvino" / "model.py", found / bench.TWIN / "model.py")
    for name in (bench.NATIVE, bench.TWIN):
        candidate = bench.Candidate(name, name, bench.Format.OPENVINO)
        bench.configure(folder / "repository", folder / "release", contract, candidate)
        for slot in range(2, versions + 1):
            shutil.copytree(folder / "repository" / name / "1", folder / "repository" / name / str(slot))
    http_port, grpc, metrics = free_ports(3)
    options = ServerOptions(folder / "repository", found, http_port=http_port, grpc_port=grpc, metrics_port=metrics)
    said: list[LogLine] = []
    process = TritonProcess(options, on_log=said.append if sanitize else ignore)
    with preloaded(folder / "report") if sanitize else contextlib.nullcontext():
        process.start()
        process.wait_live(60)
    data = folder / "observations.json"
    golden = bench.Golden.from_bytes((folder / "release" / bench.GOLDEN_FILE).read_bytes(), contract)
    data.write_text(input_data_json(golden))
    client = Triton(Endpoint(http=f"127.0.0.1:{http_port}", grpc=f"127.0.0.1:{grpc}"))
    try:
        yield bench.Bench(process, locate_perf_analyzer(), link_libraries(folder / "libraries"), data, 5000), client
    finally:
        client.close()
        if sanitize:
            look_for_leaks(process, said)
        process.stop()


def look_for_leaks(process: TritonProcess, said: list[LogLine]) -> None:
    """Ask it to stop, and wait for what the backend says at its end; `stop` would cut that short.

    It is not asked to end altogether: under AddressSanitizer a library of
    Triton's (p11-kit) waits for ever in its destructor, after all of this.
    """
    deadline = time.monotonic() + 120
    os.kill(process.pid, signal.SIGTERM)
    while not any("leaks were found" in line.message for line in list(said)):
        if time.monotonic() > deadline or not process.is_running():
            sys.exit("The server ended, or did not within 120 s, and nobody has looked for leaks.")
        time.sleep(0.1)
    print(next(line.message for line in list(said) if "leaks were found" in line.message))


@contextlib.contextmanager
def preloaded(report: Path) -> Iterator[None]:
    """Whatever is started meanwhile runs under the sanitizers."""
    found = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    wanted = {
        "LD_PRELOAD": str(Path(found.stdout.strip()).resolve()),
        "ASAN_OPTIONS": f"log_path={report}:detect_leaks=1:malloc_context_size=8",
        "TBB_ENABLE_SANITIZERS": "1",  # it loads its parts with RTLD_DEEPBIND otherwise, which ASan refuses
        "UBSAN_OPTIONS": f"log_path={report}:print_stacktrace=1",
    }
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            del os.environ[name]


class Nuisance(threading.Thread):
    """Sends malformed requests over HTTP until told to stop, and counts what comes back."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.sent, self.accepted, self.over = 0, 0, threading.Event()
        self._port = port

    def run(self) -> None:
        """Every kind in turn."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self.over.is_set():
            inputs, size = MALFORMED[self.sent % len(MALFORMED)]
            text = json.dumps({"inputs": inputs}).encode()
            body = np.full(4, np.nan, np.float32).tobytes() if size < 0 else bytes(size)
            connection.request(
                "POST",
                f"/v2/models/{bench.NATIVE}/infer",
                text + body,
                {"Inference-Header-Content-Length": str(len(text))},
            )
            reply = connection.getresponse()
            reply.read()
            self.sent += 1
            self.accepted += reply.status == 200


def rss_mb(process: TritonProcess) -> float:
    """Resident memory of tritonserver."""
    return float(psutil.Process(process.pid).memory_info().rss) / 1e6


def soak(given: argparse.Namespace, folder: Path) -> bool:
    """Good and malformed requests until there were enough; whether all went well."""
    with served(folder, sanitize=given.sanitize) as (server, client):
        client.load(bench.NATIVE, 1)
        candidate, nuisance = bench.Candidate(bench.NATIVE, bench.NATIVE, bench.Format.OPENVINO), None
        nuisance = Nuisance(server.process.options.http_port)
        nuisance.start()
        seen: list[tuple[int, float]] = []
        while (done := server.answered(bench.NATIVE)) + nuisance.sent < given.requests:
            found = server.measure(candidate, 32)
            seen.append((done, rss_mb(server.process)))
            print(f"{done + nuisance.sent:,} requests, {found.per_s:,.0f}/s, {seen[-1][1]:.1f} MB", file=sys.stderr)
        nuisance.over.set()
        nuisance.join(60)
        good = server.answered(bench.NATIVE)
        alive = server.process.is_running()
    half = seen[len(seen) // 2 :]  # what is still being filled at first is no leak
    slope = np.polyfit(*np.array(half).T, 1)[0] * 1e6 if len(half) > 2 else float("nan")
    print(f"{good:,} answered, {nuisance.sent:,} malformed ones refused, {nuisance.accepted} accepted by mistake")
    print(f"memory {seen[0][1]:.1f} MB at first, {seen[-1][1]:.1f} MB at the end, {slope:+.2f} MB a million requests")
    text = "".join(p.read_text(errors="replace") for p in folder.glob("report.*"))
    reports = [part for part in text.split("\n\n") if "libtriton_openvino" in part or "runtime error" in part]
    if given.sanitize:
        print(f"sanitizers: {len(reports)} reports that name the backend ({len(text)} characters in all)")
        print("\n\n".join(reports[:5]))
    return alive and nuisance.accepted == 0 and not reports


def cycles(given: argparse.Namespace, folder: Path) -> bool:
    """Load and unload; memory must be flat once the first loads are over."""
    with served(folder, sanitize=False) as (server, client):
        seen, started = [], time.monotonic()
        for _ in range(given.cycles):
            client.load(bench.NATIVE, 1)
            client.unload(bench.NATIVE)
            seen.append(rss_mb(server.process))
        took = time.monotonic() - started
    parts = np.array_split(np.array(seen), 10)
    print(f"{given.cycles} loads and unloads, {took / given.cycles * 1e3:.0f} ms each; MB by tenth of the run:")
    print(" ".join(f"{part.mean():.1f}" for part in parts))
    return bool(parts[-1].mean() < parts[2].mean() * 1.05)


def swaps(given: argparse.Namespace, folder: Path) -> bool:
    """One served version for another, as a promotion does, by either backend."""
    with served(folder, sanitize=False, versions=2) as (_, client):
        for name in (bench.NATIVE, bench.TWIN):
            file = folder / "repository" / name / "config.pbtxt"
            text, took = file.read_text(), []
            client.load(name, 1)
            for number in range(given.swaps):
                slot = 2 - number % 2
                file.write_text(text.replace("versions: 1", f"versions: {slot}"))
                started = time.monotonic()
                client.load(name, slot)
                took.append((time.monotonic() - started) * 1e3)
            print(f"{name}: {given.swaps} swaps, median {np.median(took):.0f} ms, max {max(took):.0f} ms")
    return True


def memory(folder: Path) -> bool:
    """Resident memory of a server with one policy by either backend, after 2,000 requests."""
    for name in (bench.NATIVE, bench.TWIN):
        with served(folder / name, sanitize=False) as (server, client):
            empty = rss_mb(server.process)
            client.load(name, 1)
            server.measure(bench.Candidate(name, name, bench.Format.OPENVINO), 8)
            stubs = [p.memory_info().rss / 1e6 for p in psutil.Process(server.process.pid).children(recursive=True)]
            print(f"{name}: server {empty:.0f} MB empty, {rss_mb(server.process):.0f} MB serving, stubs {stubs}")
    return True


def main() -> int:
    """Run what was asked for; the exit code says whether all went well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--sanitize", action="store_true")
    parser.add_argument("--cycles", type=int, default=0)
    parser.add_argument("--swaps", type=int, default=0)
    parser.add_argument("--memory", action="store_true")
    given = parser.parse_args()
    well = []
    with tempfile.TemporaryDirectory(prefix="policyctl-soak-") as name:
        folder = Path(name)
        if given.requests:
            well.append(soak(given, folder / "soak"))
        if given.cycles:
            well.append(cycles(given, folder / "cycles"))
        if given.swaps:
            well.append(swaps(given, folder / "swaps"))
        if given.memory:
            well.append(memory(folder / "memory"))
    if not well:
        parser.error("nothing was asked for")
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
