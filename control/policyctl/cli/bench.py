"""Commands that measure how fast a served policy answers, by load: bench."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from policyctl.cli import completion, options
from policyctl.cli.call import Call
from policyctl.cli.values import seconds
from policyctl.domain.choices import MOST_CLIENTS
from policyctl.domain.names import PRODUCTION
from policyctl.domain.protocol import Protocol
from policyctl.domain.verdict import Verdict
from policyctl.errors import GateError, ServerError, UsageError

if TYPE_CHECKING:
    from policyctl.measuring.profiles import Profile
    from policyctl.services.experiments.soak import Plan, Soak

V = TypeVar("V")

_NUMBERS: Final = "positive numbers"


class ProfileChoice(StrEnum):
    """What `--profile` takes; `policyctl.measuring.profiles` says what each measures."""

    QUICK = "quick"
    STANDARD = "standard"
    SOAK = "soak"


@options.command("repository", "url")
def bench(
    call: Call,
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
        str | None, typer.Option("--concurrency", "-c", help="Clients that ask one after another, 1,8 for two levels.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Requests a second instead, answered or not, 100,1000 for two levels.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", "-b", help="Observations a request, 1,8,64 for three.")
    ] = None,
    interval_ms: Annotated[int | None, typer.Option(help="Length of each of a point's three windows.", min=100)] = None,
    warmup: Annotated[int | None, typer.Option(help="Requests before each point of the closed loop.", min=0)] = None,
    time_limit_s: Annotated[
        float | None, typer.Option("--time-limit", metavar="SECONDS", help="Seconds for everything together.", min=1)
    ] = None,
    duration: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="Of a soak: how long, 90s, 10m or 2h.")
    ] = "10m",
    reload_every: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Of a soak: load and withdraw a candidate this often, 30s or 5m."),
    ] = None,
    move_to: Annotated[
        str | None,
        typer.Option(
            metavar="RELEASE",
            autocompletion=completion.releases,
            help="Of a soak: each minute move the alias to this release (1.2.3, ~1.2.0, latest, ...), and back.",
        ),
    ] = None,
    leak_limit: Annotated[
        float, typer.Option(help="Of a soak: MB that a process may grow by in a million requests.", min=0.001)
    ] = 10.0,
    keep: Annotated[bool, typer.Option(help="Keep the result in the repository, by this machine.")] = True,
    report: options.Report = None,
    markdown: options.Markdown = None,
) -> None:
    """Measure a served alias with perf_analyzer. It asks the golden observations of the release.

    The result is kept by this machine's fingerprint, for `policyctl results`.

    Examples:
        policyctl bench walker
        policyctl bench walker --profile standard --protocol grpc,http --report walker.html
        policyctl bench walker --rate 500,1000 --batch 8 --json
        policyctl bench walker --profile soak --for 1h --reload-every 5m
    """
    from policyctl.measuring.measurement import SharedMemory
    from policyctl.measuring.profiles import PROFILES, ProfileName
    from policyctl.services.measure import bench as service

    if concurrency and rate:
        raise UsageError("--concurrency and --rate exclude each other", remedy="Give one of them.")
    given: dict[str, Any] = {
        "protocols": _several("--protocol", protocol, Protocol, ", ".join(Protocol)),
        "shared_memory": _several("--shared-memory", shared_memory, SharedMemory, ", ".join(SharedMemory)),
        "concurrency": _several("--concurrency", concurrency, int, _NUMBERS, most=MOST_CLIENTS),
        "rates": _several("--rate", rate, float, _NUMBERS),
        "batches": _several("--batch", batch, int, _NUMBERS),
        "interval_ms": interval_ms,
        "warmup_requests": warmup,
    }
    if profile is ProfileChoice.SOAK:
        from policyctl.gates.leak import GrowthLimits
        from policyctl.services.experiments.soak import Plan

        plan = Plan(
            duration_s=seconds("--for", duration, example="1h"),
            clients=(given["concurrency"] or (4,))[0],
            batch_size=(given["batches"] or (1,))[0],
            reload_every_s=None if reload_every is None else seconds("--reload-every", reload_every, example="5m"),
            move_to=move_to,
            limits=GrowthLimits(memory_bytes=leak_limit * 1e6),
        )
        _soak(call, plan, model, alias)
        return
    asked = _profile(PROFILES[ProfileName(profile.value)], given, time_limit_s)
    control = call.control()
    call.require_writable(report, markdown)
    if report is not None:
        from policyctl.measuring import plots

        plots.require_installed()
    found = service.bench(control, asked, model=model, alias=alias, keep=keep)
    from policyctl.measuring import report as reports

    call.table(found, reports.title(found), reports.POINT_COLUMNS, reports.point_rows(found))
    if memory := reports.memory_rows(found):
        call.table(None, "Memory", reports.MEMORY_COLUMNS, memory)
    if keep:
        call.say(f"Kept as {found.id} of machine {found.fingerprint}.")
    call.write(report, lambda: reports.page(found))
    call.write(markdown, lambda: reports.markdown(found))
    if found.stopped:
        call.say(f"WARNING: {found.stopped}. The table holds what was measured.")
        raise typer.Exit(130 if found.stopped.endswith(service.INTERRUPTED) else ServerError.exit_code)


def _soak(call: Call, plan: Plan, model: str, alias: str) -> None:
    """Load for long, and say what grows."""
    from policyctl.services.experiments import soak as service

    found = service.soak(call.control(), plan, model=model, alias=alias)
    _show_soak(call, found)
    if found.result.verdict is not Verdict.PASSED:
        raise GateError(
            f"soak of {model} {found.published.release}: {found.result.reason}",
            remedy=str(found.result.evidence.get("remedy") or "See the samples: --json, or .policyctl/evidence."),
        )


def _show_soak(call: Call, found: Soak) -> None:
    """A row for each series."""
    from policyctl.gates.leak import WORDS, findings_of

    rows = []
    for finding in findings_of(found.result):
        grown = finding["growth_per_million"] or {}
        unit = finding["kind"]
        scale = 1e6 if unit.endswith("bytes") else 1.0
        cells = [grown.get(key) for key in ("slope", "low", "high")] + [finding["limit_per_million"]]
        words = ["-" if cell is None else f"{cell / scale:.3g}" for cell in cells]
        verdict = WORDS[Verdict(finding["verdict"])] if finding["decides"] else "(not judged)"
        rows.append((finding["name"], unit.replace("bytes", "MB"), *words, verdict))
    call.table(
        found,
        f"soak of {found.published.model} {found.published.release}: {found.requests} requests in"
        f" {found.duration_s:.0f} s, {found.reloads} reloads, {found.moves} moves",
        ("of", "counts", "per million requests", "from", "to", "limit", "verdict"),
        rows,
    )
    call.say(f"Gate leak: {found.result.verdict}. {found.result.reason}.")


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


def _several(
    option: str, text: str | None, kind: Callable[[str], V], expected: str, *, most: float = math.inf
) -> tuple[V, ...] | None:
    """The values of an option that takes several, with commas between; None where it is not given.

    Raises:
        UsageError: One of them is not `expected`, or a number that is not positive or more than `most`.
    """
    if text is None:
        return None
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError:
        values = ()
    numbers = [value for value in values if isinstance(value, int | float)]
    example = "1,8" if expected == _NUMBERS else expected.partition(",")[0]
    if not values or not all(0 < number < math.inf for number in numbers):
        raise UsageError(f"{option} {text!r} is not a list of {expected}", remedy=f"For example {option} {example}")
    if numbers and max(numbers) > most:
        raise UsageError(f"{option} {max(numbers)} is more than {most:g}", remedy=f"For example {option} 1,8,32")
    return values
