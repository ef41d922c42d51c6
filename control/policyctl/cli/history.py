"""The command that shows the journal: history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.cli.journal_rows import record_text, rows_of
from policyctl.domain.instants import utc_text
from policyctl.errors import IntegrityError, UsageError

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
    if (remote := call.remote()) is not None:
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
