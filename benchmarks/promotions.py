"""Promotions and rollbacks under continuous load: what is lost, and how long each takes.

    python benchmarks/promotions.py --moves 100 --clients 8

Prints requests, failures, wrong answers, answers by a release that no alias
named at the time, and the distribution of switch times.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from harness.account import show, spread
from policyctl.demo.background_server import BackgroundServer
from policyctl.demo.place import ARCHIVES
from policyctl.measuring.background_load import BackgroundLoad
from policyctl.measuring.load import LoadOptions, read_expected
from policyctl.measuring.load_records import AliasSpan, answers_outside_aliases
from policyctl.services.control import Control
from policyctl.services.moves.rollback import rollback
from policyctl.services.releases.publish import publish
from policyctl.services.rollout.promote import Moved, promote
from policyctl.settings import load as load_settings
from policyctl_exporters import export_policy

RELEASES = ("1.0.0", "1.1.0")


def main() -> int:
    """Run it; 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=100, help="half of them promotions, half rollbacks")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policyctl-promotions-") as name:
        folder = Path(name)
        control = Control.of(load_settings(repository=folder / "model_repository"))
        published(control, folder)
        with BackgroundServer(control.repository.root, folder / "serve.log") as server:
            measured = measure(control, server, folder, moves=given.moves, clients=given.clients)
    return show(measured, as_json=given.json)


def published(control: Control, folder: Path) -> None:
    """Export both releases to `folder` and publish them."""
    for release in RELEASES:
        export_policy(ARCHIVES / f"ppo-{release}.zip", folder / release, trust_pickle=True)
        publish(control, folder / release, model="cartpole", release=release)


def measure(control: Control, server: BackgroundServer, folder: Path, *, moves: int, clients: int) -> dict[str, object]:
    """Move back and forth under load.

    Returns:
        Counts, and times in milliseconds.
    """
    promote(control, model="cartpole", release=RELEASES[0], alias="production")
    options = LoadOptions(
        model="cartpole", url=server.endpoint["grpc"], clients=clients, deadline_s=10.0, duration_s=10.0 * moves
    )
    timeline = [AliasSpan(RELEASES[0], 0)]
    switch_ms: dict[str, list[float]] = {"promotion": [], "rollback": []}
    total_ms: dict[str, list[float]] = {"promotion": [], "rollback": []}
    with BackgroundLoad(options, {r: read_expected(folder / r) for r in RELEASES}) as load:
        for number in range(moves):
            moved, spans = move_once(control, timeline.pop(), forward=number % 2 == 0)
            timeline += spans
            kind = moved.move.kind.value
            if moved.timings is not None:
                switch_ms[kind].append(moved.timings.switch_ms or 0.0)
                total_ms[kind].append(moved.timings.total_ms or 0.0)
            print(f"\r{number + 1}/{moves} moves", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    report = load.report
    measured: dict[str, object] = {
        "moves": moves,
        "clients": clients,
        "requests": report.requests,
        "failed": report.failed,
        "wrong": report.wrong,
        "answers outside aliases": answers_outside_aliases(load.requests, timeline),
        "answers by release": report.by_release,
        "requests per second": round(report.throughput_per_s),
        "p50 / p99 / max us": f"{report.p50_us:.0f} / {report.p99_us:.0f} / {report.max_us:.0f}",
    }
    for kind in ("promotion", "rollback"):
        measured[f"{kind} switch ms"] = spread(switch_ms[kind])
        measured[f"{kind} in all ms"] = spread(total_ms[kind])
    return measured


def move_once(control: Control, before: AliasSpan, *, forward: bool) -> tuple[Moved, list[AliasSpan]]:
    """Promote, or roll back; what the alias named until the end of it, and from its beginning on."""
    begun = time.monotonic_ns()
    if forward:
        moved = promote(control, model="cartpole", release=RELEASES[1], alias="production")
    else:
        moved = rollback(control, model="cartpole", alias="production")
    return moved, [
        AliasSpan(before.release, before.from_ns, time.monotonic_ns()),
        AliasSpan(moved.move.target.release, begun),
    ]


if __name__ == "__main__":
    sys.exit(main())
