"""Carry out a request on a repository of this machine: check it before anything begins, then move."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from policyctl.config import rules
from policyctl.config.reading import refusal
from policyctl.documents.document import Problem
from policyctl.domain.moves import Move
from policyctl.domain.names import check_model_name, check_movable_alias, pin_name
from policyctl.domain.operations import Done
from policyctl.errors import UsageError
from policyctl.services import running
from policyctl.services.control import Control
from policyctl.services.moves.incumbent import require_incumbent
from policyctl.services.moves.moved import Moved
from policyctl.services.moves.removal import require_served, unserve
from policyctl.services.moves.rollback import abort, rollback
from policyctl.services.rollout.request import (
    AbortRequest,
    AliasRequest,
    BakeRequest,
    MoveRequest,
    PinRequest,
    PromotionRequest,
    RemovalRequest,
    RollbackRequest,
    ServingRequest,
    UnpinRequest,
)
from policyctl.services.strictness import in_force, require_profile
from policyctl.settings import BakeSettings, Settings


@dataclass(frozen=True, slots=True)
class Checked:
    """What a request that can be carried out is about.

    Attributes:
        alias: Of which alias; a pin's is the release's own number.
        stops: Of an abort, the move that it stops.
    """

    alias: str
    stops: Move | None = None


def check(control: Control, request: AliasRequest) -> Checked:
    """Refuse at once what cannot be done.

    Raises:
        UsageError: No such model, alias or release, nothing to abort, a rule of the profile forbids it, or the
            repository follows the store of a fleet.
        MovedError: Another move than the one to abort is under way, or the alias was moved meanwhile.
        IntegrityError: The journal was tampered with.
    """
    model = request.model
    check_model_name(model)
    state = control.known(model)
    _require_no_store(control)
    settings_of(control, request)
    match request.wanted:
        case PromotionRequest(release=release, alias=alias, incumbent=incumbent):
            check_movable_alias(alias)
            state.select(model, release)
            require_incumbent(control, state, model=model, alias=alias, incumbent=incumbent)
        case PinRequest(release=release):
            alias = pin_name(state.select(model, release).release)
        case RollbackRequest(to=to, alias=alias, incumbent=incumbent):
            check_movable_alias(alias)
            require_incumbent(control, state, model=model, alias=alias, incumbent=incumbent)
            _ = state.previous(model, alias) if to is None else state.select(model, to)
        case UnpinRequest(release=release):
            alias = pin_name(state.select(model, release).release)
            require_served(state, model, alias)
        case RemovalRequest(alias=alias):
            require_served(state, model, alias)
        case AbortRequest(move=stopped):
            move = state.under_way(model, stopped or "").move
            return Checked(move.alias, move)
    return Checked(alias)


def settings_of(control: Control, request: AliasRequest) -> tuple[Settings, str]:
    """The settings by which a request is carried out, and where the running server's are stricter, in words.

    Raises:
        UsageError: The profile, or that of the running server, forbids what is wanted.
    """
    wanted = request.wanted
    promotes = isinstance(wanted, ServingRequest)
    settings, words = in_force(control) if promotes else (control.settings, "")
    changed = dict[str, Any]()
    if isinstance(wanted, MoveRequest) and wanted.lock_wait_s is not None:
        changed["lock_wait_s"] = wanted.lock_wait_s
    bake = wanted.bake if isinstance(wanted, PromotionRequest) else None
    if bake is not None:
        changed["bake"] = _baking(bake, settings)
    found = settings.model_copy(update=changed)
    if bake is not None and (broken := tuple(rules.broken(found.profile, found))):
        raise refusal(
            Problem(0, each.key.name, str(each.value), f"{each.expected} (profile {found.profile})") for each in broken
        )
    if promotes:
        require_profile(control, found)
    return found, words


def _baking(bake: BakeRequest, settings: Settings) -> BakeSettings:
    if bake.end and bake.for_s:
        raise UsageError(f"a bake of {bake.for_s:g} s is asked for, and to end it", remedy="Ask for one of them.")
    return bake.over(settings.bake)


def store_of(control: Control) -> str:
    """The store of the fleet that a repository follows, by the settings here or by those of its server; or empty."""
    served = running.read(control.repository)
    return control.settings.fleet.store or ("" if served is None else str(served.settings.get("fleet.store") or ""))


def _require_no_store(control: Control) -> None:
    if store := store_of(control):
        raise UsageError(
            f"this repository follows {store}: a move of this repository alone would be taken back",
            remedy=f"Move the alias on every node: policyctl --store {store} promote, rollback or unserve.",
        )


def carry_out(control: Control, request: AliasRequest, *, move: str = "") -> Done:
    """Do what is wanted, or say what would be done.

    Args:
        control: The control plane; what the request says goes before its settings.
        request: What is wanted.
        move: Names its move in the journal; empty for a fresh one.

    Raises:
        UsageError: The repository follows the store of a fleet.
        PolicyctlError: As `promote`, `rollback`, `abort`, `pin`, `unpin` and `unserve`.
    """
    _require_no_store(control)
    settings, words = settings_of(control, request)
    if words:
        control.tell(words)
    control = replace(control, settings=settings)
    if isinstance(moved := _act(control, request, move), str):
        return Done({"model": request.model, "result": moved}, moved)
    if moved.recovered is not None:
        control.say(moved.recovered.words)
    return Done(moved.to_json(), moved.words, moved.refusal)


def _act(control: Control, request: AliasRequest, move: str) -> Moved | str:
    """What was moved; of an abort, what happened, in words."""
    model = request.model
    # Each is imported where it is wanted: a rollback must be quick.
    match request.wanted:
        case PromotionRequest() as wanted:
            from policyctl.services.rollout.promote import promote

            return promote(
                control,
                model=model,
                release=wanted.release,
                alias=wanted.alias,
                format=wanted.format,
                reason=wanted.reason,
                dry_run=wanted.dry_run,
                gates=wanted.gates,
                move_id=move,
                bake=wanted.bake is None or not wanted.bake.end,
                breaking=wanted.breaking,
                incumbent=wanted.incumbent,
                drain_s=wanted.drain_s,
            )
        case RollbackRequest() as wanted:
            return rollback(
                control,
                model=model,
                alias=wanted.alias,
                to=wanted.to,
                reason=wanted.reason,
                dry_run=wanted.dry_run,
                move_id=move,
                incumbent=wanted.incumbent,
                drain_s=wanted.drain_s,
            )
        case RemovalRequest(alias=alias, reason=reason, dry_run=dry_run):
            return unserve(control, model=model, alias=alias, reason=reason, dry_run=dry_run, move_id=move)
        case AbortRequest(dry_run=True):
            stops = check(control, request).stops
            return "" if stops is None else f"Would abort the {stops.words}."
        case AbortRequest(move=stopped):
            return abort(control, model=model, move=stopped or "")
        case PinRequest() | UnpinRequest() as wanted:
            return _pin(control, model, wanted, move)


def _pin(control: Control, model: str, wanted: PinRequest | UnpinRequest, move: str) -> Moved:
    from policyctl.services.rollout.pins import pin, unpin

    if isinstance(wanted, UnpinRequest):
        return unpin(
            control,
            model=model,
            release=wanted.release,
            reason=wanted.reason,
            dry_run=wanted.dry_run,
            move_id=move,
        )
    return pin(
        control,
        model=model,
        release=wanted.release,
        format=wanted.format,
        reason=wanted.reason,
        dry_run=wanted.dry_run,
        gates=wanted.gates,
        move_id=move,
    )
