"""Commands that find out what this machine makes of a model: memory, tune, calibrate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.cli.values import seconds
from policyctl.domain.choices import MOST_CLIENTS
from policyctl.domain.names import PRODUCTION

if TYPE_CHECKING:
    from policyctl.services.control import Control
    from policyctl.services.experiments.calibrate import Calibration, Tally
    from policyctl.services.experiments.tune import Tuning
    from policyctl.services.experiments.tuning_bench import Plan


@options.command("repository")
def memory(
    call: Call,
    model: options.Model,
    load: Annotated[
        str | None, typer.Option(metavar="DURATION", help="First keep every alias under load for so long: 10s or 1m.")
    ] = None,
) -> None:
    """Measure what a served model costs in memory. It says what to set as well.

    Of each process: resident now, its proportional share, what it has to
    itself (what one more of its kind costs), and its peak since it started.

    Examples:
        policyctl memory walker
        policyctl memory walker --load 10s --json
    """
    from policyctl.services.experiments import memory_report as service

    control = call.control()
    found = service.memory(control, model=model, load_s=0.0 if load is None else seconds("--load", load, example="10s"))
    rows = [
        (
            name,
            *(f"{size / 1e6:.1f}" for size in (use.rss_bytes, use.pss_bytes, use.own_bytes, use.peak_bytes)),
            use.threads,
            use.descriptors,
        )
        for name, use in found.rows()
    ]
    columns = ("process", "resident MB", "share MB", "own MB", "peak MB", "threads", "descriptors")
    call.table(found, f"Memory of {model}", columns, rows)
    advice = [(r.setting, r.value, f"{r.reason} ({r.basis})") for r in found.recommendations]
    call.table(None, "Recommended", ("setting", "value", "because"), advice)
    call.say(
        f"{found.available_bytes / 1e6:.0f} MB are left on this machine;"
        f" /dev/shm: {found.shared_memory_bytes / 1e6:.1f} MB in use,"
        f" {found.shared_memory_free_bytes / 1e6:.0f} MB left."
    )


@options.command("repository", "url")
def tune(
    call: Call,
    model: options.Model,
    p99_limit: Annotated[
        str, typer.Option(metavar="DURATION", help="What P99 must stay below: 5ms, 800us is 0.8ms.")
    ] = "50ms",
    time: Annotated[str, typer.Option(metavar="DURATION", help="For everything together: 10m, 90s.")] = "10m",
    clients: Annotated[
        int, typer.Option("--clients", "-c", help="Requests under way while measuring.", min=1, max=MOST_CLIENTS)
    ] = 8,
    gain: Annotated[
        float, typer.Option(help="How much more throughput a winner must have: 0.02 is 2 %.", min=0.0, max=10.0)
    ] = 0.02,
    resume: Annotated[Path | None, typer.Option(help="Keep trials in this file, and go on with those in it.")] = None,
    config: Annotated[Path | None, typer.Option(help="Also write the winner's config.pbtxt here.")] = None,
    keep: Annotated[bool, typer.Option(help="Serve the model so from its next promotion on.")] = True,
    forget: Annotated[bool, typer.Option("--forget", help="Only forget what was kept before.")] = False,
    alias: options.Alias = PRODUCTION,
    dry_run: options.DryRun = False,
) -> None:
    """Search the serving options with the most throughput within a P99 limit.

    They are instances, threads, queue delay and preferred batches. Every
    configuration is measured next to the one that serves. A winner counts only
    if it wins again in a second comparison. No alias moves: the next
    promotion is served by what was found, unless a setting says otherwise.

    Examples:
        policyctl tune walker --p99-limit 5ms --time 10m --resume walker.tune
        policyctl tune walker --dry-run
        policyctl tune walker --forget
    """
    from policyctl.services.experiments import tune as service
    from policyctl.services.experiments.tuning_bench import Plan

    control = call.control()
    if forget:
        found = service.forget(control, model=model)
        call.data({"model": model, "forgotten": found}, words="Forgotten." if found else "Nothing had been kept.")
        return
    plan = Plan(
        p99_limit_us=seconds("--p99-limit", p99_limit, example="5ms") * 1e6,
        time_s=seconds("--time", time, example="10m"),
        clients=clients,
        gain=gain,
        resume=resume,
    )
    call.require_writable(resume, config)
    if dry_run:
        _plan(call, control, plan, model, alias)
        return
    tuning = service.tune(control, plan, model=model, alias=alias, keep=keep)
    _show_tuning(call, tuning)
    if tuning.config:
        call.write(config, lambda: tuning.config)


def _plan(call: Call, control: Control, plan: Plan, model: str, alias: str) -> None:
    from policyctl.services.experiments import tune as service
    from policyctl.services.experiments.tuning_space import size_of

    searched = service.searched(control, model=model, alias=alias)
    count = size_of(searched)
    document = {"model": model, "space": searched, "configurations": count, "time_s": plan.time_s}
    call.table(
        document,
        f"{count} configurations, up to {plan.time_s:.0f} s",
        ("what", "values"),
        [(name, ", ".join(map(str, values))) for name, values in searched.items()],
    )


def _show_tuning(call: Call, found: Tuning) -> None:
    rows = [
        (
            trial.choice.words,
            "-" if trial.log_gain is None else f"{100 * math.expm1(trial.log_gain):+.1f} %",
            "-" if trial.p99_us is None else f"{trial.p99_us / 1e3:.2f}",
            trial.words,
        )
        for trial in sorted(found.trials, key=lambda t: -t.score(found.plan.p99_limit_us))
    ]
    title = f"{found.model} {found.release}: {len(rows)} configurations, compared with the incumbent"
    call.table(found, title, ("configuration", "throughput", "P99 ms", "note"), rows)
    batches = [(b.batch_size, f"{b.p50_us:.0f}", f"{b.p99_us:.0f}", f"{b.throughput_per_s:.0f}") for b in found.batches]
    columns = ("batch", "p50 us", "p99 us", "observations/s")
    call.table(None, "What a batch costs, one client", columns, batches)
    if found.batch_size is not None:
        call.say(f"Within the limit, batches of {found.batch_size} answer the most observations a second.")
    if found.winner is None:
        call.say("Nothing proved better than the incumbent: it stays as it is.")
        return
    call.say(f"Proved better: {found.winner.words}. {found.verdicts[-1][1].reason}.")
    if found.kept:
        call.say(f"Kept. To serve it: policyctl promote {found.model} {found.release} --alias {found.alias}")


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
    _show_calibration(call, found)


def _show_calibration(call: Call, found: Calibration) -> None:
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
