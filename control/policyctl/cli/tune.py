"""The command that finds out how a model is served best on this machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.domain.names import PRODUCTION
from policyctl.errors import PolicyctlError, UsageError
from policyctl.settings import MOST_CLIENTS

if TYPE_CHECKING:
    from policyctl.services.control import Control
    from policyctl.services.tune import Tuning
    from policyctl.services.tune_bench import Plan


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(tune)


def tune(
    model: options.Model,
    p99_limit: Annotated[str, typer.Option(help="What P99 must stay below: 5ms, 800us is 0.8ms.")] = "50ms",
    time: Annotated[str, typer.Option("--time", help="For everything together: 10m, 90s.")] = "10m",
    clients: Annotated[
        int, typer.Option("--clients", "-c", help="Requests under way while measuring.", min=1, max=MOST_CLIENTS)
    ] = 8,
    gain: Annotated[
        float, typer.Option(help="How much more throughput a winner must have: 0.02 is 2 %.", min=0.0, max=10.0)
    ] = 0.02,
    resume: Annotated[Path | None, typer.Option(help="Keep trials in this file, and go on with those in it.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Also write the winner's config.pbtxt here.")] = None,
    keep: Annotated[bool, typer.Option(help="Serve the model so from its next promotion on.")] = True,
    forget: Annotated[bool, typer.Option("--forget", help="Only forget what was kept before.")] = False,
    alias: options.Alias = PRODUCTION,
    dry_run: options.DryRun = False,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Search instances, threads, queue delay and preferred batches for the most throughput within a P99 limit.

    Every configuration is measured beside the one that serves. A winner counts
    only if it wins again in a comparison of its own. No alias moves: the next
    promotion is served by what was found, unless a setting says otherwise.

    Examples:

        policyctl tune walker --p99-limit 5ms --time 10m --resume walker.tune

        policyctl tune walker --dry-run

        policyctl tune walker --forget
    """
    from policyctl.cli.soak import seconds
    from policyctl.services import tune as service
    from policyctl.services.tune_bench import Plan

    output = Output(as_json, quiet)
    control = options.control_of(options.read_settings(repository, url), output)
    if forget:
        found = service.forget(control, model=model)
        output.data({"model": model, "forgotten": found}, words="Forgotten." if found else "Nothing had been kept.")
        return
    plan = Plan(
        p99_limit_us=seconds("--p99-limit", p99_limit) * 1e6,
        time_s=seconds("--time", time),
        clients=clients,
        gain=gain,
        resume=resume,
    )
    for path in (resume, config):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"{path} cannot be written", remedy="Name a file in a folder that exists.")
    if dry_run:
        _plan(output, control, plan, model, alias)
        return
    tuning = service.tune(control, plan, model=model, alias=alias, keep=keep)
    _show(output, tuning)
    if config is not None and tuning.config:
        try:
            config.write_text(tuning.config, encoding="utf-8")
        except OSError as error:
            raise PolicyctlError(f"{config} cannot be written: {error.strerror}") from error
        output.say(f"Wrote {config}.")


def _plan(output: Output, control: Control, plan: Plan, model: str, alias: str) -> None:
    from policyctl.services import tune as service
    from policyctl.services.tune_space import size_of

    searched = service.searched(control, model=model, alias=alias)
    count = size_of(searched)
    document = {
        "model": model,
        "space": {k: list(v) for k, v in searched.items()},
        "configurations": count,
        "time_s": plan.time_s,
    }
    output.table(
        document,
        f"{count} configurations, up to {plan.time_s:.0f} s",
        ("what", "values"),
        [(name, ", ".join(map(str, values))) for name, values in searched.items()],
    )


def _show(output: Output, found: Tuning) -> None:
    from policyctl.services.tune_space import words

    rows = [
        (
            words(trial.choice),
            "-" if trial.gain is None else f"{100 * math.expm1(trial.gain):+.1f} %",
            "-" if trial.p99_us is None else f"{trial.p99_us / 1e3:.2f}",
            trial.words,
        )
        for trial in sorted(found.trials, key=lambda t: -t.score(found.plan.p99_limit_us))
    ]
    title = f"{found.model} {found.release}: {len(rows)} configurations beside the incumbent"
    output.table(found.to_json(), title, ("configuration", "throughput", "P99 ms", "note"), rows)
    if not output.as_json:
        output.table(
            None,
            "What a batch costs, one client",
            ("batch", "p50 us", "p99 us", "observations/s"),
            [(b.batch_size, f"{b.p50_us:.0f}", f"{b.p99_us:.0f}", f"{b.throughput_per_s:.0f}") for b in found.batches],
        )
    if found.batch_size is not None:
        output.say(f"Within the limit, batches of {found.batch_size} answer the most observations a second.")
    if found.winner is None:
        output.say("Nothing proved better than the incumbent: it stays as it is.")
        return
    output.say(f"Proved better: {words(found.winner)}. {found.verdicts[-1][1].reason}.")
    if found.kept:
        output.say(f"Kept. To serve it: policyctl promote {found.model} {found.release} --alias {found.alias}")
