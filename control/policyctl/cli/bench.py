"""Commands that measure how fast a served policy answers, and look back: bench, compare, bench-history."""

from __future__ import annotations

import math
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.domain.names import PRODUCTION
from policyctl.domain.protocol import Protocol
from policyctl.errors import PolicyctlError, UsageError
from policyctl.settings import MOST_CLIENTS

if TYPE_CHECKING:
    from policyctl_benchmarks.profiles import Profile

E = TypeVar("E", bound=StrEnum)


class ProfileChoice(StrEnum):
    """What `--profile` takes; `policyctl_benchmarks.profiles` says what each measures."""

    QUICK = "quick"
    STANDARD = "standard"
    SOAK = "soak"


ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Also write one HTML page with plots that needs nothing else.")
]
MarkdownOption = Annotated[Path | None, typer.Option("--markdown", help="Also write Markdown.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(bench)
    app.command()(compare)
    app.command("bench-history")(bench_history)


def bench(
    model: options.Model,
    alias: options.Alias = PRODUCTION,
    profile: Annotated[
        ProfileChoice,
        typer.Option(
            help="quick: 1 and 8 clients; standard: 1 to 32 clients, batches 1, 8, 64, and rates;"
            " soak: load for long, and say whether anything leaks."
        ),
    ] = ProfileChoice.QUICK,
    protocol: Annotated[
        str | None, typer.Option(help="grpc, http, or grpc,http for both in one run. [default: grpc]")
    ] = None,
    shared_memory: Annotated[
        str | None, typer.Option(help="none, system, or none,system for both in one run. [default: none]")
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option("--concurrency", "-c", help="Clients that ask one after another, 1,8 for two levels."),
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Requests a second instead, answered or not, 100,1000 for two levels.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", "-b", help="Observations a request, 1,8,64 for three.")
    ] = None,
    interval_ms: Annotated[int | None, typer.Option(help="Length of each of a point's three windows.", min=100)] = None,
    warmup: Annotated[int | None, typer.Option(help="Requests before each point.", min=0)] = None,
    time_limit_s: Annotated[
        float | None, typer.Option("--time-limit", help="Seconds for everything together.", min=1)
    ] = None,
    duration: Annotated[str, typer.Option("--for", help="Of a soak: how long, 90s, 10m or 2h.")] = "10m",
    reload_every: Annotated[
        str | None, typer.Option(help="Of a soak: load and withdraw a candidate this often, 30s or 5m.")
    ] = None,
    move_to: Annotated[
        str | None,
        typer.Option(
            help="Of a soak: each minute move the alias to this release (1.2.3, ~1.2.0, latest, ...), and back."
        ),
    ] = None,
    leak_limit: Annotated[
        float, typer.Option(help="Of a soak: MB that a process may grow by in a million requests.", min=0.001)
    ] = 10.0,
    keep: Annotated[bool, typer.Option(help="Keep the result in the repository, by this machine.")] = True,
    report: ReportOption = None,
    markdown: MarkdownOption = None,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure a served alias with perf_analyzer, on its own golden observations.

    The result is kept by this machine's fingerprint, for `compare` and `bench-history`.

    Examples:

        policyctl bench walker

        policyctl bench walker --profile standard --protocol grpc,http --report walker.html

        policyctl bench walker --rate 500,1000 --batch 8 --json

        policyctl bench walker --profile soak --for 1h --reload-every 5m
    """
    from policyctl.services import bench as service
    from policyctl_benchmarks.profiles import PROFILES, ProfileName

    if concurrency and rate:
        raise UsageError("--concurrency and --rate exclude each other", remedy="Give one of them.")
    output = Output(as_json)
    given: dict[str, Any] = {
        "protocols": _names("--protocol", protocol, Protocol),
        "shared_memory": _shared_memory(shared_memory),
        "concurrency": _numbers("--concurrency", concurrency, int, most=MOST_CLIENTS),
        "rates": _numbers("--rate", rate, float),
        "batches": _numbers("--batch", batch, int),
        "interval_ms": interval_ms,
        "warmup_requests": warmup,
    }
    if profile is ProfileChoice.SOAK:
        from policyctl.cli import soak

        soak.run(
            options.read_settings(repository, url),
            model=model,
            alias=alias,
            duration=duration,
            clients=(given["concurrency"] or (4,))[0],
            batch=(given["batches"] or (1,))[0],
            reload_every=reload_every,
            move_to=move_to,
            limit_mb=leak_limit,
            as_json=as_json,
        )
        return
    asked = _profile(PROFILES[ProfileName(profile.value)], given, time_limit_s)
    control = options.control_of(options.read_settings(repository, url), output)
    _writable(report, markdown)
    found = service.bench(control, asked, model=model, alias=alias, keep=keep)
    from policyctl_benchmarks import report as reports

    if as_json:
        output.data(found.to_json())
    else:
        output.table(None, reports.title(found), reports.POINT_COLUMNS, reports.point_rows(found))
        if memory := reports.memory_rows(found):
            output.table(None, "Memory", reports.MEMORY_COLUMNS, memory)
    if keep:
        output.say(f"Kept as {found.id} of machine {found.fingerprint}.")
    _write(output, report, lambda: reports.page(found))
    _write(output, markdown, lambda: reports.markdown(found))


def compare(
    one: Annotated[
        str, typer.Argument(help="A result's id or its beginning, its file, or MODEL@RELEASE.", show_default=False)
    ],
    other: Annotated[str, typer.Argument(help="What to hold beside it, named likewise.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Also where the machines differ.")] = False,
    report: ReportOption = None,
    markdown: MarkdownOption = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Hold two kept results beside each other. This is no verdict: for one, see validate.

    MODEL@RELEASE is the latest result of that release on this machine; RELEASE
    may be what selects one: walker@^1.1, walker@latest, walker@production.

    Examples:

        policyctl compare walker@1.0.0 walker@1.1.0

        policyctl compare 3f9a 81c2 --report both.html
    """
    from policyctl.services import results as service
    from policyctl_benchmarks import report as reports
    from policyctl_benchmarks.comparison import LIMITS

    output = Output(as_json)
    control = options.control_of(options.read_settings(repository), output)
    _writable(report, markdown)
    found = service.compare(control, one, other, force=force)
    output.table(
        found.to_json(),
        f"one: {reports.title(found.one)}; other: {reports.title(found.other)}",
        reports.COMPARISON_COLUMNS,
        reports.comparison_rows(found),
    )
    for words in found.cautions:
        output.say(f"Caution: {words}.")
    output.say(LIMITS)
    _write(output, report, lambda: reports.comparison_page(found))
    _write(output, markdown, lambda: reports.comparison_markdown(found))


def bench_history(
    model: options.Model,
    metric: Annotated[str, typer.Option(help="p50_us, p99_us or throughput_per_s.")] = "p50_us",
    protocol: Annotated[Protocol, typer.Option(help="Of the points to follow.")] = Protocol.GRPC,
    batch: Annotated[int, typer.Option("--batch", "-b", help="Of the points to follow.", min=1)] = 1,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", help="Of the points to follow.", min=1)] = 1,
    machine: Annotated[str | None, typer.Option(help="Fingerprint of another machine. [default: this one's]")] = None,
    report: ReportOption = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Follow one metric over the kept results of a model, and say where it changed for good.

    Examples:

        policyctl bench-history walker

        policyctl bench-history walker --metric p99_us --concurrency 8 --json
    """
    from policyctl.services import results as service
    from policyctl_benchmarks import report as reports

    output = Output(as_json)
    control = options.control_of(options.read_settings(repository), output)
    _writable(report)
    found = service.history(
        control,
        model=model,
        metric=metric,
        protocol=protocol,
        batch=batch,
        concurrency=concurrency,
        fingerprint=machine,
    )
    changes = {change.index: change for change in found.changes}
    title = f"{model}, {metric} at {found.point.words()}, machine {found.fingerprint}"
    columns = ("time", "id", "release", "format", metric, "change")
    rows = [
        (
            result.time[:19],
            result.id,
            result.release,
            result.format,
            f"{value:.0f}",
            f"{changes[index].ratio:.2f} times (p {changes[index].p_value:.3f})" if index in changes else "",
        )
        for index, (result, value) in enumerate(zip(found.results, found.values, strict=True))
    ]
    output.table(found.to_json(), title, columns, rows)
    if not found.enough:
        output.say("Too few results to tell a change: five before and five after it are needed.")
    _write(
        output,
        report,
        lambda: reports.history_page(title, found.results, found.values, found.changes, metric, (columns, rows)),
    )


def _profile(base: Profile, given: dict[str, Any], time_limit_s: float | None) -> Profile:
    """The named profile, with what was given instead; a limit alone does not make it another one."""
    changed = {name: value for name, value in given.items() if value is not None}
    if changed.keys() & {"rates", "concurrency", "batches"}:
        changed.setdefault("rate_shares", ())
    if changed:
        changed["name"] = f"{base.name}, changed"
    if time_limit_s is not None:
        changed["time_limit_s"] = time_limit_s
    return replace(base, **changed)


def _shared_memory(text: str | None) -> tuple[Any, ...] | None:
    from policyctl_benchmarks.perf_analyzer import SharedMemory

    return _names("--shared-memory", text, SharedMemory)


def _names(option: str, text: str | None, kind: type[E]) -> tuple[E, ...] | None:
    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a list of {', '.join(kind)}") from None


def _numbers(
    option: str, text: str | None, kind: type[int] | type[float], *, most: float = math.inf
) -> tuple[Any, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(kind(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < value < math.inf for value in found):
        raise UsageError(f"{option} {text!r} is not a list of positive numbers", remedy=f"For example {option} 1,8")
    if max(found) > most:
        raise UsageError(f"{option} {max(found)} is more than {most:g}", remedy=f"For example {option} 1,8,32")
    return found


def _writable(*paths: Path | None) -> None:
    """Minutes of measuring must not end in a folder that does not exist."""
    for path in paths:
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"{path} cannot be written", remedy="Name a file in a folder that exists.")


def _write(output: Output, path: Path | None, render: Any) -> None:
    if path is None:
        return
    try:
        path.write_text(render(), encoding="utf-8")
    except OSError as error:
        raise PolicyctlError(f"{path} cannot be written: {error.strerror}") from error
    output.say(f"Wrote {path}.")
