"""Plans of moves, carried out on a world that is three dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from domain_strategies import placement
from hypothesis import given
from hypothesis import strategies as st

from policyctl.domain.journal import RecordKind
from policyctl.domain.moves import (
    Certify,
    Configure,
    Effect,
    Load,
    Move,
    MoveKind,
    Phase,
    Place,
    Placement,
    Prune,
    Result,
    Withdraw,
    Write,
    finish,
    plan,
    revert,
)

OLD, NEW = placement("1.0.0", 1), placement("1.1.0", 2)
MOVES = [
    (Move("id", kind, "m", alias, incumbent, NEW), certified)
    for kind in MoveKind
    if kind is not MoveKind.REMOVAL
    for alias in ("production", "staging")
    for incumbent in (None, OLD)
    for certified in (False, True)
] + [
    (Move("id", MoveKind.REMOVAL, "m", alias, OLD, OLD), certified)
    for alias in ("production", "staging")
    for certified in (False, True)
]


def _wanted(move: Move) -> Placement | None:
    """What serves when the move is done."""
    return None if move.kind is MoveKind.REMOVAL else NEW


@dataclass
class Toy:
    """What the effects change: folders, configurations, what the server has loaded, and the journal."""

    slots: dict[str, set[int]]
    configs: dict[str, Placement]
    loaded: dict[str, int]
    certified: set[Placement]
    phase: Phase | None = None
    result: Result | None = None
    seen: list[Effect] = field(default_factory=list)

    @classmethod
    def before(cls, move: Move, *, certified: bool) -> Toy:
        toy = cls({"m": {1, 2}}, {}, {}, {NEW} if certified else set())
        if move.incumbent is not None:
            toy.slots.setdefault(move.served, set()).add(OLD.slot)
            toy.configs[move.served], toy.loaded[move.served] = OLD, OLD.slot
            toy.certified.add(OLD)
        return toy

    def apply(self, effect: Effect) -> None:
        """One effect, as the real one behaves; asserts what the real one would refuse."""
        match effect:
            case Write(RecordKind.OUTCOME, result):
                self.phase, self.result = None, result
            case Write(kind, None):
                self.phase = Phase(kind.value)
            case Place(served, slot):
                assert "." in served, "production's slots are where they were published"
                self.slots.setdefault(served, set()).add(slot)
            case Configure(served, placed):
                if not served.endswith(".candidate"):
                    assert placed in self.certified, "an alias is configured for what no server has certified"
                self.configs[served] = placed
            case Load(served, slot):
                assert self.configs[served].slot == slot
                assert slot in self.slots[served], "loaded before its files were there"
                self.loaded[served] = slot
            case Certify(served, placed):
                assert self.loaded[served] == placed.slot
                self.certified.add(placed)
            case Withdraw(served):
                self.loaded.pop(served, None)
                self.configs.pop(served, None)
                if "." in served:
                    self.slots.pop(served, None)
            case Prune(served, slot):
                assert self.loaded.get(served, slot) == slot, "what is served is pruned"
                self.slots[served] &= {slot}
        self.seen.append(effect)

    def check(self, move: Move) -> None:
        """The invariant: the alias is answered by the incumbent or by the target, and a restart keeps that so."""
        wanted = _wanted(move)
        allowed = {None if wanted is None else wanted.slot, None if move.incumbent is None else OLD.slot}
        assert self.loaded.get(move.served) in allowed
        if not (self.phase or Phase.INTENT).is_switched and self.result is not Result.DONE:
            assert self.loaded.get(move.served) == (move.incumbent.slot if move.incumbent else None)
        config = self.configs.get(move.served)
        assert config is None or config in self.certified
        assert config is None or config.slot in self.slots[move.served], "a server started now would find no files"


def _run(toy: Toy, move: Move, effects: tuple[Effect, ...]) -> None:
    for effect in effects:
        toy.apply(effect)
        toy.check(move)


def _settled(toy: Toy, move: Move, kept: Placement | None) -> None:
    assert toy.phase is None
    assert toy.loaded == ({} if kept is None else {move.served: kept.slot})
    assert toy.configs == ({} if kept is None else {move.served: kept})
    if move.alias != "production":
        assert toy.slots == {"m": {1, 2}, **({} if kept is None else {move.served: {kept.slot}})}


@pytest.mark.parametrize(("move", "certified"), MOVES)
def test_a_whole_plan_leaves_the_target_and_nothing_else(move: Move, certified: bool) -> None:
    """At its end the alias serves the target, the candidate and the old links are gone."""
    toy = Toy.before(move, certified=certified)
    _run(toy, move, plan(move, certified_here=certified))
    _settled(toy, move, _wanted(move))
    assert toy.result is Result.DONE


@pytest.mark.parametrize(("move", "certified"), MOVES)
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("repeated", [False, True])
def test_every_prefix_of_a_plan_can_be_settled(move: Move, certified: bool, restarted: bool, repeated: bool) -> None:
    """Cut anywhere (also within an effect, also with the server started anew) it is finished or reverted."""
    effects = plan(move, certified_here=certified)
    for cut in range(1, len(effects)):
        toy = Toy.before(move, certified=certified)
        _run(toy, move, effects[:cut])
        if repeated and not isinstance(effects[cut], Write):
            _run(toy, move, effects[cut : cut + 1])  # done, but the process died before it could say so
        if restarted:
            toy.loaded = {served: placed.slot for served, placed in toy.configs.items()}
        phase = toy.phase
        assert phase is not None
        if phase is Phase.SWITCHING:
            _run(toy, move, finish(move))
            _settled(toy, move, _wanted(move))
        else:
            for effect in revert(move, phase):
                toy.apply(effect)
            _settled(toy, move, move.incumbent)


@pytest.mark.parametrize(("move", "certified"), MOVES)
def test_every_prefix_of_a_plan_can_be_taken_back(move: Move, certified: bool) -> None:
    """A move that fails at any effect leaves what it found, whatever result is written."""
    effects = plan(move, certified_here=certified)
    for cut in range(1, len(effects)):
        for result in (Result.REVERTED, Result.ABORTED):
            toy = Toy.before(move, certified=certified)
            _run(toy, move, effects[:cut])
            back = revert(move, toy.phase or Phase.INTENT, result=result)
            for effect in back:
                toy.apply(effect)
            _settled(toy, move, move.incumbent)
            assert toy.result is result


@pytest.mark.parametrize(("move", "certified"), MOVES)
def test_a_target_that_was_taken_back_is_never_put_there_again(move: Move, certified: bool) -> None:
    """Once a move is being taken back, whoever finds it takes it back, however often that is cut short."""
    effects = plan(move, certified_here=certified)
    switched = effects.index(Write(RecordKind.SWITCHING)) + 1
    for cut in range(switched, len(effects)):
        begun = revert(move, Phase.SWITCHING)
        for again in range(1, len(begun)):
            toy = Toy.before(move, certified=certified)
            _run(toy, move, (*effects[:cut], *begun[:again]))
            assert toy.phase is Phase.REVERTING
            left = revert(move, toy.phase)
            assert Write(RecordKind.REVERTING) not in left
            assert Configure(move.served, move.target) not in left or move.target == move.incumbent
            _run(toy, move, left)
            _settled(toy, move, move.incumbent)


@given(st.sampled_from(MOVES), st.data())
def test_a_recovery_that_is_itself_cut_short_can_be_begun_again(case: tuple[Move, bool], data: st.DataObject) -> None:
    """Any number of crashes while finishing or reverting ends where one undisturbed recovery ends."""
    move, certified = case
    effects = plan(move, certified_here=certified)
    toy = Toy.before(move, certified=certified)
    _run(toy, move, effects[: data.draw(st.integers(1, len(effects) - 1))])
    phase = toy.phase
    assert phase is not None
    again = finish(move) if phase is Phase.SWITCHING else revert(move, phase)
    for _ in range(data.draw(st.integers(0, 3))):
        for effect in again[: data.draw(st.integers(0, len(again) - 1))]:
            toy.apply(effect)
    for effect in again:
        toy.apply(effect)
    _settled(toy, move, _wanted(move) if phase is Phase.SWITCHING else move.incumbent)


@pytest.mark.parametrize(("move", "certified"), MOVES)
def test_the_journal_is_written_ahead(move: Move, certified: bool) -> None:
    """Intent, `switching`, the candidate goes, the alias is configured; the outcome is last."""
    effects = plan(move, certified_here=certified)
    assert effects[0] == Write(RecordKind.INTENT)
    assert effects[-1] == Write(RecordKind.OUTCOME, Result.DONE)
    first, second = effects[effects.index(Write(RecordKind.SWITCHING)) + 1 :][:2]
    if move.kind is MoveKind.REMOVAL:
        assert first == Withdraw(move.served)
        return
    assert (first, second) == (Withdraw(move.candidate), Configure(move.served, NEW))
    assert (Certify(move.candidate, NEW) in effects) is not certified


@pytest.mark.parametrize(("move", "_"), MOVES)
def test_a_move_survives_its_record(move: Move, _: bool) -> None:
    """What the journal keeps of a move is the whole move."""
    import json

    assert Move.from_json(json.loads(json.dumps(move.to_json()))) == move
