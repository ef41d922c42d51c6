"""Roll an alias back, or stop the move that is under way."""

from __future__ import annotations

import time
from dataclasses import replace

from policyctl.adapters import lock
from policyctl.adapters.pbtxt import with_generation, with_releases
from policyctl.domain import moves
from policyctl.domain.journal import RecordKind
from policyctl.domain.moves import Move, MoveKind, Placement, Result
from policyctl.domain.names import check_model_name, check_movable_alias
from policyctl.domain.state import State
from policyctl.errors import BusyError, MovedError
from policyctl.services.control import Control, OpenRelease, open_release, operation, select_release
from policyctl.services.moves.abort_flag import abort_requested, request_abort
from policyctl.services.moves.certify import is_certified_here
from policyctl.services.moves.contract_change import shown_differences
from policyctl.services.moves.drain import Drain
from policyctl.services.moves.incumbent import require_incumbent
from policyctl.services.moves.moved import Moved, describe, new_move
from policyctl.services.moves.mover import Timings, execute
from policyctl.services.moves.recovery import Recovered, recover, take_back_unfinished
from policyctl.services.moves.serve_again import names_already, serve_again
from policyctl.services.moves.validate import place
from policyctl.services.trust.signatures import require_signed


@operation("rollback")
def rollback(
    control: Control,
    *,
    model: str,
    alias: str,
    to: str | None = None,
    reason: str = "",
    dry_run: bool = False,
    move_id: str = "",
    incumbent: str | None = None,
    baking: str = "",
    drain_s: float | None = None,
) -> Moved:
    """Move `alias` back to the release before, or to `to`. No gate is asked; a signature is, where it is required.

    A contract that differs does not hinder it: what does harm must end at once. The result says what differs.

    The release is served exactly as it was (same artifact, same configuration).
    Where this very server has certified it so before, the alias is switched at
    once; else the release is certified first, as in a promotion.

    Args:
        control: The control plane.
        model: Which model.
        alias: Which alias.
        to: Selects where to; None for the release before.
        reason: Why, kept in the journal.
        dry_run: Say what would be done; changes nothing.
        move_id: Names the move in the journal; empty for a fresh one.
        incumbent: The release that the alias must name still, empty for none; None where it may name any.
        drain_s: How long at most the release that is left stays reachable under its number; None or 0 for not.
        baking: Only while the bake of this promotion is open, that is, while nobody has moved the alias since.

    Raises:
        UsageError: Nothing to go back to, or no such release.
        IntegrityError: A file is not what was published.
        ServerError: No server answers; nothing was changed.
        BusyError: Another writer is at work.
        MovedError: `baking` is over, or the alias names another release than `incumbent`.
        MoveError: It failed; the incumbent was kept.
    """
    check_model_name(model)
    check_movable_alias(alias)
    control.known(model)
    if to is not None:
        to = select_release(control, model, to)
    with (
        control.repository.writer(
            f"roll back {model} {alias}", wait_s=control.settings.lock_wait_s, stop=f"policyctl abort {model}"
        ),
        control.triton() as client,
    ):
        recovered = None if dry_run else recover(control, client, model)
        if to is None and recovered is not None and _is_this_rollback(recovered, model, alias):
            # A person who repeats a rollback that was killed wants one step back, not two.
            return Moved(recovered.move, changed=True, timings=Timings(), recovered=recovered)
        state = control.repository.journal.state()
        if baking and ((owed := state.bakes.get((model, alias))) is None or owed.move.id != baking):
            raise MovedError(f"somebody else has moved {alias} of {model} since", remedy=f"policyctl status {model}")
        require_incumbent(control, state, model=model, alias=alias, incumbent=incumbent)
        earlier = _earlier(state, model, alias, to)
        published = state.release(model, to or state.previous(model, alias).release)
        require_signed(control, state, published)
        opened = open_release(control.repository, published)
        target = _target(control, state, opened, earlier)
        move = new_move(state, MoveKind.ROLLBACK, model, alias, target, reason, move_id)
        if names_already(move):
            again = not dry_run and serve_again(control, client, move, opened)
            return Moved(move, changed=False, loaded_again=again, recovered=recovered)
        changes = shown_differences(move.incumbent, opened.contract)
        moved = Moved(move, changed=True, recovered=recovered, differences=changes)
        certified_here = is_certified_here(state, client, model, target)
        drain = Drain.of(control, client, state, move, drain_s)
        if dry_run:
            return replace(moved, steps=drain.steps + describe(moves.plan(move, certified_here=certified_here)))
        with drain.during(move):
            timings = execute(control, client, move, opened=opened, certified_here=certified_here)
    return replace(moved, timings=timings, drain=drain.wait())


@operation("abort")
def abort(control: Control, *, model: str, move: str = "", wait_s: float = 30.0) -> str:
    """Stop the move of `model` that is under way, or revert one that a crash left open.

    Args:
        control: The control plane.
        model: Which model.
        move: The id of the only move that may be stopped; empty for the one that is under way.
        wait_s: How long the mover has to stop.

    Returns:
        What happened, in words.

    Raises:
        UsageError: Nothing is under way.
        MovedError: Another move than `move` is under way.
        BusyError: The mover did not stop in time.
        ServerError: No server answers, so a crashed move cannot be reverted.
    """
    repository, state = control.repository, control.known(model)
    unfinished = state.under_way(model, move)
    words = f"the {unfinished.move.words} by {unfinished.actor}"
    request_abort(repository, unfinished.move)
    deadline = time.monotonic() + wait_s
    while _is_open(control, unfinished.move) and lock.is_held(repository.lock_path):
        if time.monotonic() >= deadline:
            raise BusyError(f"{lock.holder(repository.lock_path)} did not stop within {wait_s:.0f} s")
        time.sleep(0.02)
    if not _is_open(control, unfinished.move):
        return _ended(control, unfinished.move, words)
    # The server may hold it for a moment, to end the load that the move had waited for.
    with repository.writer(f"abort {model}", wait_s=max(0.0, deadline - time.monotonic())), control.triton() as client:
        left = repository.journal.state().unfinished.get(model)
        if left is not None and left.move.id == unfinished.move.id:
            take_back_unfinished(control, client, left)
            return f"Reverted, it had been left unfinished: {words}."
    return _ended(control, unfinished.move, words)


def _is_open(control: Control, move: Move) -> bool:
    """Whether it is not decided yet how a move ends: the journal may hold the next move by then."""
    left = control.repository.journal.state().unfinished.get(move.model)
    if left is not None and left.move.id == move.id:
        return True
    # The move that a drain's pin was for is stopped after the pin, and takes its request to abort away.
    return move.drain_s is not None and abort_requested(control.repository, move)


def _ended(control: Control, move: Move, words: str) -> str:
    """How a move ended that somebody asked to stop, in words."""
    state = control.repository.journal.state()
    records = reversed(control.repository.journal.records())
    result = next(r.body["result"] for r in records if r.kind is RecordKind.OUTCOME and r.body["move"] == move.id)
    if move.drain_s is not None and state.alias(move.model, move.alias) is None:
        result = Result.ABORTED  # the pin was taken back with the move that it was for
    if result == Result.ABORTED:
        return f"Aborted: {words}."
    if result == Result.REVERTED:
        return f"Too late, it had failed: {words}. See: policyctl history {move.model}"
    if move.kind is MoveKind.REMOVAL:
        return f"Too late, it is not served any more: {words}. Promote it again where it is wanted."
    return f"Too late, it had been switched already: {words}. Use policyctl rollback {move.model}."


def _earlier(state: State, model: str, alias: str, to: str | None) -> Placement | None:
    """The placement to go back to; None where the alias never named the release `to`.

    Raises:
        UsageError: The alias names nothing, or nothing came before.
    """
    current = state.alias(model, alias)
    if to is None or current is None:
        return state.previous(model, alias)
    return next((placement for placement in reversed(current.trail) if placement.release == to), None)


def _target(control: Control, state: State, opened: OpenRelease, earlier: Placement | None) -> Placement:
    if earlier is None:
        return place(control, state, opened, None)
    # Clients name the release of an answer by this map, so it must know today's releases too.
    # A server that follows no store any more names no generation of it.
    config = with_generation(with_releases(earlier.config, state.slots(opened.published.model)), 0)
    return replace(earlier, config=config)


def _is_this_rollback(recovered: Recovered, model: str, alias: str) -> bool:
    move = recovered.move
    return recovered.finished and (move.kind, move.model, move.alias) == (MoveKind.ROLLBACK, model, alias)
