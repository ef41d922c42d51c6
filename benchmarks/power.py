"""How often the gate `non_inferiority` finds a slow-down of a known size, live, on the real Triton.

    python benchmarks/power.py --changes 0,0.05,0.1,0.2 --runs 20

A server is started with ``ALLOW_POLICYCTL_SPIN=1``; the candidate is the very
release that is served, but its backend spins for some microseconds in each
inference. How many make the median latency longer by the given part is found
first, because a spin of 10 % shows as more than 10 %: other threads go to sleep
meanwhile and have to be woken. Prints one row a slow-down, with what all its
rounds showed in the end, and keeps everything with ``--save``. A run takes its
time cap at most, and a few seconds for loading.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from policyctl.domain.names import PRODUCTION
from policyctl.domain.paired import Metric, Round
from policyctl.domain.verdict import Verdict
from policyctl.services.calibrate import Run, tally
from policyctl.services.candidate import loaded
from policyctl.services.control import Control, open_release
from policyctl.services.performance import bursts_of, compare, plan_of
from policyctl.services.promote import promote
from policyctl.services.publish import publish
from policyctl.services.validate import place
from policyctl.serving.backends.injected import VARIABLE
from policyctl.serving.backends.spin import PARAMETER
from policyctl.serving.hardware import detect
from policyctl.settings import load as load_settings
from policyctl_benchmarks.background_server import BackgroundServer
from policyctl_exporters import export_policy

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "cartpole" / "ppo-1.0.0.zip"
MODEL, RELEASE = "cartpole", "1.0.0"
REST = (Verdict.PASSED, Verdict.INCONCLUSIVE, Verdict.ERROR)


def main() -> int:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", default="0,0.05,0.1,0.2", help="parts of the median latency, commas between")
    parser.add_argument("--runs", type=int, default=20, help="of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="keep every round in this file")
    given = parser.parse_args()
    changes = [float(part) for part in given.changes.split(",")]
    os.environ[VARIABLE] = "1"
    os.environ["POLICYCTL_SERVING__NATIVE"] = "off"  # the native backend refuses what tests inject
    with tempfile.TemporaryDirectory(prefix="policyctl-power-") as name:
        folder = Path(name)
        control = Control.of(load_settings(repository=folder / "model_repository"))
        export_policy(EXAMPLE, folder / RELEASE, trust_pickle=True)
        publish(control, folder / RELEASE, model=MODEL, release=RELEASE)
        cap_s = plan_of(control).time_cap_s
        print(f"{len(changes) * given.runs} runs: at most {len(changes) * given.runs * (cap_s + 3) / 60:.0f} min")
        with BackgroundServer(control.repository.root, folder / "serve.log"):
            promote(control, model=MODEL, release=RELEASE, alias=PRODUCTION, gates=())
            base_us = median_us(control)
            spins = {change: spin_for(control, change, base_us, given.seed) for change in changes}
            seen = measure(control, spins, runs=given.runs, seed=given.seed)
    report(seen, spins, base_us)
    if given.save:
        machine = {"fingerprint": detect().fingerprint, "words": detect().words()}
        kept = {str(change): [run.to_json() for run in runs] for change, runs in seen.items()}
        given.save.write_text(
            json.dumps({"base_us": base_us, "spin_us": list(spins.items()), "machine": machine, "runs": kept})
        )
    return 0


def median_us(control: Control) -> float:
    """The served release's median latency with the gate's own number of clients."""
    chosen = control.settings.gates.non_inferiority
    opened = open_release(control.repository, control.repository.journal.state().release(MODEL, RELEASE))
    with bursts_of(control, opened, interval_ms=chosen.interval_ms) as bursts:
        return float(np.median([bursts.closed(MODEL, clients=chosen.clients).p50_us for _ in range(9)]))


def shown(runs: Sequence[Run]) -> float:
    """By which part the candidate's median latency was longer, over all rounds of `runs`."""
    logs = [r.log_slow_down(Metric.P50) for run in runs for r in run.rounds]
    return math.exp(float(np.median(logs))) - 1


def spin_for(control: Control, change: float, base_us: float, seed: int) -> int:
    """Microseconds of spinning that make the median latency longer by `change`, by two steps of the secant."""
    spin_us = change * base_us
    for step in range(2 if change else 0):
        found = shown([one(control, round(spin_us), np.random.default_rng([seed, step]), stop_early=False)])
        print(f"{spin_us:.0f} us show as {found:+.1%}, wanted {change:+.1%}", file=sys.stderr, flush=True)
        spin_us *= min(2.0, max(0.5, change / max(found, change / 4)))
    return round(spin_us)


def measure(control: Control, spins: Mapping[float, int], *, runs: int, seed: int) -> dict[float, list[Run]]:
    """Every slow-down in turn, again and again, so that a drift of the machine meets all of them alike."""
    rng = np.random.default_rng(seed)
    seen: dict[float, list[Run]] = {change: [] for change in spins}
    for number in range(runs):
        for change, spin_us in spins.items():
            began = time.monotonic()
            seen[change].append(one(control, spin_us, rng))
            last = seen[change][-1]
            print(
                f"{number + 1}/{runs} +{change:.1%} ({spin_us} us): {last.verdict} after {last.decided_s:.0f} s"
                f" ({time.monotonic() - began:.0f} s in all). {last.reason}",
                file=sys.stderr,
                flush=True,
            )
    return seen


def one(control: Control, spin_us: int, rng: np.random.Generator, *, stop_early: bool = True) -> Run:
    """One run of the gate against a candidate that spins."""
    chosen, plan = control.settings.gates.non_inferiority, plan_of(control)
    parameters = {**control.settings.serving.parameters, **({PARAMETER: str(spin_us)} if spin_us else {})}
    serving = control.settings.serving.model_copy(update={"parameters": parameters})
    slowed = Control.of(control.settings.model_copy(update={"serving": serving}))
    rounds: list[Round] = []
    with slowed.repository.writer("power"), slowed.triton() as client:
        state = slowed.repository.journal.state()
        opened = open_release(slowed.repository, state.release(MODEL, RELEASE))
        placement = place(slowed, state, opened, None)
        with (
            loaded(slowed, client, state, opened, placement) as candidate,
            slowed.repository.writer_aside(),
            bursts_of(slowed, opened, interval_ms=chosen.interval_ms) as bursts,
        ):
            result = compare(
                bursts.side(MODEL, clients=chosen.clients),
                bursts.side(candidate.ask.served, clients=chosen.clients),
                plan,
                rng=rng,
                on_round=lambda found: rounds.append(found[-1]),
                stop_early=stop_early,
            )
    return Run(result.verdict, rounds[-1].ended_s if rounds else 0.0, tuple(rounds), result.reason)


def report(seen: dict[float, list[Run]], spins: Mapping[float, int], base_us: float) -> None:
    """Print the power curve."""
    print(f"median latency {base_us:.0f} us")
    columns = ["slow-down", "spin us", "shown", "runs", "failed", "95 % interval", "passed", "inconclusive", "error"]
    print(f"| {' | '.join([*columns, 'median s', 'longest s'])} |\n|{'---|' * (len(columns) + 2)}")
    for change, runs in seen.items():
        data = tally([(run.verdict, run.decided_s) for run in runs], change=change).to_json()
        low, high = data["failed_rate_95"]
        cells = [f"{change:.1%}", spins[change], f"{shown(runs):+.1%}", data["runs"], data["failed"]]
        cells += [f"{low:.0%} to {high:.0%}", *(data[v.value] for v in REST)]
        cells += [f"{data['median_seconds']:.0f}", f"{max(r.decided_s for r in runs):.0f}"]
        print(f"| {' | '.join(str(cell) for cell in cells)} |")


if __name__ == "__main__":
    sys.exit(main())
