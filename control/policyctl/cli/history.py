"""Commands that look back: history, at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.domain.instants import utc_text
from policyctl.errors import IntegrityError, UsageError
from policyctl.services.show.journal_rows import record_text, rows_of, rows_then, words_then

if TYPE_CHECKING:
    from policyctl.services.control import Control


@options.command("repository")
def history(
    call: Call,
    model: options.OptionalModel = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", help="Only the last N rows; with --json, records.", min=1)
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Show every record: each gate and each step of a move has its own.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every line, show what that proves; exit with 3 if one was changed.")
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(
            "--head", metavar="DIGEST", help="With --verify: a head that was noted earlier, which must still be there."
        ),
    ] = None,
) -> None:
    """Show the journal: who did what, when, why, and how it ended. Its chain is checked.

    A move takes one row, its gates included; --full shows every record.

    With --verify every line that was edited, removed or moved is named. A chain
    cannot show that lines were cut off its end: note the head that is printed,
    and give it with --head the next time.

    Examples:
        policyctl history walker
        policyctl history --limit 20 --json
        policyctl history walker --full
        policyctl history --verify
    """
    if verify or head is not None:
        if model is not None or limit is not None:
            raise UsageError("--verify is about the whole journal", remedy="Leave out MODEL and --limit.")
        _prove(call.control(), call, head)
        return
    records_only = full or call.as_json
    if (remote := call.elsewhere()) is not None:
        records = remote.history(model=model, limit=limit if records_only else None)
    else:
        from policyctl.services.show import status as service

        records = service.history(call.control(), model=model)
    if not records_only:
        moves = rows_of(records)
        call.table(None, "Journal", ("seq", "time", "actor", "model", "what", "reason"), moves[-(limit or 0) :])
        return
    shown = records[-(limit or 0) :]
    columns = ("seq", "time", "actor", "record", "model", "what", "reason")
    call.table(list(shown), "Journal", columns, [_record(record) for record in shown])


def _record(record: Mapping[str, Any]) -> tuple[Any, ...]:
    cells = (record["seq"], utc_text(record["time"]), record["actor"], record["kind"], record.get("model"))
    return (*cells, record_text(record), record.get("reason") or "")


def _prove(control: Control, call: Call, head: str | None) -> None:
    from policyctl.services.integrity.journal import prove

    found = prove(control, expected_head=head)
    call.data(found, words=found.words)
    if not found.intact:
        call.end_with(IntegrityError(f"{found.path}: {found.breaks[0].words}", remedy=found.breaks[0].remedy))


@options.command("repository")
def at(
    call: Call,
    when: Annotated[str, typer.Argument(help="ISO 8601 with a time zone, or now.")],
    model: options.OptionalModel = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            "--timezone", "-z", metavar="ZONE", help="Zone of WHEN, and of the times that are shown. [default: UTC]"
        ),
    ] = None,
) -> None:
    """Show what each alias served at some time in the past. It says who moved the alias there, and by which gates.

    The answer comes from the journal, whose chain is checked. In the middle of
    a switch two releases may have answered; then both are shown.

    Examples:
        policyctl at 2026-11-20T10:00Z
        policyctl at "2026-11-20 11:00" walker --timezone Europe/Zurich
        policyctl at now --json
    """
    from policyctl.domain.instants import zone_of
    from policyctl.services.integrity.journal import at as service

    control = call.control()
    found = service(control, when, model=model, timezone=timezone)
    zone = None if timezone is None else zone_of(timezone)
    asked = found.when if zone is None else found.when.astimezone(zone)
    call.table(
        replace(found, when=asked),
        f"At {utc_text(asked.isoformat(), zone)}",
        ("model", "alias", "release", "slot", "format", "since", "by", "why", "gates", "manifest"),
        rows_then(found, zone),
    )
    for words in words_then(found, zone):
        call.say(words)
