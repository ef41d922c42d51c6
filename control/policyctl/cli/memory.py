"""The command that says what a served model costs in memory."""

from __future__ import annotations

from typing import Annotated

import typer

from policyctl.cli import options
from policyctl.cli.call import Call


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
    from policyctl.cli.soak import seconds
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
    if not call.as_json:
        call.table(
            None,
            "Recommended",
            ("setting", "value", "because"),
            [(r.setting, r.value, f"{r.reason} ({r.basis})") for r in found.recommendations],
        )
    call.say(
        f"{found.available_bytes / 1e6:.0f} MB are left on this machine;"
        f" /dev/shm: {found.shared_memory_bytes / 1e6:.1f} MB in use,"
        f" {found.shared_memory_free_bytes / 1e6:.0f} MB left."
    )
