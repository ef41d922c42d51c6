"""Requests to the control API and their outcomes: plain values.

The journal says what became of a move. An operation only ties a request to its
move. So its caller learns the outcome also after the process that carried it
out has died: `move_progress` reads the journal for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.moves import Move, Result
from policyctl.errors import MoveError, PolicyctlError

_AGAIN: Final = "Send the request again, with another Idempotency-Key."


class OperationKind(StrEnum):
    """What was requested."""

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


@dataclass(frozen=True, slots=True)
class Done:
    """What was done.

    Attributes:
        result: The document that the command line prints.
        words: The same for people.
        refusal: Why it is not what was wanted in the end: a bake took the release back.
    """

    result: Mapping[str, Any]
    words: str
    refusal: PolicyctlError | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One request and its outcome.

    Attributes:
        id: Names it in its address.
        kind: What was requested.
        model: Of which model.
        alias: Of which alias; of an abort, that of the move that it stops; of a pin, the release's number.
        request: The request, as JSON.
        move: Names its move in the journal; of an abort, the move that it stops. Empty where none is known.
        caller: Name of the token that sent the request.
        actor: In whose name the journal is written.
        accepted: When it was accepted, UTC.
        key: Its idempotency key; empty for none.
        fingerprint: Digest of the request, which another request under the same key does not have.
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
    messages: tuple[str, ...] = ()

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
class MoveProgress:
    """What the journal says of one move.

    Attributes:
        phase: How far it came.
        move: The move; None where the journal does not know it.
        result: How it ended; None where it is open.
        ended: When; empty where it is open.
        timings: How long its parts took, as its outcome says.
    """

    phase: MovePhase = MovePhase.WAITING
    move: Move | None = None
    result: Result | None = None
    ended: str = ""
    timings: Mapping[str, float | None] = field(default_factory=dict)


def move_progress(records: Sequence[Record], move: str) -> MoveProgress:
    """What the journal says of the move with that id."""
    progress = MoveProgress()
    if not move:
        return progress
    for record in records:
        if record.body.get("move") != move:
            continue
        match record.kind:
            case RecordKind.INTENT:
                progress = MoveProgress(MovePhase.CERTIFYING, Move.from_json(record.body))
            case RecordKind.CERTIFIED:
                progress = replace(progress, phase=MovePhase.CERTIFIED)
            case RecordKind.SWITCHING | RecordKind.REVERTING:
                progress = replace(progress, phase=MovePhase.SWITCHING)
            case RecordKind.OUTCOME:
                result = Result(record.body["result"])
                timings = record.body.get("timings") or {}
                watched = result is Result.DONE and progress.move is not None and progress.move.bake is not None
                phase = MovePhase.BAKING if watched else MovePhase.OVER
                progress = replace(progress, phase=phase, result=result, ended=record.time, timings=timings)
            case RecordKind.GATE:  # the verdict of its bake; no other verdict names a move
                progress = replace(progress, phase=MovePhase.OVER, ended=record.time)
            case _:
                pass
    return progress


def settled(operation: Operation, progress: MoveProgress, *, result: Mapping[str, Any], now: str) -> Operation:
    """How an operation ended whose process died: as the journal says.

    Args:
        operation: Its outcome is not known yet.
        progress: What the journal says of its move.
        result: What the command line would have printed of that move, had it been done.
        now: The time, for an operation that the journal does not know.

    Returns:
        The operation with its outcome. While its move is open, the operation as
        it was: the server, or the next command, will finish or revert the move.
    """
    move = progress.move
    if operation.kind is OperationKind.ABORT:
        return _settled_abort(operation, progress, now=now)
    if move is None:
        error = MoveError(
            f"the {operation.kind} of {operation.model}'s {operation.alias} had not begun when the control API"
            " stopped; nothing was changed",
            remedy=_AGAIN,
        )
        return operation.failed(error, now)
    if progress.result is None:
        return operation
    if progress.result is Result.DONE:
        words = f"Done: the {move.words}. The control API was stopped meanwhile."
        return operation.succeeded(result, words, progress.ended)
    serving = "nothing, as before" if move.incumbent is None else move.incumbent.release
    error = MoveError(
        f"the {move.words} was {progress.result}; the control API was stopped meanwhile."
        f" {move.alias} of {move.model} still serves {serving}",
        remedy=f"{_AGAIN} What happened: policyctl history {move.model}",
    )
    return operation.failed(error, progress.ended)


def _settled_abort(operation: Operation, progress: MoveProgress, *, now: str) -> Operation:
    move = progress.move
    if move is None or progress.result is None:
        problem = f"the control API stopped before the move of {operation.model} had been aborted"
        return operation.failed(MoveError(problem, remedy=_AGAIN), now)
    if progress.result is Result.DONE:
        words = f"Too late, it had been carried out already: the {move.words}."
    else:
        words = f"Aborted: the {move.words}."
    return operation.succeeded({"model": operation.model, "result": words}, words, progress.ended)
