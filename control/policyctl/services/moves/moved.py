"""What a move did, or would do: for people, for programs, and as a refusal."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from policyctl.domain import moves
from policyctl.domain.bake import Baked, Then
from policyctl.domain.compatibility import Difference
from policyctl.domain.json_values import to_json
from policyctl.domain.moves import Move, MoveKind, Placement
from policyctl.domain.state import State
from policyctl.domain.verdict import Verdict
from policyctl.errors import MovedError, MoveError, PolicyctlError
from policyctl.services.moves import contract_change as breaking
from policyctl.services.moves.mover import Timings
from policyctl.services.moves.recovery import Recovered


@dataclass(frozen=True, slots=True)
class Drained:
    """How the release before stayed reachable for its episodes.

    Attributes:
        release: Which release.
        served: Its Triton model.
        limit_s: How long at most, in seconds after the move.
        waited_s: How long the command waited for it, in seconds; after the bake, where there was one.
        over: Whether the drain has ended.
        pinned: Whether somebody pinned it for good meanwhile.
    """

    release: str
    served: str
    limit_s: float
    waited_s: float
    over: bool
    pinned: bool = False

    @property
    def words(self) -> str:
        """For people."""
        if self.pinned:
            return f"{self.served} was pinned meanwhile, and stays."
        if self.over:
            waited = f"the command waited {self.waited_s:g} s"
            return f"{self.served} answered its episodes and is not served any more ({waited})."
        return (
            f"{self.served} should have ended after {self.limit_s:g} s and is still served."
            " See: policyctl status; policyctl unpin ends it"
        )


@dataclass(frozen=True, slots=True)
class Moved:
    """What a promotion, a rollback, a pin or a removal did, or would do.

    Attributes:
        move: The move; its incumbent is what was served before.
        changed: False where the alias named the release already.
        loaded_again: It named the release, but the server did not answer by it until it was loaded again.
        steps: The effects, in words, of a dry run.
        timings: How long the parts took; None for a dry run.
        recovered: What an earlier crash had left and was done about it.
        bake: How the watch after the switch ended; None where there was none.
        drain: How the release before stayed reachable; None where it did not.
        differences: How the target's contract differs from the incumbent's.
    """

    move: Move
    changed: bool
    loaded_again: bool = False
    steps: tuple[str, ...] = ()
    timings: Timings | None = None
    recovered: Recovered | None = None
    bake: Baked | None = None
    drain: Drained | None = None
    differences: tuple[Difference, ...] = ()

    @property
    def words(self) -> str:
        """For people."""
        drain, bake = "" if self.drain is None else self.drain.words, "" if self.bake is None else self.bake.words
        parts = [self._words, self._differences, drain, bake]
        between = "\n" if self.steps else " "
        return between.join(part for part in parts if part)

    @property
    def refusal(self) -> PolicyctlError | None:
        """Why the release is not what is served after its bake; None where it is."""
        if self.bake is None:
            return None
        target = f"{self.move.model} {self.move.target.release}"
        if self.bake.then is None:
            return MovedError(
                f"{self.move.alias} was moved while {target} baked: {self.bake.reason}",
                remedy=f"See who did and why: policyctl history {self.move.model}",
            )
        if self.bake.then is Then.ROLLBACK:
            remedy, verdict = f"Look at the evidence: .policyctl/{self.bake.evidence}", str(self.bake.verdict)
            if self.bake.verdict is Verdict.INCONCLUSIVE:
                verdict = f"was {verdict}"
                remedy = (
                    "To keep a release of which a bake sees too little: --on-inconclusive keep. To promote it without"
                    f" a bake: --no-bake. {remedy}"
                )
            return MoveError(
                f"{target} was rolled back: its bake {verdict}: {self.bake.reason}",
                remedy=remedy,
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
        back = f" -> {self._origin}" if self.bake is not None and self.bake.then is Then.ROLLBACK else ""
        return (
            f"{self.move.alias} of {self.move.model}: {self._origin} -> {self.move.target.release}{back}"
            f" (slot {self.move.target.slot}, {self.move.target.format}),"
            f" switched in {self.timings.switch_ms:.0f} ms, {self.timings.total_ms:.0f} ms in all."
        )

    @property
    def _origin(self) -> str:
        return "nothing" if self.move.incumbent is None else self.move.incumbent.release

    @property
    def _differences(self) -> str:
        return breaking.words(self.differences, self._origin)

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
            "timings": to_json(self.timings),
            "recovered": None if self.recovered is None else self.recovered.words,
            "bake": to_json(self.bake),
            "drain": to_json(self.drain),
            "breaking": breaking.is_breaking(self.differences),
            "differences": to_json(self.differences),
        }


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


def incumbent_of(state: State, model: str, alias: str) -> Placement | None:
    """What an alias names now; None for nothing."""
    current = state.alias(model, alias)
    return None if current is None else current.placement


def fresh_move_id() -> str:
    """An id for a move that has not begun."""
    return secrets.token_hex(8)


def new_move(
    state: State, kind: MoveKind, model: str, alias: str, target: Placement, reason: str, move_id: str = ""
) -> Move:
    """A move that has not begun."""
    return Move(
        id=move_id or fresh_move_id(),
        kind=kind,
        model=model,
        alias=alias,
        incumbent=incumbent_of(state, model, alias),
        target=target,
        reason=reason,
    )
