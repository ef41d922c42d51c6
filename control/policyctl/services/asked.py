"""What the control API can be asked to do, and the doing of it: whatever moves, adds or removes an alias.

One door to `services.promote` and `services.pins` for whoever has a request as
a value: it is checked before anything begins, previewed, or carried out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from policyctl.config import rules
from policyctl.config.problems import SettingProblem, refusal
from policyctl.domain.artifacts import Format
from policyctl.domain.bake import Then
from policyctl.domain.moves import Move
from policyctl.domain.names import PRODUCTION, check_model_name, check_movable_alias, pin_name
from policyctl.domain.operations import Done, OperationKind
from policyctl.errors import UsageError
from policyctl.services.control import Control
from policyctl.services.pins import pin, require_served, unpin, unserve
from policyctl.services.promote import abort, promote, rollback
from policyctl.settings import BakeSettings, Settings


@dataclass(frozen=True, slots=True)
class AskedBake:
    """How a promotion is to be watched after the switch.

    Attributes:
        for_s: Seconds; None for the setting.
        on_inconclusive: What follows from too little data; None for the setting.
        end: Do not watch it, and end a bake of this release that is under way.
    """

    for_s: float | None = None
    on_inconclusive: Then | None = None
    end: bool = False

    def over(self, settings: BakeSettings) -> BakeSettings:
        """The settings by which it is watched."""
        for_s = settings.for_s if self.for_s is None else self.for_s
        return settings.model_copy(
            update={
                "for_s": 0.0 if self.end else for_s,
                "on_inconclusive": self.on_inconclusive or settings.on_inconclusive,
            }
        )

    def is_less_than(self, settings: BakeSettings) -> bool:
        """Whether a release stays sooner, or on less evidence, than the settings ask for; where they ask at all."""
        wanted = self.over(settings)
        keeps = wanted.on_inconclusive is Then.KEEP and settings.on_inconclusive is not Then.KEEP
        return bool(settings.for_s) and (wanted.for_s < settings.for_s or keeps)


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asked for.

    Attributes:
        kind: What.
        model: Of which model.
        alias: Of which alias; nothing to an abort, a pin and its end.
        release: Selects the target; None for the release before, of a rollback. Nothing to a removal.
        format: Which artifact; None for the usual one.
        reason: Why, kept in the journal.
        gates: Measuring gates that must pass; None for those of the settings.
        lock_wait_s: How long to wait for another writer; None for the setting.
        bake: How a promotion is watched; None for as the settings say.
    """

    kind: OperationKind
    model: str
    alias: str = PRODUCTION
    release: str | None = None
    format: Format | None = None
    reason: str = ""
    gates: tuple[str, ...] | None = None
    lock_wait_s: float | None = None
    bake: AskedBake | None = None

    @property
    def fingerprint(self) -> str:
        """Digest by which it is told from another request."""
        told = asdict(self)
        if self.bake is None:
            del told["bake"]  # so that a key of before one could ask for a bake still names its request
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Checked:
    """What a request that can be carried out is about.

    Attributes:
        alias: Of which alias; a pin's is the release's own number.
        stops: Of an abort, the move that it stops.
    """

    alias: str
    stops: Move | None = None


def check(control: Control, asked: Asked) -> Checked:
    """Refuse at once what cannot be done.

    Raises:
        UsageError: No such model, alias or release, nothing to abort, or a rule of the profile forbids it.
        IntegrityError: The journal was tampered with.
    """
    check_model_name(asked.model)
    control.repository.require()
    state = control.repository.journal.state()
    state.require(asked.model)
    settings_of(control, asked)
    release = asked.release
    match asked.kind:
        case OperationKind.ABORT:
            move = state.under_way(asked.model).move
            return Checked(move.alias, move)
        case OperationKind.REMOVAL:
            require_served(state, asked.model, asked.alias)
        case OperationKind.PIN:
            return Checked(pin_name(state.select(asked.model, release or "").release))
        case OperationKind.UNPIN:
            alias = pin_name(state.select(asked.model, release or "").release)
            require_served(state, asked.model, alias)
            return Checked(alias)
        case OperationKind.PROMOTION | OperationKind.ROLLBACK:
            check_movable_alias(asked.alias)
            if release is not None:
                state.select(asked.model, release)
            elif asked.kind is OperationKind.ROLLBACK:
                state.previous(asked.model, asked.alias)
    return Checked(asked.alias)


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
        PolicyctlError: As `carry_out`.
    """
    if asked.kind is OperationKind.ABORT:
        stops = check(control, asked).stops
        words = "" if stops is None else f"Would abort the {stops.words}."
        return Preview({"model": asked.model, "result": words}, words, ())
    messages: list[str] = []
    mine = Control.of(settings_of(control, asked), messages.append)
    done = carry_out(mine, asked, move="", dry_run=True)
    return Preview(done.result, done.words, tuple(messages))


def settings_of(control: Control, asked: Asked) -> Settings:
    """The settings by which it is done.

    Raises:
        UsageError: The profile forbids what was asked for.
    """
    settings, changed = control.settings, dict[str, Any]()
    if asked.lock_wait_s is not None:
        changed["lock_wait_s"] = asked.lock_wait_s
    if asked.bake is not None:
        if asked.bake.end and asked.bake.for_s:
            raise UsageError(
                f"a bake of {asked.bake.for_s:g} s is asked for, and to end it", remedy="Ask for one of them."
            )
        changed["bake"] = asked.bake.over(settings.bake)
    found = settings.model_copy(update=changed)
    if asked.bake is not None and (broken := tuple(rules.broken(found.profile, found))):
        raise refusal(
            SettingProblem("", 0, each.key.name, str(each.value), f"{each.expected} (profile {found.profile})")
            for each in broken
        )
    return found


def carry_out(control: Control, asked: Asked, *, move: str, dry_run: bool = False) -> Done:
    """Do what was asked.

    Args:
        control: The control plane, with the settings by which it is done.
        asked: What.
        move: Names its move in the journal; empty for a fresh one.
        dry_run: Say what would be done; changes nothing.

    Raises:
        PolicyctlError: As `promote`, `rollback`, `abort`, `pin`, `unpin` and `unserve`.
    """
    model, alias, release = asked.model, asked.alias, asked.release or ""
    of_all: dict[str, Any] = {"model": model, "reason": asked.reason, "dry_run": dry_run, "move_id": move}
    match asked.kind:
        case OperationKind.ABORT:
            words = abort(control, model=model)
            return Done({"model": model, "result": words}, words)
        case OperationKind.ROLLBACK:
            moved = rollback(control, alias=alias, to=asked.release, **of_all)
        case OperationKind.PIN:
            moved = pin(control, release=release, format=asked.format, gates=asked.gates, **of_all)
        case OperationKind.UNPIN:
            moved = unpin(control, release=release, **of_all)
        case OperationKind.REMOVAL:
            moved = unserve(control, alias=alias, **of_all)
        case OperationKind.PROMOTION:
            watched = asked.bake is None or not asked.bake.end
            moved = promote(
                control, release=release, alias=alias, format=asked.format, gates=asked.gates, bake=watched, **of_all
            )
    if moved.recovered is not None:
        control.say(moved.recovered.words)
    return Done(moved.to_json(), moved.words, moved.refusal)
