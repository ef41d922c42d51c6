"""What the control API was asked to do, and how that ended: plain values.

The journal says what became of a move. An operation only ties a request to its
move, so whoever asked can be told after the process that carried it out has
died: `told` reads the journal for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.moves import Move, Result
from policyctl.errors import MoveError, PolicyctlError


class OperationKind(StrEnum):
    """What was asked."""

    PROMOTION = "promotion"
    ROLLBACK = "rollback"
    ABORT = "abort"
    PIN = "pin"
    UNPIN = "unpin"
    REMOVAL = "removal"


class OperationState(StrEnum):
    """How it stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as a value: what the command line would say and exit with."""

    code: str
    exit_code: int
    problem: str
    remedy: str

    @classmethod
    def of(cls, error: PolicyctlError) -> Failure:
        """The error as a value."""
        return cls(error.code, error.exit_code, error.problem, error.remedy)

    def to_json(self) -> dict[str, Any]:
        """A JSON object, as the command line prints it."""
        return {name: getattr(self, name) for name in self.__slots__}


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
class Operation:
    """One request and its outcome.

    Attributes:
        id: Names it in its address.
        kind: What was asked.
        model: Of which model.
        alias: Of which alias; of an abort, that of the move that it stops; of a pin, the release's own number.
        request: What was asked for, as it came.
        move: Names its move in the journal; of an abort, the move that it stops. Empty where none is known.
        caller: Name of the token that asked.
        actor: In whose name the journal tells it.
        accepted: When it was accepted, UTC.
        key: Its idempotency key; empty for none.
        fingerprint: Digest of the request, by which another request under the same key is told.
        state: How it stands.
        finished: When it ended; empty before that.
        result: What the command line prints with ``--json``; None where nothing was done.
        words: The same for people.
        error: Why it failed.
        messages: What was said on the way.
    """

    id: str
    kind: OperationKind
    model: str
    alias: str
    request: Mapping[str, Any]
    move: str
    caller: str
    actor: str
    accepted: str
    key: str = ""
    fingerprint: str = ""
    state: OperationState = OperationState.RUNNING
    finished: str = ""
    result: Mapping[str, Any] | None = None
    words: str = ""
    error: Failure | None = None
    messages: tuple[str, ...] = field(default=())

    @property
    def is_over(self) -> bool:
        """Whether its outcome is known."""
        return self.state is not OperationState.RUNNING

    def succeeded(self, result: Mapping[str, Any], words: str, finished: str) -> Operation:
        """The same, done."""
        return replace(self, state=OperationState.SUCCEEDED, result=result, words=words, finished=finished)

    def failed(
        self, error: PolicyctlError, finished: str, *, result: Mapping[str, Any] | None = None, words: str = ""
    ) -> Operation:
        """The same, failed; with a result where something was done, and taken back."""
        failure = Failure.of(error)
        return replace(self, state=OperationState.FAILED, error=failure, finished=finished, result=result, words=words)

    def to_json(self) -> dict[str, Any]:
        """A JSON object for the disk."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **found,
            "request": dict(self.request),
            "result": None if self.result is None else dict(self.result),
            "error": None if self.error is None else self.error.to_json(),
            "messages": list(self.messages),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Operation:
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is no operation.
        """
        try:
            return cls(
                **{
                    **data,
                    "kind": OperationKind(data["kind"]),
                    "state": OperationState(data["state"]),
                    "error": None if data["error"] is None else Failure(**data["error"]),
                    "messages": tuple(data["messages"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an operation ({error})") from error


class MovePhase(StrEnum):
    """How far the journal says that a move has come; an operation without a record is ``waiting``."""

    WAITING = "waiting"
    """Gates measure, another writer is waited for, or nothing had to be moved."""
    CERTIFYING = "certifying"
    CERTIFIED = "certified"
    SWITCHING = "switching"
    BAKING = "baking"
    """Switched, and watched."""
    OVER = "over"


@dataclass(frozen=True, slots=True)
class MoveTold:
    """What the journal tells of one move.

    Attributes:
        phase: How far it came.
        move: The move; None where the journal has nothing of it.
        result: How it ended; None where it is open.
        ended: When; empty where it is open.
        timings: What its outcome says of times.
    """

    phase: MovePhase = MovePhase.WAITING
    move: Move | None = None
    result: Result | None = None
    ended: str = ""
    timings: Mapping[str, float | None] = field(default_factory=dict)


def move_told(records: Sequence[Record], move: str) -> MoveTold:
    """What the journal tells of the move of that id."""
    found = MoveTold()
    if not move:
        return found
    for record in records:
        if record.body.get("move") != move:
            continue
        match record.kind:
            case RecordKind.INTENT:
                found = MoveTold(MovePhase.CERTIFYING, Move.from_json(record.body))
            case RecordKind.CERTIFIED:
                found = replace(found, phase=MovePhase.CERTIFIED)
            case RecordKind.SWITCHING:
                found = replace(found, phase=MovePhase.SWITCHING)
            case RecordKind.OUTCOME:
                result = Result(record.body["result"])
                timings = record.body.get("timings") or {}
                watched = result is Result.DONE and found.move is not None and found.move.bake is not None
                phase = MovePhase.BAKING if watched else MovePhase.OVER
                found = replace(found, phase=phase, result=result, ended=record.time, timings=timings)
            case RecordKind.GATE:  # its bake's verdict; no other names a move
                found = replace(found, phase=MovePhase.OVER, ended=record.time)
            case _:
                pass
    return found


def settled(operation: Operation, told: MoveTold, *, result: Mapping[str, Any], now: str) -> Operation:
    """How an operation ended whose process died: as the journal says.

    Args:
        operation: Without an outcome of its own.
        told: What the journal tells of its move.
        result: What the command line would have printed of that move, had it been done.
        now: The time, for an operation that the journal knows nothing of.

    Returns:
        The operation with its outcome; as it was while its move is open, for
        the server, or the next command, will finish or revert it.
    """
    move = told.move
    if operation.kind is OperationKind.ABORT:
        return _settled_abort(operation, told, now=now)
    if move is None:
        error = MoveError(
            f"the {operation.kind} of {operation.model}'s {operation.alias} had not begun when the control API"
            " stopped; nothing was changed",
            remedy="Ask again, with another Idempotency-Key.",
        )
        return operation.failed(error, now)
    if told.result is None:
        return operation
    if told.result is Result.DONE:
        words = f"Done: the {move.words}. The control API was stopped meanwhile."
        return operation.succeeded(result, words, told.ended)
    kept = "nothing, as before" if move.incumbent is None else move.incumbent.release
    error = MoveError(
        f"the {move.words} was {told.result}; the control API was stopped meanwhile."
        f" {move.alias} of {move.model} still serves {kept}",
        remedy=f"Ask again, with another Idempotency-Key. What happened: policyctl history {move.model}",
    )
    return operation.failed(error, told.ended)


def _settled_abort(operation: Operation, told: MoveTold, *, now: str) -> Operation:
    move = told.move
    if move is None or told.result is None:
        error = MoveError(
            f"the control API stopped before the move of {operation.model} had been aborted",
            remedy="Ask again, with another Idempotency-Key.",
        )
        return operation.failed(error, now)
    if told.result is Result.DONE:
        words = f"Too late, it had been carried out already: the {move.words}."
    else:
        words = f"Aborted: the {move.words}."
    return operation.succeeded({"model": operation.model, "result": words}, words, told.ended)
