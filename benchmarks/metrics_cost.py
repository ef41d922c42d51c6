"""What the prober and the exporter cost a request, and what a scrape costs.

    python benchmarks/metrics_cost.py --rounds 12

One server under continuous load. In windows whose order is drawn anew each
round, its supervisor is stopped (no prober, no exporter), or probes each
second, or probes and is scraped each second too, or is scraped as Prometheus
does it in all: Triton's page as well. Ratios are to the window with the
supervisor stopped within one round: medians over the rounds, with exact
intervals of 95 %. Beside them stands the processor time that the supervisor
itself took, and how long a scrape takes with a short and with a long journal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import urllib3

from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.statistics import median_interval
from policyctl.services.control import Control
from policyctl.services.known_journal import KnownJournal
from policyctl.services.metrics import Metrics
from policyctl.services.promote import promote
from policyctl.services.publish import publish
from policyctl.settings import load as load_settings
from policyctl_benchmarks.background_load import BackgroundLoad
from policyctl_benchmarks.background_server import BackgroundServer
from policyctl_benchmarks.load import LoadOptions, read_expected
from policyctl_exporters import export_policy

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "cartpole"
WAYS = ("stopped", "prober", "prober and exporter", "prober, exporter and Triton's page")
FIGURES = ("p50", "p99", "throughput")


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--window-s", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--scrape-s", type=float, default=1.0, help="from one scrape to the next")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policyctl-metrics-") as name:
        folder = Path(name)
        control = Control.of(load_settings(repository=folder / "model_repository"))
        export_policy(EXAMPLES / "ppo-1.0.0.zip", folder / "export", trust_pickle=True)
        publish(control, folder / "export", model="cartpole", release="1.0.0")
        os.environ["POLICYCTL_SCRUB__ENABLED"] = "false"
        with BackgroundServer(control.repository.root, folder / "serve.log") as server:
            promote(control, model="cartpole", release="1.0.0", alias="production")
            found = measure(server, folder, given)
            found["scrape_ms"] = scrape_times(server, control, folder)
    print(json.dumps(found, indent=1) if given.json else _table(found))
    return 0


def measure(server: BackgroundServer, folder: Path, given: argparse.Namespace) -> dict[str, dict[str, object]]:
    """By way: an interval a figure, and the supervisor's share of a core."""
    rng = random.Random(given.seed)
    ratios: dict[str, dict[str, list[float]]] = {way: {f: [] for f in FIGURES} for way in WAYS[1:]}
    cores: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(given.rounds):
        order = list(WAYS)
        rng.shuffle(order)
        seen = {}
        for way in order:
            seen[way], core = _window(server, folder, way, given)
            cores[way].append(core)
        for way, by_figure in ratios.items():
            for index, figure in enumerate(FIGURES):
                by_figure[figure].append(seen[way][index] / seen["stopped"][index])
        print(f"\r{number + 1}/{given.rounds} rounds", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    told: dict[str, dict[str, object]] = {
        way: {f: _interval(values) for f, values in by_figure.items()} for way, by_figure in ratios.items()
    }
    told["supervisor_core_percent"] = {way: round(100 * statistics.mean(v), 2) for way, v in cores.items()}
    return told


def _interval(values: list[float]) -> tuple[float, float, float]:
    """Median of the ratios, and an exact interval of 95 %."""
    found = median_interval(np.log(values), alpha_low=0.025, alpha_high=0.025)
    return tuple(round(float(np.exp(v)), 4) for v in (found.median, found.low, found.high))


def _window(
    server: BackgroundServer, folder: Path, way: str, given: argparse.Namespace
) -> tuple[tuple[float, float, float], float]:
    """P50 and P99 in microseconds and requests a second of one window, and the supervisor's share of a core."""
    supervisor = psutil.Process(server.endpoint["supervisor_pid"])
    options = LoadOptions(
        model="cartpole",
        url=server.endpoint["grpc"],
        clients=given.clients,
        deadline_s=10.0,
        duration_s=given.window_s,
    )
    with (
        _stopped(supervisor, way),
        _scraping(server, way, given.scrape_s),
        BackgroundLoad(options, {"1.0.0": read_expected(folder / "export")}) as load,
    ):
        before, began = sum(supervisor.cpu_times()[:2]), time.monotonic()
        time.sleep(given.window_s)
        core = (sum(supervisor.cpu_times()[:2]) - before) / (time.monotonic() - began)
    report = load.report
    if report.failed or report.wrong:
        raise RuntimeError(f"{report.failed} requests failed, {report.wrong} answers were wrong")
    return (report.p50_us, report.p99_us, report.throughput_per_s), core


@contextmanager
def _stopped(supervisor: psutil.Process, way: str) -> Iterator[None]:
    if way == "stopped":
        supervisor.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        supervisor.send_signal(signal.SIGCONT)


@contextmanager
def _scraping(server: BackgroundServer, way: str, every_s: float) -> Iterator[None]:
    keys = {WAYS[2]: ("control_metrics",), WAYS[3]: ("control_metrics", "metrics")}.get(way, ())
    urls, stop = [f"http://{server.endpoint[key]}/metrics" for key in keys], threading.Event()

    def scrape() -> None:
        while not stop.wait(every_s):
            for url in urls:
                if urllib3.request("GET", url).status != 200:
                    raise RuntimeError(f"{url} could not be scraped")

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def scrape_times(server: BackgroundServer, control: Control, folder: Path) -> dict[str, float]:
    """Milliseconds: a scrape, and what a longer journal adds to the first scrape after a change."""
    url = f"http://{server.endpoint['control_metrics']}/metrics"

    def ask() -> float:
        began = time.perf_counter()
        size = len(urllib3.request("GET", url).data)
        if not size:
            raise RuntimeError("an empty scrape")
        return (time.perf_counter() - began) * 1e3

    found = {"median of 50": round(statistics.median(ask() for _ in range(50)), 2)}
    for count in (100, 10_000):
        journal = folder / f"journal-{count}" / ".policyctl" / "journal.jsonl"
        journal.parent.mkdir(parents=True)
        journal.write_bytes(b"".join(r.to_line() for r in _longer(control.repository.journal.records(), count)))
        own = Control.of(load_settings(repository=journal.parent.parent))
        metrics = Metrics(own, KnownJournal(own))
        for name in (f"{count} records, changed", f"{count} records, unchanged"):
            began = time.perf_counter()
            metrics.collect()
            found[name] = round((time.perf_counter() - began) * 1e3, 2)
    return found


def _longer(records: tuple[Record, ...], count: int) -> list[Record]:
    """The journal, with verdicts of a gate behind it up to `count` records."""
    published = next(r.body for r in records if r.kind is RecordKind.PUBLISHED)
    body = {**published, "gate": "bake", "verdict": "passed", "evidence_digest": "sha256:" + "0" * 64}
    body.pop("contract", None)
    found = list(records)
    while len(found) < count:
        last = found[-1]
        found.append(Record(len(found), last.digest, last.time, last.actor, RecordKind.GATE, body))
    return found


def _table(found: dict[str, dict[str, object]]) -> str:
    lines = []
    for way in WAYS[1:]:
        cells = [f"{f} {m:.3f} ({low:.3f} to {high:.3f})" for f, (m, low, high) in found[way].items()]  # type: ignore[misc]
        lines.append(f"{way:<36} " + "   ".join(cells))
    lines += [f"{name}: {values}" for name, values in found.items() if name not in WAYS]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
