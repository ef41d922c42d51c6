"""Commands that judge by live traffic: record, replay."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Annotated

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.domain.names import PRODUCTION
from policyctl.errors import UsageError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(record)


def record(
    model: options.Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="A file that is not there yet.", show_default=False)],
    alias: options.Alias = PRODUCTION,
    rate: Annotated[int, typer.Option("--rate", help="Record one of so many requests.", min=1)] = 1,
    count: Annotated[int, typer.Option("--count", help="End after so many requests.", min=1)] = 10_000,
    for_: Annotated[str, typer.Option("--for", help="End after this long: 30s, 5m, 1h.")] = "30s",
    one_stream: Annotated[
        bool,
        typer.Option(
            "--one-stream",
            help="One control loop sends all of the traffic, so that consecutive requests are consecutive steps."
            " Not needed where request ids end in /NUMBER.",
        ),
    ] = False,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Record observations and actions of live traffic, through Triton's own tracing.

    Nothing stands in the way of a request. Tracing is on while this runs and
    off afterwards, however it ends. The file holds what clients sent: treat it
    as you treat that. Only its owner may read it.

    Examples:

        policyctl record walker -o walker.npz

        policyctl record walker --rate 10 --for 10m --count 50000 -o walker.npz
    """
    from policyctl.services import record as service
    from policyctl.services.signals import stop_on_signal

    out = Output(as_json, quiet)
    control = options.control_of(options.read_settings(repository, url), out)
    asked = service.RecordOptions(rate=rate, count=count, seconds=_seconds(for_), one_stream=one_stream)
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
    out.data(
        document,
        words=f"{output}: {found.rows} observations of {found.requests} requests in {found.origin.seconds:.1f} s,"
        f" answered by {', '.join(f'{r} ({n})' for r, n in found.answered_by.items())}, {size} bytes."
        + (f" Left out: {left}." if left else ""),
    )


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text.strip())
    if match is None or not float(match[1]) > 0:
        raise UsageError(f"--for {text!r} is not a duration", remedy="For example 30s, 5m or 1h.")
    return float(match[1]) * _UNITS[match[2]]
