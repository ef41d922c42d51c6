"""Commands that measure what is served: bench, evaluate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.domain.names import PRODUCTION
from policyctl.domain.protocol import Protocol
from policyctl.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(bench)
    app.command()(evaluate)


def bench(
    model: options.Model,
    alias: options.Alias = PRODUCTION,
    protocol: Annotated[Protocol, typer.Option(help="How to ask.")] = Protocol.GRPC,
    concurrency: Annotated[
        str | None,
        typer.Option(
            "--concurrency", "-c", help="Clients that ask one after another, 1,8 for two levels. [default: 1,8]"
        ),
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Requests a second instead, 100,1000 for two levels.")] = None,
    batch: Annotated[int, typer.Option("--batch", "-b", help="Observations a request.", min=1)] = 1,
    interval_ms: Annotated[int, typer.Option(help="Length of each of the three windows.", min=100)] = 1000,
    warmup: Annotated[int, typer.Option(help="Requests before measuring.", min=0)] = 200,
    time_limit_s: Annotated[
        float, typer.Option("--time-limit", help="Seconds for all levels together.", min=1)
    ] = 120.0,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure a served alias with perf_analyzer, on its own golden observations.

    Examples:

        policyctl bench walker

        policyctl bench walker --rate 500,1000 --protocol http --json
    """
    from policyctl.services import measure as service
    from policyctl_benchmarks.perf_analyzer import PerfAnalyzerOptions

    if concurrency and rate:
        raise UsageError("--concurrency and --rate exclude each other", remedy="Give one of them.")
    output = Output(as_json)
    levels: dict[str, Any] = (
        {"request_rate": _numbers("--rate", rate, float)}
        if rate
        else {"concurrency": _numbers("--concurrency", concurrency or "1,8", int)}
    )
    asked = PerfAnalyzerOptions(
        model=model,
        url="",
        protocol=protocol,
        batch_size=batch,
        measurement_interval_ms=interval_ms,
        warmup_requests=warmup,
        time_limit_s=time_limit_s,
        **levels,
    )
    control = options.control_of(options.read_settings(repository, url), output)
    report = service.bench(control, asked, model=model, alias=alias)
    output.table(
        report.to_json(),
        f"{report.served} {report.release} ({report.format}), {report.protocol}, batch {report.batch_size}",
        (
            str(report.measurements[0].mode),
            "p50 us",
            "p90 us",
            "p95 us",
            "p99 us",
            "infer/s",
            "queue us",
            "compute us",
            "requests",
            "failed",
        ),
        [
            (
                f"{m.level:g}",
                *(
                    f"{v:.0f}"
                    for v in (m.p50_us, m.p90_us, m.p95_us, m.p99_us, m.throughput_per_s, m.queue_us, m.compute_us)
                ),
                m.request_count,
                m.failed_requests,
            )
            for m in report.measurements
        ],
    )
    if report.server_rss_mb is not None:
        stubs = ", ".join(f"{name} {mb:.0f} MB" for name, mb in report.stubs_rss_mb.items())
        output.say(f"Memory: tritonserver {report.server_rss_mb:.0f} MB; {stubs or 'no backend processes'}")


def evaluate(
    model: options.Model,
    env: Annotated[
        str, typer.Option("--env", help="A gymnasium environment, for example CartPole-v1.", show_default=False)
    ],
    episodes: Annotated[int, typer.Option("--episodes", "-n", help="How many; an interval needs two.", min=2)] = 100,
    seed: Annotated[int, typer.Option(help="Of the first episode; each has its own.", min=0)] = 0,
    alias: options.Alias = PRODUCTION,
    protocol: Annotated[Protocol, typer.Option(help="How to ask.")] = Protocol.GRPC,
    reference: Annotated[
        Path | None, typer.Option(help="The policy's own file, run in eager PyTorch on the same seeds beside it.")
    ] = None,
    normalizer: Annotated[Path | None, typer.Option(help="The reference's VecNormalize pickle.")] = None,
    trust_pickle: options.TrustPickle = False,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Run a gymnasium environment against the served policy and report the return.

    Examples:

        policyctl evaluate cartpole --env CartPole-v1 --episodes 20

        policyctl evaluate cartpole --env CartPole-v1 --reference ppo.zip --trust-pickle
    """
    from policyctl.services import measure as service

    output = Output(as_json)
    beside = None
    if reference is not None:
        beside = service.load_act(reference, normalizer=normalizer, trust_pickle=trust_pickle)
    control = options.control_of(options.read_settings(repository, url), output)
    found = service.evaluate(
        control,
        model=model,
        alias=alias,
        env=env,
        episodes=episodes,
        seed=seed,
        protocol=protocol,
        reference=beside,
    )
    document = found.to_json()
    rows = [("served " + ", ".join(found.releases), *_interval(document["served"]["mean"]))]
    if found.reference is not None:
        rows.append(("reference", *_interval(document["reference"]["mean"])))
        rows.append(("served - reference, paired", *_interval(document["difference"])))
    output.table(
        document,
        f"{env}, {episodes} episodes, seeds {seed}..{seed + episodes - 1}",
        ("policy", "return", "95 % interval"),
        rows,
    )


def _interval(found: dict[str, Any]) -> tuple[str, str]:
    return f"{found['mean']:.2f}", f"{found['low']:.2f} .. {found['high']:.2f}"


def _numbers(option: str, text: str, kind: type[int] | type[float]) -> tuple[Any, ...]:
    try:
        found = tuple(kind(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < value < math.inf for value in found):
        raise UsageError(f"{option} {text!r} is not a list of positive numbers", remedy=f"For example {option} 1,8")
    return found
