"""Decide how an alias moves from one release to another.

This module decides and `services.moves.mover` acts: it opens no file, reads no clock
and knows no Triton client, so every path is tested without a server. A
decision is a `Move`, a plain value that the journal keeps, and a plan: the
ordered effects that carry it out.

The order is *expand, certify, switch, verify, contract*. Up to the record
``switching`` the alias has not been touched, so a move that is cut short
before it is reverted; after it the target is certified on this very server, so
the move is finished. A move that is taken back after its switch says so first
(``reverting``), and from there it is reverted by the next command or the server: a target
that failed under the alias is not put there again. Every effect can be repeated
without harm, so a plan begun twice ends like one begun once.

Taking an alias out of service is a move as well, without a candidate: the
record ``switching``, then the withdrawal.

Invariant: the configuration of an alias names only a release that a server
has certified, and after any prefix of any plan the alias is answered by the
incumbent or by the target (of a removal: by the incumbent or by nobody).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from policyctl.domain.artifacts import Format
from policyctl.domain.bake import Baking
from policyctl.domain.journal import RecordKind
from policyctl.domain.json_values import OMIT_DEFAULT, fields_to_json, from_json
from policyctl.domain.names import CANDIDATE, PRODUCTION, served_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Move = TypeVar("_Move")


class MoveKind(StrEnum):
    """Which way."""

    PROMOTION = "promotion"
    ROLLBACK = "rollback"
    PIN = "pin"
    """A promotion of a release to the alias that is its own number."""
    REMOVAL = "removal"
    """The alias is served no more."""


class Phase(StrEnum):
    """How far the journal says that a move has come."""

    INTENT = "intent"
    CERTIFIED = "certified"
    SWITCHING = "switching"
    REVERTING = "reverting"
    """It had switched, and is being taken back."""

    @property
    def is_switched(self) -> bool:
        """Whether the alias may be answered by the target by now."""
        return self in {Phase.SWITCHING, Phase.REVERTING}


class Result(StrEnum):
    """How a move ended."""

    DONE = "done"
    REVERTED = "reverted"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Placement:
    """One release as an alias serves it.

    Attributes:
        release: Semantic version.
        slot: Triton's version directory.
        manifest_digest: What the release's manifest hashes to.
        format: Which of its artifacts is served.
        config: The whole text of `config.pbtxt`.
    """

    release: str
    slot: int
    manifest_digest: str
    format: Format
    config: str


@dataclass(frozen=True, slots=True)
class Move:
    """One promotion, rollback, pin or removal.

    Attributes:
        id: Names the move in the journal.
        kind: Which of them.
        model: Whose alias.
        alias: Which alias.
        incumbent: What it names now; None before its first promotion.
        target: What it is to name; of a removal, what it named last.
        reason: Why, in the words of the person who asked.
        bake: What is owed once the alias is switched; None for nothing.
        drain_s: Of a pin that ends by itself: how long at most it is served; None for a pin that stays.
    """

    id: str
    kind: MoveKind
    model: str
    alias: str
    incumbent: Placement | None
    target: Placement
    reason: str = ""
    bake: Baking | None = field(default=None, metadata=OMIT_DEFAULT)
    drain_s: float | None = field(default=None, metadata=OMIT_DEFAULT)

    @property
    def served(self) -> str:
        """The Triton model of the alias."""
        return served_name(self.model, self.alias)

    @property
    def candidate(self) -> str:
        """The Triton model under which the target is certified."""
        return served_name(self.model, CANDIDATE)

    @property
    def words(self) -> str:
        """What it is, in words."""
        if self.kind is MoveKind.REMOVAL:
            return f"{self.kind} of {self.model}'s {self.alias}, which names {self.target.release}"
        origin = "nothing" if self.incumbent is None else self.incumbent.release
        return f"{self.kind} of {self.model}'s {self.alias} from {origin} to {self.target.release}"

    def to_json(self) -> dict[str, Any]:
        """The body of the record ``intent``."""
        return intent_of(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Move:
        """Read what `to_json` wrote.

        Raises:
            UsageError: It describes no move.
        """
        return move_of(cls, body, what="move")


def intent_of(move: DataclassInstance) -> dict[str, Any]:
    """The body of the record ``intent`` of a move: other records name it by ``move``, and have a kind themselves."""
    fields = fields_to_json(move)
    return {"move": fields.pop("id"), "move_kind": fields.pop("kind"), **fields}


def move_of(cls: type[_Move], body: Mapping[str, Any], *, what: str) -> _Move:
    """Read what `intent_of` wrote.

    Raises:
        UsageError: It describes no move of that class.
    """
    renamed = {"id": body.get("move"), "kind": body.get("move_kind")}
    return from_json(cls, {**body, **renamed}, what=what, unknown_keys=True)


@dataclass(frozen=True, slots=True)
class Write:
    """Append a record to the journal."""

    kind: RecordKind
    result: Result | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Give the Triton model `served` the slot's files (hard links) and drop no other."""

    served: str
    slot: int


@dataclass(frozen=True, slots=True)
class Configure:
    """Replace the `config.pbtxt` of `served` as a whole."""

    served: str
    placement: Placement


@dataclass(frozen=True, slots=True)
class Load:
    """Have Triton load `served` as configured; the old version serves until `slot` is ready."""

    served: str
    slot: int


@dataclass(frozen=True, slots=True)
class Certify:
    """Ask `served` for its golden set; every answer must come from the placement's slot."""

    served: str
    placement: Placement


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Unload `served`, then remove its folder (the config alone where it holds the slots)."""

    served: str


@dataclass(frozen=True, slots=True)
class Prune:
    """Remove every slot but `slot` from the folder of `served`, which is an alias's own."""

    served: str
    slot: int


Effect = Write | Place | Configure | Load | Certify | Withdraw | Prune


def plan(move: Move, *, certified_here: bool = False) -> tuple[Effect, ...]:
    """The effects that carry out `move`, in order.

    Args:
        move: What to do.
        certified_here: The very server in use has certified the target before,
            in this format and with this configuration, so *expand* and
            *certify* need not be repeated. This is what makes a rollback as
            quick as its switch.
    """
    intent = (Write(RecordKind.INTENT),)
    if certified_here or move.kind is MoveKind.REMOVAL:
        return intent + finish(move)
    expand = (
        Place(move.candidate, move.target.slot),
        Configure(move.candidate, move.target),
        Load(move.candidate, move.target.slot),
    )
    certify = (Certify(move.candidate, move.target), Write(RecordKind.CERTIFIED))
    return intent + expand + certify + finish(move)


def finish(move: Move) -> tuple[Effect, ...]:
    """The effects from *switch* on; also what completes a move that crashed there."""
    if move.kind is MoveKind.REMOVAL:
        return (Write(RecordKind.SWITCHING), Withdraw(move.served), Write(RecordKind.OUTCOME, Result.DONE))
    return (
        *_place_alias(move, move.target),
        Write(RecordKind.SWITCHING),
        # Before the alias is loaded: it is served by the graphs that were compiled for the candidate.
        Withdraw(move.candidate),
        Configure(move.served, move.target),
        Load(move.served, move.target.slot),
        Certify(move.served, move.target),
        *_prune(move, move.target),
        Write(RecordKind.OUTCOME, Result.DONE),
    )


def revert(move: Move, phase: Phase, *, result: Result = Result.REVERTED) -> tuple[Effect, ...]:
    """The effects that bring the incumbent back, from wherever the move stopped."""
    back: tuple[Effect, ...] = ()
    if phase.is_switched:
        said = (Write(RecordKind.REVERTING),) if phase is Phase.SWITCHING else ()
        if move.incumbent is None:
            back = (*said, Withdraw(move.served))
        else:
            back = (
                *said,
                *_place_alias(move, move.incumbent),
                Configure(move.served, move.incumbent),
                Load(move.served, move.incumbent.slot),
                Certify(move.served, move.incumbent),
            )
    elif move.incumbent is None and move.alias != PRODUCTION:
        back = (Withdraw(move.served),)
    return (*back, Withdraw(move.candidate), *_prune(move, move.incumbent), Write(RecordKind.OUTCOME, result))


def _place_alias(move: Move, placement: Placement) -> tuple[Effect, ...]:
    # production serves the slots where they were published; any other alias has links
    return () if move.alias == PRODUCTION else (Place(move.served, placement.slot),)


def _prune(move: Move, kept: Placement | None) -> tuple[Effect, ...]:
    return () if move.alias == PRODUCTION or kept is None else (Prune(move.served, kept.slot),)
