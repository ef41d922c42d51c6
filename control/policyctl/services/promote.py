"""Promote, roll back, abort: move an alias, or stop moving it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from policyctl.adapters import lock
from policyctl.adapters.pbtxt import identity, with_releases
from policyctl.adapters.triton import Triton
from policyctl.domain import moves
from policyctl.domain.artifacts import Format
from policyctl.domain.bake import Then
from policyctl.domain.log_event import LogLevel
from policyctl.domain.moves import Move, MoveKind, Placement
from policyctl.domain.names import check_alias, check_model_name, check_movable_alias, is_pin, pin_name
from policyctl.domain.state import State
from policyctl.domain.verdict import Verdict
from policyctl.errors import BusyError, MoveError, PolicyctlError
from policyctl.services.aborting import request_abort
from policyctl.services.aliases import load_alias
from policyctl.services.control import Control, open_release, operation, select_release
from policyctl.services.moves import Mover, Recovered, Timings, execute, recover, take_back_unfinished
from policyctl.services.room import require_room
from policyctl.services.signatures import require_signed
from policyctl.services.validate import place, require_offline, require_passed, validate

if TYPE_CHECKING:
    from policyctl.services.baked import Baked


@dataclass(frozen=True, slots=True)
class Moved:
    """What a promotion or rollback did, or would do.

    Attributes:
        move: The move; its incumbent is what was served before.
        changed: False where the alias named the release already.
        loaded_again: It named the release, but the server did not answer by it until it was loaded again.
        steps: The effects, in words, of a dry run.
        timings: How long the parts took; None for a dry run.
        recovered: What an earlier crash had left and was done about it.
        bake: How the watch after the switch ended; None where there was none.
    """

    move: Move
    changed: bool
    loaded_again: bool = False
    steps: tuple[str, ...] = ()
    timings: Timings | None = None
    recovered: Recovered | None = None
    bake: Baked | None = None

    @property
    def words(self) -> str:
        """For people."""
        return self._words if self.bake is None else f"{self._words} {self.bake.words}"

    @property
    def refusal(self) -> PolicyctlError | None:
        """Why the release is not what is served after its bake; None where it is."""
        if self.bake is None:
            return None
        target = f"{self.move.model} {self.move.target.release}"
        if self.bake.then is None:
            return BusyError(
                f"{self.move.alias} was moved while {target} baked: {self.bake.reason}",
                remedy=f"See who did and why: policyctl history {self.move.model}",
            )
        if self.bake.then is Then.ROLLBACK:
            return MoveError(
                f"{target} was rolled back: its bake {self.bake.verdict}: {self.bake.reason}",
                remedy=f"Look at the evidence: .policyctl/{self.bake.evidence}",
            )
        return None

    @property
    def _words(self) -> str:
        target = f"{self.move.model} {self.move.target.release}"
        if not self.changed:
            done = "It did not answer and was loaded again." if self.loaded_again else "Nothing was changed."
            return f"{self.move.alias} names {target} already. {done}"
        if self.recovered is not None and self.recovered.move is self.move:
            return f"Done: the {self.move.words}, which had been left unfinished."
        if self.timings is None:
            steps = (f"  {number}. {step}" for number, step in enumerate(self.steps, 1))
            return "\n".join([f"Would carry out the {self.move.words}:", *steps])
        if self.move.kind is MoveKind.REMOVAL:
            return f"{self.move.served} is not served any more; it was {self.move.target.release}."
        origin = "nothing" if self.move.incumbent is None else self.move.incumbent.release
        return (
            f"{self.move.alias} of {self.move.model}: {origin} -> {self.move.target.release}"
            f" (slot {self.move.target.slot}, {self.move.target.format}),"
            f" switched in {self.timings.switch_ms:.0f} ms, {self.timings.total_ms:.0f} ms in all."
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        incumbent = self.move.incumbent
        return {
            "move": self.move.id,
            "kind": self.move.kind.value,
            "model": self.move.model,
            "alias": self.move.alias,
            "from": None if incumbent is None else incumbent.release,
            "to": None if self.move.kind is MoveKind.REMOVAL else self.move.target.release,
            "slot": self.move.target.slot,
            "format": self.move.target.format.value,
            "changed": self.changed,
            "loaded_again": self.loaded_again,
            "dry_run": self.changed and self.timings is None,
            "steps": list(self.steps),
            "timings": None if self.timings is None else self.timings.to_json(),
            "recovered": None if self.recovered is None else self.recovered.words,
            "bake": None if self.bake is None else self.bake.to_json(),
        }


@operation("promote")
def promote(
    control: Control,
    *,
    model: str,
    release: str,
    alias: str,
    format: Format | None = None,  # noqa: A002
    reason: str = "",
    dry_run: bool = False,
    gates: Sequence[str] | None = None,
    move_id: str = "",
    bake: bool = True,
) -> Moved:
    """Move `alias` of `model` to `release`, losing no request, and watch it there as the settings' bake says.

    A bake that is still owed for the release is carried out where the alias names it already.

    Args:
        control: The control plane.
        model: Which model.
        release: Selects what the alias is to name (`State.select`).
        alias: Which alias; a pin's is the release's own number.
        format: Which artifact to serve; None for the first of the usual order.
        reason: Why, kept in the journal.
        dry_run: Say what would be done; measures and changes nothing.
        gates: Measuring gates that must pass first (`performance.NAMES`), beside
            those that always must; None for those of the settings.
        move_id: Names the move in the journal, so that whoever asked can find it there; empty for a fresh one.
        bake: Whether to watch it after the switch, as the settings say.

    Raises:
        UsageError: No such release, alias or format.
        IntegrityError: A file is not what was published, or no trusted key signed it and the settings ask for that.
        GateError: A gate did not pass; nothing was changed.
        ServerError: No server answers; nothing was changed.
        BusyError: Another writer is at work.
        MoveError: It failed, and the incumbent was kept; or the bake's rollback failed, and is owed.
        UnsupportedError: Memory does not suffice; nothing was changed.
    """
    check_model_name(model)
    check_alias(alias)
    release = select_release(control, model, release)
    if alias != pin_name(release):
        check_movable_alias(alias)
    known = control.repository.journal.state()
    # Asked first, before a gate loads it; and again under the lock, for a key may be revoked meanwhile.
    require_signed(control, known, known.release(model, release))
    chosen = control.settings.gates.promote_with if gates is None else gates
    if chosen and not dry_run:
        # What measures is imported where it is wanted: a rollback must be quick.
        from policyctl.services.performance import checks

        asked = checks(control, chosen, model=model, release=release, alias=alias)
        require_passed(validate(control, model=model, release=release, format=format, checks=asked), model, release)
    # So is what watches.
    from policyctl.services import bake as baking

    key = (model, alias)
    watched = None
    if bake and not dry_run and control.settings.bake.for_s:
        target = place(control, known, open_release(control.repository, known.release(model, release)), format)
        watched = baking.watch_incumbent(control, key, target)
    with (
        control.repository.writer(f"promote {model} {release} to {alias}", wait_s=control.settings.lock_wait_s),
        control.triton() as client,
    ):
        recovered = None if dry_run else recover(control, client)
        state = control.repository.journal.state()
        published = state.release(model, release)
        require_signed(control, state, published)
        opened = open_release(control.repository, published)
        target = place(control, state, opened, format)
        kind = MoveKind.PIN if is_pin(alias) else MoveKind.PROMOTION
        move = _move(state, kind, model, alias, target, reason, move_id)
        if _names_already(move):
            again = not dry_run and _serve_again(control, client, move)
            moved = Moved(move, changed=False, loaded_again=again, recovered=recovered)
            owed = state.bakes[key].move.id if key in state.bakes else ""
            if not bake and not dry_run:
                moved = replace(moved, bake=baking.end(control, key))
        else:
            require_room(control, client, state, move, opened)
            if dry_run:
                require_offline(control, state, published, record=False)
                return Moved(move, changed=True, steps=(*describe(moves.plan(move)), *baking.steps(control, key)))
            require_offline(control, state, published)
            if watched is not None:
                move = replace(move, bake=watched.for_move(move.incumbent))
            timings = execute(control, client, move, certified_here=False)
            moved = Moved(move, changed=True, timings=timings, recovered=recovered)
            owed = move.id if move.bake else ""
    if bake and owed and not dry_run:
        return replace(moved, bake=baking.carry_out(control, key, owed))
    return moved


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
    baking: str = "",
) -> Moved:
    """Move `alias` back to the release before, or to `to`. No gate is asked; a signature is, where it is required.

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
        baking: Only while the bake of this promotion is open, that is, while nobody has moved the alias since.

    Raises:
        UsageError: Nothing to go back to, or no such release.
        IntegrityError: A file is not what was published.
        ServerError: No server answers; nothing was changed.
        BusyError: Another writer is at work; or `baking` is over.
        MoveError: It failed; the incumbent was kept.
    """
    check_model_name(model)
    check_movable_alias(alias)
    control.repository.require()
    control.repository.journal.state().require(model)
    if to is not None:
        to = select_release(control, model, to)
    with (
        control.repository.writer(f"roll back {model} {alias}", wait_s=control.settings.lock_wait_s),
        control.triton() as client,
    ):
        recovered = None if dry_run else recover(control, client)
        if to is None and recovered is not None and _is_this_rollback(recovered, model, alias):
            # Whoever types a rollback again because the first was killed wants one step back, not two.
            return Moved(recovered.move, changed=True, timings=Timings(), recovered=recovered)
        state = control.repository.journal.state()
        if baking and ((owed := state.bakes.get((model, alias))) is None or owed.move.id != baking):
            raise BusyError(f"somebody else has moved {alias} of {model} since", remedy=f"policyctl status {model}")
        target = _rollback_target(control, state, model, alias, to)
        require_signed(control, state, state.release(model, target.release))
        move = _move(state, MoveKind.ROLLBACK, model, alias, target, reason, move_id)
        if _names_already(move):
            again = not dry_run and _serve_again(control, client, move)
            return Moved(move, changed=False, loaded_again=again, recovered=recovered)
        open_release(control.repository, state.release(model, target.release))
        certified_here = _certified_here(state, client, model, target)
        if dry_run:
            return Moved(move, changed=True, steps=describe(moves.plan(move, certified_here=certified_here)))
        timings = execute(control, client, move, certified_here=certified_here)
    return Moved(move, changed=True, timings=timings, recovered=recovered)


@operation("abort")
def abort(control: Control, *, model: str, wait_s: float = 30.0) -> str:
    """Stop the move of `model` that is under way, or revert one that a crash left open.

    Returns:
        What happened, in words.

    Raises:
        UsageError: Nothing is under way.
        BusyError: The mover did not stop in time.
        ServerError: No server answers, so a crashed move cannot be reverted.
    """
    control.repository.require()
    repository = control.repository
    state = repository.journal.state()
    state.require(model)
    unfinished = state.under_way(model)
    words = f"the {unfinished.move.words} by {unfinished.actor}"
    request_abort(repository, unfinished.move)
    deadline = time.monotonic() + wait_s
    while lock.is_held(repository.lock_path):
        if time.monotonic() >= deadline:
            raise BusyError(f"{lock.holder(repository.lock_path)} did not stop within {wait_s:.0f} s")
        time.sleep(0.02)
    with repository.writer(f"abort {model}"), control.triton() as client:
        left = repository.journal.state().unfinished
        if left is not None and left.move.id == unfinished.move.id:
            take_back_unfinished(control, client, left)
            return f"Reverted, it had been left unfinished: {words}."
    current = repository.journal.state().alias(model, unfinished.move.alias)
    served_now = current is not None and current.placement.slot == unfinished.move.target.slot
    if unfinished.move.kind is MoveKind.REMOVAL and current is None:
        return f"Too late, it is not served any more: {words}. Promote it again where it is wanted."
    if served_now and unfinished.move.kind is not MoveKind.REMOVAL:
        return f"Too late, it had been switched already: {words}. Use policyctl rollback {model}."
    return f"Aborted: {words}."


def describe(effects: tuple[moves.Effect, ...]) -> tuple[str, ...]:
    """Effects in words, for a dry run."""
    return tuple(_words(effect) for effect in effects)


def _words(effect: moves.Effect) -> str:
    match effect:
        case moves.Write(kind, result):
            return f"journal: {kind}" if result is None else f"journal: {kind} {result}"
        case moves.Place(served, slot):
            return f"place: slot {slot} as {served} (hard links)"
        case moves.Configure(served, placement):
            return f"configure: {served} to serve slot {placement.slot} ({placement.release}, {placement.format})"
        case moves.Load(served, slot):
            return f"load: {served}, slot {slot}"
        case moves.Certify(served, placement):
            return f"certify: {served} answers the golden set of {placement.release} from slot {placement.slot}"
        case moves.Withdraw(served):
            return f"withdraw: {served}"
        case moves.Prune(served, slot):
            return f"prune: every slot of {served} but {slot}"


def fresh_move_id() -> str:
    """An id for a move that has not begun."""
    return secrets.token_hex(8)


def _move(
    state: State, kind: MoveKind, model: str, alias: str, target: Placement, reason: str, move_id: str = ""
) -> Move:
    current = state.alias(model, alias)
    return Move(
        id=move_id or fresh_move_id(),
        kind=kind,
        model=model,
        alias=alias,
        incumbent=None if current is None else current.placement,
        target=target,
        reason=reason,
    )


def _names_already(move: Move) -> bool:
    return move.incumbent is not None and identity(move.incumbent.config) == identity(move.target.config)


def _serve_again(control: Control, client: Triton, move: Move) -> bool:
    """Load what an alias names already, where the server does not answer by it; says whether it had to."""
    found = Mover(control, client).certify(move.model, move.served, move.target)
    if found.verdict is Verdict.PASSED:
        return False
    words = f"{move.alias} names {move.target.release}, but does not answer by it: {found.reason}."
    control.tell(words, level=LogLevel.WARNING)
    current = control.repository.journal.state().aliases[move.model, move.alias]
    load_alias(control, client, (move.model, move.alias), current, afresh=True)
    return True


def _rollback_target(control: Control, state: State, model: str, alias: str, to: str | None) -> Placement:
    earlier = state.previous(model, alias) if to is None else _find(control, state, model, alias, to)
    # Clients name the release of an answer by this map, so it must know today's releases too.
    return replace(earlier, config=with_releases(earlier.config, state.slots(model)))


def _is_this_rollback(recovered: Recovered, model: str, alias: str) -> bool:
    move = recovered.move
    return recovered.finished and (move.kind, move.model, move.alias) == (MoveKind.ROLLBACK, model, alias)


def _find(control: Control, state: State, model: str, alias: str, to: str) -> Placement:
    published = state.release(model, to)
    current = state.alias(model, alias)
    if current is None:
        return state.previous(model, alias)  # refuses, and says why
    for placement in reversed(current.trail):
        if placement.release == to:
            return placement
    return place(control, state, open_release(control.repository, published), None)


def _certified_here(state: State, client: Triton, model: str, target: Placement) -> bool:
    server = client.endpoint.server_id
    seen = (server, model, target.manifest_digest, identity(target.config))
    return bool(server) and seen in state.certified
