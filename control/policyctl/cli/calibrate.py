"""The command that calibrates the gate `non_inferiority` on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.domain.names import PRODUCTION

if TYPE_CHECKING:
    from policyctl.services.calibrate import Calibration, Tally


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(calibrate)


def calibrate(
    model: options.Model,
    alias: options.Alias = PRODUCTION,
    runs: Annotated[
        int, typer.Option("--runs", "-n", help="Live runs, each as long as the gate's time cap.", min=1)
    ] = 5,
    replays: Annotated[int, typer.Option(help="Replays of the recorded rounds for each slow-down.", min=0)] = 200,
    seed: Annotated[int, typer.Option(help="Of orders and replays.", min=0)] = 0,
    save: Annotated[
        Path | None,
        typer.Option(help="Keep the figures and all recorded rounds in this file; go on where it stopped."),
    ] = None,
    recorded: Annotated[
        Path | None, typer.Option("--recorded", help="Replay the rounds of this file; nothing is measured.")
    ] = None,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Compare the served release with itself: how often is the gate wrong here, and what can it see?

    Takes --runs times the time cap of the gate (60 s each unless set), and
    says so after each run. No alias moves. With --save every run is kept as it
    ends, and the same command again measures only the runs that are missing.

    Examples:

        policyctl calibrate walker --runs 30 --save calibration.json

        policyctl calibrate walker --recorded calibration.json --replays 1000
    """
    from policyctl.services import calibrate as service

    output = Output(as_json, quiet)
    control = options.control_of(options.read_settings(repository, url), output)
    if recorded is not None:
        found = service.recalibrate(control, recorded, replays=replays, seed=seed, progress=output.say)
        if save is not None:
            service.save(found, save)
    else:
        cap_s = control.settings.gates.non_inferiority.time_cap_s
        output.say(f"{runs} live runs of {cap_s:g} s: about {runs * (cap_s + 2) / 60:.0f} min.")
        found = service.calibrate(
            control, model=model, alias=alias, live=runs, replays=replays, seed=seed, progress=output.say, path=save
        )
    _show(output, found)


def _show(output: Output, found: Calibration) -> None:
    rows = [("live A/A", *_row(found.live_tally))]
    rows += [(f"replay, +{each.change:.1%} p50", *_row(each)) for each in found.replays]
    output.table(
        found.to_json(),
        f"non_inferiority on {found.model} {found.release}, cap {found.plan.time_cap_s:g} s",
        ("slow-down", "runs", "failed", "failed, 95 % interval", "passed", "inconclusive", "median s"),
        rows,
    )
    seen = found.smallest_seen
    words = "none of those tried" if seen is None else f"{seen:.1%} of the median latency"
    output.say(f"The smallest slow-down found in 95 % of the replays: {words}.")


def _row(each: Tally) -> tuple[Any, ...]:
    data = each.to_json()
    low, high = data["failed_rate_95"]
    interval = f"{low:.1%} to {high:.1%}"
    return (each.runs, data["failed"], interval, data["passed"], data["inconclusive"], f"{each.decided_s:.0f}")
