"""Refuse a promotion or a rollback where somebody has moved the alias since it was decided.

Who decides looks at a dry run: what the alias names, and how the contracts
differ. All of that is about one incumbent. So a request may name it, and counts
only while the alias still names it.
"""

from __future__ import annotations

from policyctl.domain.instants import utc_text
from policyctl.domain.journal import RecordKind
from policyctl.domain.moves import Move, Result
from policyctl.domain.state import State
from policyctl.errors import MovedError
from policyctl.services.control import Control


def require_incumbent(control: Control, state: State, *, model: str, alias: str, incumbent: str | None) -> None:
    """Refuse where an alias names another release than `incumbent`.

    Args:
        control: The control plane.
        state: What the journal says.
        model: Which model.
        alias: Which alias.
        incumbent: The release that it must name; empty for none, None where it may name any.

    Raises:
        UsageError: The model has no release `incumbent`.
        MovedError: The alias names another; says which move was the last, and by whom.
    """
    named = state.alias(model, alias)
    release = "" if named is None else named.placement.release
    if incumbent is None or incumbent == release:
        return
    if incumbent:
        state.release(model, incumbent)
    expected = f"not {incumbent}" if incumbent else "no longer nothing"
    raise MovedError(
        f"{alias} of {model} names {release or 'nothing'}, and {expected}" + _last_move(control, model, alias),
        remedy="Nothing was changed. Look at what the request would do now, and decide again.",
    )


def _last_move(control: Control, model: str, alias: str) -> str:
    """The move that brought the alias where it is, in words; empty where none did."""
    ended: dict[str, str] = {}
    for record in reversed(control.repository.journal.records()):
        body = record.body
        if record.kind is RecordKind.OUTCOME and body["result"] == Result.DONE:
            ended[body["move"]] = record.time
        elif record.kind is RecordKind.INTENT and body["move"] in ended:
            move = Move.from_json(body)
            if (move.model, move.alias) == (model, alias):
                return f"; the last move was the {move.words} by {record.actor} ({utc_text(ended[move.id])})"
    return ""
