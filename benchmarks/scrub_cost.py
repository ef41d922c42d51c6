"""What the background scrub costs a request, at its default rate and far above it.

    python benchmarks/scrub_cost.py --rounds 10

One server under continuous load; beside it, in windows whose order is drawn
anew each round, no scrub, one at the default rate, and one without a limit, each in a
process of its own as the supervisor is. Ratios are to the window without a
scrub within one round, medians over the rounds with their middle half.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from policyctl.services.control import Control
from policyctl.services.promote import promote
from policyctl.services.publish import publish
from policyctl.settings import ScrubSettings
from policyctl.settings import load as load_settings
from policyctl_benchmarks.background_load import BackgroundLoad
from policyctl_benchmarks.background_server import BackgroundServer
from policyctl_benchmarks.load import LoadOptions, read_expected
from policyctl_exporters import export_policy

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "cartpole"
DEFAULT = ScrubSettings().bytes_per_s
WAYS = {"none": 0, "default": DEFAULT, "unbounded": 1 << 40}
_SCRUB = """
import sys, threading, time
from pathlib import Path
from policyctl.services.control import Control
from policyctl.services.scrub import Scrubber
from policyctl.settings import load
settings = load(repository=Path(sys.argv[1]), scrub={"enabled": True, "bytes_per_s": int(sys.argv[2]), "pause_s": 0.0})
scrubber = Scrubber(Control.of(settings), threading.Event())
with scrubber.running():
    while not scrubber.state.bytes_read:
        time.sleep(0.01)
    print("ready", flush=True)
    sys.stdin.read()
"""


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--window-s", type=float, default=2.0)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policyctl-scrub-") as name:
        folder = Path(name)
        control = Control.of(load_settings(repository=folder / "model_repository"))
        export_policy(EXAMPLES / "ppo-1.0.0.zip", folder / "export", trust_pickle=True)
        with (folder / "export" / "ballast.bin").open("wb") as file:
            for _ in range(128):
                file.write(os.urandom(1 << 20))
        publish(control, folder / "export", model="cartpole", release="1.0.0")
        os.environ["POLICYCTL_SCRUB__ENABLED"] = "false"
        with BackgroundServer(control.repository.root, folder / "serve.log") as server:
            promote(control, model="cartpole", release="1.0.0", alias="production")
            found = measure(control, server, folder, given)
    print(json.dumps(found, indent=1) if given.json else _table(found))
    return 0


def measure(
    control: Control, server: BackgroundServer, folder: Path, given: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """By way, by figure: a ratio a round."""
    rng = random.Random(given.seed)
    found: dict[str, dict[str, list[float]]] = {w: {"p50": [], "p99": [], "throughput": []} for w in WAYS if WAYS[w]}
    for number in range(given.rounds):
        order = list(WAYS)
        rng.shuffle(order)
        seen = {way: _window(control, server, folder, WAYS[way], given) for way in order}
        for way, ratios in found.items():
            for index, figure in enumerate(ratios):
                ratios[figure].append(seen[way][index] / seen["none"][index])
        print(f"\r{number + 1}/{given.rounds} rounds", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def _window(
    control: Control, server: BackgroundServer, folder: Path, rate: int, given: argparse.Namespace
) -> tuple[float, float, float]:
    """P50 and P99 in microseconds and requests a second of one window."""
    scrub = None
    if rate:
        command = [sys.executable, "-c", _SCRUB, str(control.repository.root), str(rate)]
        scrub = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if scrub.stdout is None or scrub.stdout.readline() != "ready\n":
            raise RuntimeError("the scrub did not start")
    try:
        options = LoadOptions(
            model="cartpole",
            url=server.endpoint["grpc"],
            clients=given.clients,
            deadline_s=10.0,
            duration_s=given.window_s,
        )
        with BackgroundLoad(options, {"1.0.0": read_expected(folder / "export")}) as load:
            time.sleep(given.window_s)
        report = load.report
    finally:
        if scrub is not None:
            scrub.communicate()
    if report.failed or report.wrong:
        raise RuntimeError(f"{report.failed} requests failed, {report.wrong} answers were wrong")
    return report.p50_us, report.p99_us, report.throughput_per_s


def _table(found: dict[str, dict[str, list[float]]]) -> str:
    lines = []
    for way, ratios in found.items():
        cells = []
        for figure, values in ratios.items():
            low, median, high = np.percentile(values, (25, 50, 75))
            cells.append(f"{figure} {median:.3f} ({low:.3f} to {high:.3f})")
        lines.append(f"{way:<10} " + "   ".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
