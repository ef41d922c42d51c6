"""What the control API can be asked to do, and the doing of it: a promotion, a rollback, an abort.

One door to `services.promote` for whoever has a request as a value: it is
checked before anything begins, previewed, or carried out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from policyctl.domain.artifacts import Format
from policyctl.domain.moves import Move
from policyctl.domain.names import PRODUCTION, check_model_name, check_movable_alias
from policyctl.domain.operations import OperationKind
from policyctl.errors import PolicyctlError
from policyctl.services.control import Control
from policyctl.services.promote import abort, promote, rollback
from policyctl.settings import Settings


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asked for.

    Attributes:
        kind: What.
        model: Of which model.
        alias: Of which alias; nothing to an abort.
        release: Selects the target; None for the release before, of a rollback.
        format: Which artifact; None for the usual one.
        reason: Why, kept in the journal.
        gates: Measuring gates that must pass; None for those of the settings.
        lock_wait_s: How long to wait for another writer; None for the setting.
    """

    kind: OperationKind
    model: str
    alias: str = PRODUCTION
    release: str | None = None
    format: Format | None = None
    reason: str = ""
    gates: tuple[str, ...] | None = None
    lock_wait_s: float | None = None

    @property
    def fingerprint(self) -> str:
        """Digest by which it is told from another request."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def check(control: Control, asked: Asked) -> Move | None:
    """Refuse at once what cannot be done; of an abort, the move that it stops.

    Raises:
        UsageError: No such model, alias or release, or nothing to abort.
        IntegrityError: The journal was tampered with.
    """
    check_model_name(asked.model)
    control.repository.require()
    state = control.repository.journal.state()
    state.require(asked.model)
    if asked.kind is OperationKind.ABORT:
        return state.under_way(asked.model).move
    check_movable_alias(asked.alias)
    if asked.release is not None:
        state.select(asked.model, asked.release)
    if asked.kind is OperationKind.ROLLBACK and asked.release is None:
        state.previous(asked.model, asked.alias)
    return None


@dataclass(frozen=True, slots=True)
class Done:
    """What was done.

    Attributes:
        result: The document that the command line prints.
        words: The same for people.
        refusal: Why it is not what was wanted after all: a bake took the release back.
    """

    result: Mapping[str, Any]
    words: str
    refusal: PolicyctlError | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be done.

    Attributes:
        result: The document of a dry run.
        words: The same for people.
        messages: What was said on the way.
    """

    result: Mapping[str, Any]
    words: str
    messages: tuple[str, ...]


def preview(control: Control, asked: Asked) -> Preview:
    """What would be done; nothing is changed.

    Raises:
        PolicyctlError: As `promote` and `rollback`.
    """
    if asked.kind is OperationKind.ABORT:
        move = check(control, asked)
        words = "" if move is None else f"Would abort the {move.words}."
        return Preview({"model": asked.model, "result": words}, words, ())
    messages: list[str] = []
    mine = Control.of(settings_of(control, asked), messages.append)
    done = carry_out(mine, asked, move="", dry_run=True)
    return Preview(done.result, done.words, tuple(messages))


def settings_of(control: Control, asked: Asked) -> Settings:
    """The settings by which it is done."""
    if asked.lock_wait_s is None:
        return control.settings
    return control.settings.model_copy(update={"lock_wait_s": asked.lock_wait_s})


def carry_out(control: Control, asked: Asked, *, move: str, dry_run: bool = False) -> Done:
    """Do what was asked.

    Raises:
        PolicyctlError: As `promote`, `rollback` and `abort`.
    """
    match asked.kind:
        case OperationKind.ABORT:
            words = abort(control, model=asked.model)
            return Done({"model": asked.model, "result": words}, words)
        case OperationKind.ROLLBACK:
            moved = rollback(
                control,
                model=asked.model,
                alias=asked.alias,
                to=asked.release,
                reason=asked.reason,
                dry_run=dry_run,
                move_id=move,
            )
        case OperationKind.PROMOTION:
            moved = promote(
                control,
                model=asked.model,
                release=asked.release or "",
                alias=asked.alias,
                format=asked.format,
                reason=asked.reason,
                dry_run=dry_run,
                gates=asked.gates,
                move_id=move,
            )
    if moved.recovered is not None:
        control.say(moved.recovered.words)
    return Done(moved.to_json(), moved.words, moved.refusal)
