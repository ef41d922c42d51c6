"""The command that finds out how a model is served best on this machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.domain.choices import MOST_CLIENTS
from policyctl.domain.names import PRODUCTION

if TYPE_CHECKING:
    from policyctl.services.control import Control
    from policyctl.services.experiments.tune import Tuning
    from policyctl.services.experiments.tuning_bench import Plan


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
    from policyctl.cli.soak import seconds
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
    _show(call, tuning)
    if tuning.config:
        call.write(config, lambda: tuning.config)


def _plan(call: Call, control: Control, plan: Plan, model: str, alias: str) -> None:
    from policyctl.services.experiments import tune as service
    from policyctl.services.experiments.tuning_space import size_of

    searched = service.searched(control, model=model, alias=alias)
    count = size_of(searched)
    document = {
        "model": model,
        "space": {k: list(v) for k, v in searched.items()},
        "configurations": count,
        "time_s": plan.time_s,
    }
    call.table(
        document,
        f"{count} configurations, up to {plan.time_s:.0f} s",
        ("what", "values"),
        [(name, ", ".join(map(str, values))) for name, values in searched.items()],
    )


def _show(call: Call, found: Tuning) -> None:
    from policyctl.services.experiments.tuning_space import words

    rows = [
        (
            words(trial.choice),
            "-" if trial.gain is None else f"{100 * math.expm1(trial.gain):+.1f} %",
            "-" if trial.p99_us is None else f"{trial.p99_us / 1e3:.2f}",
            trial.words,
        )
        for trial in sorted(found.trials, key=lambda t: -t.score(found.plan.p99_limit_us))
    ]
    title = f"{found.model} {found.release}: {len(rows)} configurations, compared with the incumbent"
    call.table(found, title, ("configuration", "throughput", "P99 ms", "note"), rows)
    if not call.as_json:
        call.table(
            None,
            "What a batch costs, one client",
            ("batch", "p50 us", "p99 us", "observations/s"),
            [(b.batch_size, f"{b.p50_us:.0f}", f"{b.p99_us:.0f}", f"{b.throughput_per_s:.0f}") for b in found.batches],
        )
    if found.batch_size is not None:
        call.say(f"Within the limit, batches of {found.batch_size} answer the most observations a second.")
    if found.winner is None:
        call.say("Nothing proved better than the incumbent: it stays as it is.")
        return
    call.say(f"Proved better: {words(found.winner)}. {found.verdicts[-1][1].reason}.")
    if found.kept:
        call.say(f"Kept. To serve it: policyctl promote {found.model} {found.release} --alias {found.alias}")
