"""Commands that judge by live traffic: record, replay."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.cli.values import seconds
from policyctl.domain.names import PRODUCTION

if TYPE_CHECKING:
    from policyctl.measuring.shadow import ComparedFigure, Shadow


@options.command("repository", "url")
def record(
    call: Call,
    model: options.Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="A file that is not there yet.")],
    alias: options.Alias = PRODUCTION,
    rate: Annotated[int, typer.Option(help="Record one of so many requests.", min=1)] = 1,
    count: Annotated[int, typer.Option(help="End after so many requests.", min=1)] = 10_000,
    for_: Annotated[str, typer.Option("--for", metavar="DURATION", help="End after this long: 30s, 5m, 1h.")] = "30s",
    one_stream: Annotated[
        bool,
        typer.Option(
            "--one-stream",
            help="One control loop sends all of the traffic, so that consecutive requests are consecutive steps."
            " Not needed where request ids end in /NUMBER.",
        ),
    ] = False,
) -> None:
    """Record observations and actions of live traffic. Triton's own tracing does it.

    Nothing stands in the way of a request. Tracing is on while this runs and
    off afterwards, however it ends. The file holds what clients sent: treat it
    as you treat that. Only its owner may read it.

    Examples:
        policyctl record walker -o walker.npz
        policyctl record walker --rate 10 --for 10m --count 50000 -o walker.npz
    """
    from policyctl.services.experiments import record as service
    from policyctl.signals import stop_on_signal

    control = call.control()
    asked = service.RecordOptions(
        rate=rate, count=count, seconds=seconds("--for", for_, example="30s"), one_stream=one_stream
    )
    stop = threading.Event()
    with stop_on_signal(stop):
        found = service.record(control, asked, model=model, alias=alias, output=output, stop=stop)
    size = output.stat().st_size
    document = {
        "recording": str(output),
        "size_bytes": size,
        "rows": found.rows,
        "requests": found.requests,
        "releases": found.answered_by,
        "outputs": list(found.outputs),
        "dropped": dict(found.dropped),
        "seconds": found.origin.seconds,
    }
    left = ", ".join(f"{n} {why}" for why, n in found.dropped.items())
    call.data(
        document,
        words=f"{output}: {found.rows} observations of {found.requests} requests in {found.origin.seconds:.1f} s,"
        f" answered by {', '.join(f'{r} ({n})' for r, n in found.answered_by.items())}, {size} bytes."
        + (f" Left out: {left}." if left else ""),
    )


@options.command("wait", "repository", "url")
def replay(
    call: Call,
    model: options.Model,
    release: options.Release,
    recording: Annotated[Path, typer.Argument(help="What policyctl record wrote.")],
    format: options.AskedFormat = None,  # noqa: A002
) -> None:
    """Ask a release what it would have done on recorded observations. No alias moves.

    It reports and does not judge: policyctl validate --recording does, by
    limits. Where the release that answered then still serves, it is asked
    again, which shows what the recording's rounding alone does.

    Examples:
        policyctl replay walker 1.1.0 walker.npz
        policyctl replay walker 1.1.0 walker.npz --json
    """
    from policyctl.services.experiments import shadow as service

    control = call.control()
    found = service.replay(control, model=model, release=release, path=recording, format=format)
    then = ", ".join(found.recording.answered_by)
    call.table(
        found,
        f"{model} {found.release} on {found.figures.rows} observations that {then} answered",
        ("figure", found.release, "95 % interval", f"{then} again" if found.again else "-"),
        _figures(found.figures, found.again),
    )
    call.say(f"Evidence: {found.evidence}")


def _figures(now: Shadow, again: Shadow | None) -> list[tuple[str, str, str, str]]:
    """Rows of the table: what, of the candidate, its interval, and of the release that answered then."""

    def agreement(one: Shadow) -> str:
        return "-" if one.agreement is None else f"{one.agreement.mean:.2%}"

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}"

    interval = "-" if now.agreement is None else f"{now.agreement.low:.2%} .. {now.agreement.high:.2%}"
    rows = [("agreement", agreement(now), interval, agreement(again) if again else "")]
    if now.largest is None:
        rows.append(("near-ties among it", str(now.near_ties), "", str(again.near_ties) if again else ""))
    else:
        rows.append(("largest difference / range", number(now.largest), "", number(again.largest) if again else ""))
        rows.append(("mean difference / range", number(now.mean), "", number(again.mean) if again else ""))
    before = again.saturation if again else None
    rows += _compared("saturation", now.saturation, before)
    rows += _compared(f"roughness ({now.pairs} steps)", now.roughness, again.roughness if again else None)
    return rows


def _compared(name: str, now: ComparedFigure | None, again: ComparedFigure | None) -> list[tuple[str, str, str, str]]:
    if now is None:
        return [(name, "-", "", "")]
    last = "" if again is None else f"{again.candidate:.4g}"
    rows = [(name, f"{now.candidate:.4g}", "", last)]
    if now.recorded is not None:
        rows.append((f"{name}, recorded", f"{now.recorded:.4g}", "", ""))
    if now.rise is not None:
        rows.append((f"{name}, rise", f"{now.rise.mean:+.4g}", f"{now.rise.low:+.4g} .. {now.rise.high:+.4g}", ""))
    return rows
