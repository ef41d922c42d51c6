"""The command that says what a served model costs in memory."""

from __future__ import annotations

from typing import Annotated

import typer

from policyctl.cli import options
from policyctl.cli.output import Output


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(memory)


def memory(
    model: options.Model,
    load: Annotated[
        str | None, typer.Option("--load", help="First keep every alias under load for so long: 10s or 1m.")
    ] = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure what a served model costs in memory, and say what to set.

    Of each process: resident now, its proportional share, what it has to
    itself (what one more of its kind costs), and its peak since it started.

    Examples:

        policyctl memory walker

        policyctl memory walker --load 10s --json
    """
    from policyctl.cli.soak import seconds
    from policyctl.services import memory_report as service

    output = Output(as_json)
    control = options.control_of(options.read_settings(repository), output)
    found = service.memory(control, model=model, load_s=0.0 if load is None else seconds("--load", load))
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
    output.table(found.to_json(), f"Memory of {model}", columns, rows)
    if not as_json:
        output.table(
            None,
            "Recommended",
            ("setting", "value", "because"),
            [(r.setting, r.value, f"{r.reason} ({r.basis})") for r in found.recommendations],
        )
    output.say(
        f"{found.available_bytes / 1e6:.0f} MB are left on this machine;"
        f" /dev/shm: {found.shared_memory_bytes / 1e6:.1f} MB in use,"
        f" {found.shared_memory_free_bytes / 1e6:.0f} MB left."
    )
