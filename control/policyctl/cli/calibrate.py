"""The command that calibrates the gate `non_inferiority` on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.domain.names import PRODUCTION

if TYPE_CHECKING:
    from policyctl.services.experiments.calibrate import Calibration, Tally


@options.command("repository", "url")
def calibrate(
    call: Call,
    model: options.Model,
    alias: options.Alias = PRODUCTION,
    runs: Annotated[
        int, typer.Option("--runs", "-n", help="Live runs, each as long as the gate's time cap.", min=1)
    ] = 5,
    replays: Annotated[int, typer.Option(help="Replays of the recorded rounds for each slow-down.", min=0)] = 200,
    seed: Annotated[int, typer.Option(help="Of orders and replays.", min=0)] = 0,
    save: Annotated[
        Path | None, typer.Option(help="Keep the figures and all recorded rounds in this file; go on where it stopped.")
    ] = None,
    recorded: Annotated[Path | None, typer.Option(help="Replay the rounds of this file; nothing is measured.")] = None,
) -> None:
    """Measure how often the performance gate is wrong on this machine. It compares a release with itself.

    Takes --runs times the time cap of the gate (60 s each unless set), and
    says so after each run. No alias moves. With --save every run is kept as it
    ends, and the same command again measures only the runs that are missing.

    Examples:

        policyctl calibrate walker --runs 30 --save calibration.json

        policyctl calibrate walker --recorded calibration.json --replays 1000
    """
    from policyctl.services.experiments import calibrate as service

    control = call.control()
    if recorded is not None:
        found = service.recalibrate(control, recorded, replays=replays, seed=seed, progress=call.say)
        if save is not None:
            service.save(found, save)
    else:
        cap_s = control.settings.gates.non_inferiority.time_cap_s
        call.say(f"{runs} live runs of {cap_s:g} s: about {runs * (cap_s + 2) / 60:.0f} min.")
        found = service.calibrate(
            control, model=model, alias=alias, live=runs, replays=replays, seed=seed, progress=call.say, path=save
        )
    _show(call, found)


def _show(call: Call, found: Calibration) -> None:
    rows = [("live A/A", *_row(found.live_tally))]
    rows += [(f"replay, +{each.change:.1%} p50", *_row(each)) for each in found.replays]
    call.table(
        found,
        f"non_inferiority on {found.model} {found.release}, cap {found.plan.time_cap_s:g} s",
        ("slow-down", "runs", "failed", "failed, 95 % interval", "passed", "inconclusive", "median s"),
        rows,
    )
    seen = found.smallest_seen
    words = "none of those tried" if seen is None else f"{seen:.1%} of the median latency"
    call.say(f"The smallest slow-down found in 95 % of the replays: {words}.")


def _row(each: Tally) -> tuple[Any, ...]:
    data = each.to_json()
    low, high = data["failed_rate_95"]
    interval = f"{low:.1%} to {high:.1%}"
    return (each.runs, data["failed"], interval, data["passed"], data["inconclusive"], f"{each.decided_s:.0f}")
