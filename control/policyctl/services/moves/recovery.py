"""Settle what a crash left of a move: finish it or revert it, as the journal says.

The caller holds the writer lock: a command, for the model that it moves, or
the server, for all models, once a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from policyctl.adapters.triton import Triton
from policyctl.domain import moves
from policyctl.domain.moves import Move, MoveKind, Phase, Result
from policyctl.domain.names import CANDIDATE, served_name, split_served_name
from policyctl.domain.state import Unfinished
from policyctl.errors import PolicyctlError
from policyctl.services.control import Control
from policyctl.services.moves.abort_flag import clear_abort
from policyctl.services.moves.mover import Mover, take_back, withdraw_candidate
from policyctl.services.trust.signatures import require_signed

_LOGGER: Final = "policyctl.move"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was done about a move that a crash had left open.

    Attributes:
        move: The move.
        finished: True if it was completed, False if it was reverted.
        words: The same for people.
    """

    move: Move
    finished: bool
    words: str


def recover(control: Control, client: Triton, model: str) -> Recovered | None:
    """Finish or revert the move of `model` that a crash left open, and sweep what it left behind.

    Moves of other models are left alone: one that cannot be settled, because
    its load never ends, must not keep anybody from rolling another model back.

    Returns:
        What was done; None where there was nothing to do.

    Raises:
        MoveError: Neither could be done; the journal keeps the move open.
        ServerError: Something of the model is still being loaded, or the server does not answer.
    """
    control.repository.create()
    control.repository.journal.set_torn_tail_aside()
    unfinished = control.repository.journal.state().unfinished.get(model)
    if unfinished is None:
        _sweep(control, client, model)
        return None
    clear_abort(control.repository)
    move, mover = unfinished.move, Mover(control, client)
    said = f"the {move.words} by {unfinished.actor} at {unfinished.since}"
    client.require_no_load(move.served)
    doubt = _doubt(control, move) if unfinished.phase is Phase.SWITCHING else ""
    if unfinished.phase is Phase.SWITCHING and not doubt:
        try:
            mover.run(move, moves.finish(move), check_abort=False)
        except PolicyctlError as error:
            take_back(control, mover, move, error)
        return Recovered(move, True, f"Found unfinished and finished: {said}.")
    mover.run(move, moves.revert(move, unfinished.phase), check_abort=False)
    return Recovered(move, False, f"Found unfinished and reverted: {said}{doubt}.")


def _doubt(control: Control, move: Move) -> str:
    """Why a move that had switched is not finished, in words: its target's key was revoked since; empty for nothing.

    The incumbent is not judged. A key that is revoked ends no service, and what
    had served before the move is what a crash may leave.
    """
    if move.kind is MoveKind.REMOVAL:
        return ""
    try:
        state = control.repository.journal.state()
        require_signed(control, state, state.release(move.model, move.target.release))
    except PolicyctlError as error:
        return f", for {error.problem}"
    return ""


def recover_all(control: Control, client: Triton) -> tuple[str, ...]:
    """`recover` for every model that needs it.

    Returns:
        What was done, and what could not be, in words.
    """
    said = []
    left = {split_served_name(served)[0] for served in control.repository.candidates()}
    for model in sorted(left | control.repository.journal.state().unfinished.keys()):
        try:
            recovered = recover(control, client, model)
            said += [] if recovered is None else [recovered.words]
        except PolicyctlError as error:
            said.append(f"An unfinished move of {model} cannot be settled: {error.problem}")
    return tuple(said)


def take_back_unfinished(control: Control, client: Triton, unfinished: Unfinished) -> None:
    """Revert an open move wherever it stopped.

    Raises:
        MoveError: The incumbent could not be brought back.
    """
    mover = Mover(control, client)
    effects = moves.revert(unfinished.move, unfinished.phase, result=Result.ABORTED)
    mover.run(unfinished.move, effects, check_abort=False)
    clear_abort(control.repository)


def _sweep(control: Control, client: Triton, model: str) -> None:
    """Remove the model's candidate, which no move needs: what a crash left of a validation."""
    served = served_name(model, CANDIDATE)
    if served in control.repository.candidates():
        control.tell(f"Removing {served}, left by an unfinished validation.", logger=_LOGGER)
        withdraw_candidate(control, client, served)
