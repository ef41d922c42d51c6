"""Take an alias, or a pin, out of service."""

from __future__ import annotations

from policyctl.domain import moves
from policyctl.domain.journal import RecordKind
from policyctl.domain.moves import Move, MoveKind, Result
from policyctl.domain.names import check_model_name, is_pin
from policyctl.domain.state import AliasState, State
from policyctl.errors import UsageError
from policyctl.services.control import Control, operation
from policyctl.services.moves.moved import Moved, describe, new_move
from policyctl.services.moves.mover import Timings, execute
from policyctl.services.moves.recovery import recover


@operation("unserve")
def unserve(
    control: Control, *, model: str, alias: str, reason: str = "", dry_run: bool = False, move_id: str = ""
) -> Moved:
    """Take an alias, or a pin, out of service: its clients get the error that it is not served.

    Requests that are under way are answered. The release stays published, and
    its other aliases stay as they are. What the alias named before is forgotten
    by `rollback`; the journal keeps it.

    Args:
        control: The control plane.
        model: Which model.
        alias: Which alias, or the number of a pinned release.
        reason: Why, kept in the journal.
        dry_run: Say what would be done; changes nothing.
        move_id: Names the move in the journal; empty for a fresh one.

    Raises:
        UsageError: No such model or alias; names those that are served.
        ServerError: No server answers; nothing was changed.
        BusyError: Another writer is at work.
        MoveError: It failed; the alias is served as before.
    """
    check_model_name(model)
    state = control.known(model)
    require_served(state, model, alias)
    with (
        control.repository.writer(
            f"take {alias} of {model} out of service",
            wait_s=control.settings.lock_wait_s,
            stop=f"policyctl abort {model}",
        ),
        control.triton() as client,
    ):
        recovered = None if dry_run else recover(control, client, model)
        if recovered is not None and _is_this(recovered.move, model, alias) and recovered.finished:
            return Moved(recovered.move, changed=True, timings=Timings(), recovered=recovered)
        move = removal(control.repository.journal.state(), model, alias, reason=reason, move_id=move_id)
        if dry_run:
            return Moved(move, changed=True, steps=describe(moves.plan(move)))
        timings = execute(control, client, move)
    return Moved(move, changed=True, timings=timings, recovered=recovered)


def removal(state: State, model: str, alias: str, *, reason: str, move_id: str = "") -> Move:
    """The move that takes an alias out of service; it has not begun.

    Raises:
        UsageError: It is not served; names those that are.
    """
    placement = require_served(state, model, alias).placement
    return new_move(state, MoveKind.REMOVAL, model, alias, placement, reason, move_id)


def forget(control: Control, *, model: str, alias: str, reason: str) -> None:
    """Take an alias out of service while no server runs; the caller holds the writer lock.

    A crash on the way leaves a removal that the next server finishes.

    Raises:
        UsageError: It is not served.
    """
    repository = control.repository
    move = removal(repository.journal.state(), model, alias, reason=reason)
    repository.journal.append(RecordKind.INTENT, {**move.to_json(), "server": ""})
    repository.journal.append(RecordKind.SWITCHING, {"move": move.id})
    repository.withdraw(move.served)
    repository.journal.append(RecordKind.OUTCOME, {"move": move.id, "result": Result.DONE.value})


def end_unfinished(control: Control, move: Move) -> None:
    """End a move that a crash left open while no server runs; the caller holds the writer lock.

    What the alias named before stays, and the next server loads that.
    """
    repository = control.repository
    repository.journal.append(RecordKind.OUTCOME, {"move": move.id, "result": Result.ABORTED.value})
    if repository.journal.state().alias(move.model, move.alias) is None:
        repository.withdraw(move.served)


def _is_this(move: Move, model: str, alias: str) -> bool:
    return (move.kind, move.model, move.alias) == (MoveKind.REMOVAL, model, alias)


def require_served(state: State, model: str, alias: str) -> AliasState:
    """What an alias, or a pin, names.

    Raises:
        UsageError: It names nothing; names those that do.
    """
    found = state.alias(model, alias)
    if found is not None:
        return found
    have = sorted(a for m, a in state.aliases if m == model)
    served = f"Served are: {', '.join(have)}." if have else f"Nothing of {model} is served."
    what = f"{model} {alias} is not pinned" if is_pin(alias) else f"{model} has no alias {alias!r}"
    raise UsageError(what, remedy=f"{served} See: policyctl status {model}")
