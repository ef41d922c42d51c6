"""Operations of the control API: kept without loss, and settled by what the journal says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.domain.artifacts import Format
from policyctl.domain.journal import GENESIS, Record, RecordKind
from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.moves import Move, MoveKind, Placement, Result
from policyctl.domain.operations import (
    Failure,
    MovePhase,
    Operation,
    OperationKind,
    OperationState,
    move_progress,
    settled,
)
from policyctl.errors import UsageError

TARGET = Placement("1.1.0", 2, "sha256:" + "1" * 64, Format.ONNX, "config")
MOVE = Move("m1", MoveKind.PROMOTION, "walker", "production", None, TARGET, "why")
BODIES: dict[RecordKind, dict[str, Any]] = {
    RecordKind.INTENT: {**MOVE.to_json(), "server": "s"},
    RecordKind.CERTIFIED: {"move": "m1"},
    RecordKind.SWITCHING: {"move": "m1"},
    RecordKind.OUTCOME: {"move": "m1", "timings": {"total_ms": 1.0}},
}
texts = st.text(max_size=20)
operations = st.builds(
    Operation,
    id=texts,
    kind=st.sampled_from(OperationKind),
    model=texts,
    alias=texts,
    request=st.dictionaries(texts, texts | st.none() | st.booleans() | st.integers()),
    move=texts,
    caller=texts,
    actor=texts,
    accepted=texts,
    key=texts,
    fingerprint=texts,
    state=st.sampled_from(OperationState),
    finished=texts,
    result=st.none() | st.dictionaries(texts, texts),
    words=texts,
    error=st.none() | st.builds(Failure, texts, st.integers(), texts, texts),
    messages=st.lists(texts).map(tuple),
)


def operation(kind: OperationKind = OperationKind.PROMOTION) -> Operation:
    """One that runs."""
    return Operation("o", kind, "walker", "production", {}, "m1", "ci", "token:ci@h", "2026-11-20T10:00:00.000+00:00")


def records(count: int, result: Result = Result.DONE, *, move: str = "m1") -> tuple[Record, ...]:
    """The first records of a move, among those of another."""
    found = []
    for number, (kind, body) in enumerate(list(BODIES.items())[:count]):
        more = {"result": result.value} if kind is RecordKind.OUTCOME else {}
        found.append(
            Record(number, GENESIS, f"2026-11-20T10:0{number}:00+00:00", "a", kind, {**body, **more, "move": move})
        )
    return tuple(found)


@given(operations)
def test_an_operation_comes_back_from_the_disk_as_it_went(given_: Operation) -> None:
    """Through JSON and back nothing is lost."""
    assert from_json(Operation, json.loads(json.dumps(to_json(given_))), what="operation") == given_


@settings(max_examples=40)
@given(st.recursive(st.none() | st.integers() | texts, lambda c: st.lists(c) | st.dictionaries(texts, c)))
def test_what_is_no_operation_is_refused_as_such(data: object) -> None:
    """A damaged file is refused, whatever it holds."""
    with pytest.raises(UsageError, match="operation"):
        from_json(Operation, data, what="operation")


@pytest.mark.parametrize("kind", [OperationKind.PROMOTION, OperationKind.ROLLBACK])
@pytest.mark.parametrize("result", list(Result))
@pytest.mark.parametrize("count", range(5))
def test_an_operation_is_settled_by_every_prefix_of_its_moves_records(kind, result, count) -> None:
    """None: failed, nothing begun. Open: it runs. Done: succeeded. Reverted or aborted: failed, the incumbent kept."""
    others = records(4, move="m2")
    told = move_progress(others + records(count, result), "m1")
    phases = (MovePhase.WAITING, MovePhase.CERTIFYING, MovePhase.CERTIFIED, MovePhase.SWITCHING, MovePhase.OVER)
    assert told.phase is phases[count]
    found = settled(operation(kind), told, result={"move": "m1"}, now="now")
    if count == 0:
        assert (found.state, found.finished) == (OperationState.FAILED, "now")
    elif count < 4:
        assert found == operation(kind)
    else:
        done = result is Result.DONE
        assert found.state is (OperationState.SUCCEEDED if done else OperationState.FAILED)
        assert found.finished == told.ended
        assert (found.error is None) is done
        assert done or (found.error is not None and found.error.exit_code == 7)


@pytest.mark.parametrize(
    ("count", "result", "state", "words"),
    [
        (0, Result.DONE, OperationState.FAILED, ""),
        (3, Result.DONE, OperationState.FAILED, ""),
        (4, Result.DONE, OperationState.SUCCEEDED, "Too late"),
        (4, Result.ABORTED, OperationState.SUCCEEDED, "Aborted"),
        (4, Result.REVERTED, OperationState.SUCCEEDED, "Aborted"),
    ],
)
def test_an_abort_is_settled_by_the_move_that_it_stops(count, result, state, words) -> None:
    """Where that has no outcome the abort has failed: it is to be asked again."""
    found = settled(operation(OperationKind.ABORT), move_progress(records(count, result), "m1"), result={}, now="now")
    assert (found.state, found.words.startswith(words)) == (state, True)
