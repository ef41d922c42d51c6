"""The fold of the journal: what any history says, and where a rollback goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from domain_strategies import placement
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.domain.artifacts import Format
from policyctl.domain.fold import fold
from policyctl.domain.journal import GENESIS, Record, RecordKind
from policyctl.domain.moves import Move, MoveKind, Placement, Result
from policyctl.domain.state import State
from policyctl.errors import IntegrityError, UsageError

RELEASES = ("1.0.0", "1.1.0", "2.0.0")
ALIASES = ("production", "staging")


def _record(seq: int, kind: RecordKind, body: dict) -> Record:
    return Record(seq, GENESIS, f"t{seq}", "a@b", kind, body)


def _published() -> list[Record]:
    body = [
        {"model": "m", "release": r, "slot": n, "manifest_digest": GENESIS, "contract": {}}
        for n, r in enumerate(RELEASES, 1)
    ]
    return [_record(n, RecordKind.PUBLISHED, b) for n, b in enumerate(body)]


def _move(records: list[Record], kind: MoveKind, alias: str, target: Placement, result: Result | None) -> None:
    """Append what a move writes; without a result it is left open after its intent."""
    current = fold(records).alias("m", alias)
    move = Move(str(len(records)), kind, "m", alias, current.placement if current else None, target)
    records.append(_record(len(records), RecordKind.INTENT, {**move.to_json(), "server": "s"}))
    if result is None:
        return
    if result is Result.DONE:
        records.append(_record(len(records), RecordKind.SWITCHING, {"move": move.id, "config_digest": ""}))
    records.append(_record(len(records), RecordKind.OUTCOME, {"move": move.id, "result": result.value}))


placements = st.builds(
    placement, st.sampled_from(RELEASES), format=st.sampled_from([Format.ONNX, Format.OPENVINO])
).map(lambda p: Placement(p.release, RELEASES.index(p.release) + 1, p.manifest_digest, p.format, p.config))
promotions = st.tuples(st.just("promote"), st.sampled_from(ALIASES), placements, st.sampled_from(Result))
rollbacks = st.tuples(st.just("rollback"), st.sampled_from(ALIASES), st.none(), st.sampled_from(Result))
named_rollbacks = st.tuples(st.just("rollback"), st.sampled_from(ALIASES), placements, st.sampled_from(Result))

removals = st.tuples(st.just("remove"), st.sampled_from(ALIASES), st.none(), st.sampled_from(Result))


def _records(steps: list[tuple]) -> tuple[list[Record], dict[str, list[Placement]]]:
    """A journal of `steps`, and the trail that a stack per alias would hold."""
    records, stacks = _published(), {alias: [] for alias in ALIASES}
    for what, alias, target, result in steps:
        stack = stacks[alias]
        if stack and target == stack[-1]:
            continue  # a move to what is named already is never begun
        if what == "promote":
            _move(records, MoveKind.PROMOTION, alias, target, result)
            if result is Result.DONE:
                stack.append(target)
        elif what == "remove":
            if stack:
                _move(records, MoveKind.REMOVAL, alias, stack[-1], result)
                if result is Result.DONE:
                    stack.clear()
        elif target is None and len(stack) > 1:
            assert fold(records).previous("m", alias) == stack[-2]
            if stack[-2] == stack[-1]:
                continue
            _move(records, MoveKind.ROLLBACK, alias, stack[-2], result)
            if result is Result.DONE:
                stack.pop()
    return records, stacks


@settings(max_examples=150, deadline=None)
@given(st.lists(promotions | rollbacks | removals, max_size=12))
def test_rollbacks_undo_promotions_like_a_stack(steps: list[tuple]) -> None:
    """Whatever ended whichever way, an alias names the top of what was promoted and not rolled back or removed."""
    records, stacks = _records(steps)
    state = fold(records)
    for alias, stack in stacks.items():
        found = state.alias("m", alias)
        assert (list(found.trail) if found else []) == stack
        assert (found.placement if found else None) == (stack[-1] if stack else None)
    assert not state.unfinished


@settings(max_examples=100, deadline=None)
@given(st.lists(promotions | named_rollbacks, max_size=10), st.data())
def test_folding_a_prefix_and_then_the_rest_is_folding_the_whole(steps: list[tuple], data: st.DataObject) -> None:
    """The state may be kept and carried on from any record."""
    records = _published()
    for what, alias, target, result in steps:
        kind = MoveKind.PROMOTION if what == "promote" else MoveKind.ROLLBACK
        _move(records, kind, alias, target, data.draw(st.sampled_from([result, None])))
    whole = fold(records)
    for cut in range(len(records) + 1):
        assert fold(records[cut:], fold(records[:cut])) == whole
    for alias in ALIASES:
        if found := whole.alias("m", alias):
            assert found.placement == found.trail[-1]


def test_a_rollback_between_two_servings_of_one_release_is_one_step() -> None:
    """The same release served in two formats is two steps of the trail; going back takes one, then the trail ends."""
    records = _published()
    first, second = placement("1.0.0", 1, Format.ONNX), placement("1.0.0", 1, Format.OPENVINO)
    _move(records, MoveKind.PROMOTION, "production", first, Result.DONE)
    _move(records, MoveKind.PROMOTION, "production", second, Result.DONE)
    _move(records, MoveKind.ROLLBACK, "production", fold(records).previous("m", "production"), Result.DONE)
    state = fold(records)
    assert state.aliases["m", "production"].trail == (first,)
    with pytest.raises(UsageError, match="nothing came before"):
        state.previous("m", "production")


def test_a_rollback_to_a_named_release_cuts_the_trail_there() -> None:
    """Going back by name forgets what came after; a name that is not on the trail is added."""
    records = _published()
    for n, release in enumerate(RELEASES, 1):
        _move(records, MoveKind.PROMOTION, "production", placement(release, n), Result.DONE)
    _move(records, MoveKind.ROLLBACK, "production", placement("1.0.0", 1), Result.DONE)
    assert [p.release for p in fold(records).aliases["m", "production"].trail] == ["1.0.0"]
    _move(records, MoveKind.ROLLBACK, "production", placement("2.0.0", 3), Result.DONE)
    assert [p.release for p in fold(records).aliases["m", "production"].trail] == ["1.0.0", "2.0.0"]


def test_records_of_another_move_change_nothing() -> None:
    """An outcome or a switch that names a move which is not open is no part of any; only its time is read."""
    records = _published()
    _move(records, MoveKind.PROMOTION, "production", placement("1.0.0"), None)
    open_state = fold(records)
    stray = [
        _record(9, RecordKind.SWITCHING, {"move": "other", "config_digest": ""}),
        _record(10, RecordKind.OUTCOME, {"move": "other", "result": "done"}),
    ]
    assert fold(stray, open_state) == replace(open_state, latest="t9")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (RecordKind.PUBLISHED, {}),
        (RecordKind.GATE, {"model": "m", "release": "1.0.0", "gate": "g", "verdict": "great"}),
        (RecordKind.INTENT, {"move": "1"}),
        (RecordKind.INTENT, {"incumbent": 5}),
        (RecordKind.CERTIFIED, {"move": "1"}),
        (RecordKind.SWITCHING, {}),
        (RecordKind.OUTCOME, {"result": "done"}),
    ],
)
def test_a_record_that_lacks_what_its_kind_needs_is_an_integrity_error(kind: RecordKind, body: dict) -> None:
    """The last line of a journal can be rewritten without breaking the chain; what makes no sense is refused."""
    records = _published()
    _move(records, MoveKind.PROMOTION, "production", placement("1.0.0"), None)
    with pytest.raises(IntegrityError, match="journal line 8"):
        fold([*records, _record(7, kind, body)])


def test_an_unknown_release_names_those_that_exist() -> None:
    """Whoever mistypes reads what there is."""
    state = fold(_published())
    with pytest.raises(UsageError) as refusal:
        state.release("m", "9.9.9")
    assert all(r in refusal.value.remedy for r in RELEASES)
    with pytest.raises(UsageError) as refusal:
        state.release("n", "1.0.0")
    assert "Published models: m." in refusal.value.remedy
    with pytest.raises(UsageError) as refusal:
        State().release("n", "1.0.0")
    assert "none" in refusal.value.remedy


@pytest.mark.parametrize(
    ("model", "alias", "problem"),
    [
        ("m", "staging", "alias staging of m names no release"),
        ("n", "production", "model 'n' is not published here"),
        ("m", "candidate", "reserved"),
        ("../m", "production", "is not allowed"),
    ],
)
def test_whoever_needs_what_an_alias_names_gets_it_or_reads_why_not(model: str, alias: str, problem: str) -> None:
    """An unknown model is told as such, not as an alias that names nothing."""
    records = _published()
    _move(records, MoveKind.PROMOTION, "production", placement("1.0.0"), Result.DONE)
    state = fold(records)
    assert state.named("m", "production").placement.release == "1.0.0"
    with pytest.raises(UsageError, match=problem):
        state.named(model, alias)
