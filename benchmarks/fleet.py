"""A fleet under load: nodes that die and come back while an alias moves over all of them, and what was lost.

    python benchmarks/fleet.py --nodes 5 --moves 20 --clients 8
    python benchmarks/fleet.py --s3

A store is a folder, or with --s3 a server of the S3 protocol (moto). Clients
ask without a pause and go on to the next node where one is gone. Every third
move one node is killed before it and started again after it. Prints requests,
failures, wrong answers, answers by a release that the alias did not name at the
time, answers of an older generation than their client had seen, and how long
each move took.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from harness.account import show, spread
from harness.fleet import LocalFleet, environment, s3_server
from policyctl.demo.place import ARCHIVES
from policyctl.measuring.background_load import BackgroundLoad
from policyctl.measuring.load import LoadOptions, read_expected
from policyctl.measuring.load_records import AliasSpan, answers_older_than_seen, answers_outside_aliases
from policyctl.services.control import Control
from policyctl.services.fleet.moves import Fleet
from policyctl.services.releases.publish import publish
from policyctl.services.releases.transfer import export_release
from policyctl.services.rollout.request import AliasRequest, PromotionRequest, RollbackRequest
from policyctl.settings import load as load_settings
from policyctl_exporters import export_policy

MODEL = "cartpole"
RELEASES = ("1.0.0", "1.1.0")
KILL_EVERY = 3
MOST_AWAY = 1


def main() -> int:
    """Run it; 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--moves", type=int, default=8, help="half of them promotions, half rollbacks")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--s3", action="store_true", help="a store that speaks S3, by moto")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="policyctl-fleet-")))
        store, asking = f"file://{folder}/store", dict[str, str]()
        if given.s3:
            store, asking = stack.enter_context(s3_server(folder))
        stack.enter_context(environment(asking))
        say("Exporting two releases, and putting them into the store ...")
        put(folder, store)
        fleet = LocalFleet(folder, store, tuple(f"node-{n}" for n in range(1, given.nodes + 1)), asking)
        stack.callback(fleet.stop)
        say(f"Starting {given.nodes} nodes on {store} ...")
        fleet.start()
        measured = Measuring(fleet, folder).run(moves=given.moves, clients=given.clients)
    return show(measured, as_json=given.json)


def say(words: str) -> None:
    """What is done, for people."""
    print(words, file=sys.stderr, flush=True)


def put(folder: Path, store: str) -> None:
    """Export both releases, publish them, and put them into the store."""
    control = Control.of(load_settings(repository=folder / "publisher"))
    for release in RELEASES:
        export_policy(ARCHIVES / f"ppo-{release}.zip", folder / release, trust_pickle=True)
        publish(control, folder / release, model=MODEL, release=release)
        export_release(control, model=MODEL, release=release, destination=store)


@dataclass
class Measuring:
    """Moves back and forth under load, with nodes that die."""

    fleet: LocalFleet
    folder: Path
    timeline: list[AliasSpan] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=lambda: {"prepare": [], "promotion": [], "rollback": []})

    def run(self, *, moves: int, clients: int) -> dict[str, object]:
        """Counts, and times in milliseconds."""
        self.move(forward=False, first=True)
        addresses = tuple(node.address for node in self.fleet.nodes.values())
        options = LoadOptions(model=MODEL, url=addresses, clients=clients, deadline_s=10.0, duration_s=60.0 * moves)
        kills = 0
        with BackgroundLoad(options, {r: read_expected(self.folder / r) for r in RELEASES}) as load:
            for number in range(moves):
                node = list(self.fleet.nodes.values())[number % len(self.fleet.nodes)]
                killed = number % KILL_EVERY == KILL_EVERY - 1
                if killed:
                    say(f"Killing {node.name} ...")
                    node.kill()
                    kills += 1
                self.move(forward=number % 2 == 0)
                say(f"{number + 1}/{moves} moves")
                if killed:
                    node.start()
                    self.fleet.wait_until_healthy()
        report = load.report
        measured: dict[str, object] = {
            "nodes": len(self.fleet.nodes),
            "moves": moves,
            "kills": kills,
            "clients": clients,
            "requests": report.requests,
            "failed": report.failed,
            "wrong": report.wrong,
            "answers outside aliases": answers_outside_aliases(load.requests, self.timeline),
            "answers older than seen": answers_older_than_seen(load.requests),
            "answers by release": report.by_release,
            "errors": report.errors,
            "requests per second": round(report.throughput_per_s),
            "p50 / p99 / max us": f"{report.p50_us:.0f} / {report.p99_us:.0f} / {report.max_us:.0f}",
        }
        return measured | {f"{name} ms": spread(values) for name, values in self.times.items()}

    def move(self, *, forward: bool, first: bool = False) -> None:
        """Promote, or roll back; and note what the alias named meanwhile."""
        target = RELEASES[forward]
        settings = {"store": self.fleet.store, "lease_s": 5.0, "max_unavailable": MOST_AWAY}
        command = Fleet(load_settings(repository=self.folder / "none", fleet=settings), lambda _words: None)
        wanted = PromotionRequest(release=target) if forward or first else RollbackRequest()
        begun = time.monotonic_ns()
        done = command.carry_out(AliasRequest(MODEL, wanted))
        if done.refusal is not None:
            raise done.refusal
        if self.timeline:
            last = self.timeline.pop()
            self.timeline.append(AliasSpan(last.release, last.from_ns, time.monotonic_ns()))
        self.timeline.append(AliasSpan(target, begun))
        if not first:
            timings = done.result["timings"]
            self.times["promotion" if forward else "rollback"].append(timings["switch_ms"])
            self.times["prepare"] += [timings["prepare_ms"]] if forward else []


if __name__ == "__main__":
    sys.exit(main())
