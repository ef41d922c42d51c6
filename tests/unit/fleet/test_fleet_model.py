"""No state that commands and nodes can come to breaks a promise; and a decision that is made otherwise is seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from fleet_model import BrokenError, Model

from policyctl.domain import fleet, fleet_moves
from policyctl.domain.fleet_moves import Entry
from policyctl.domain.journal import RecordKind
from policyctl.domain.moves import MoveKind

PROMOTION, ROLLBACK, REMOVAL = MoveKind.PROMOTION, MoveKind.ROLLBACK, MoveKind.REMOVAL
Put = Callable[[pytest.MonkeyPatch], None]


SOME = {(1, REMOVAL, True), (3, ROLLBACK, False)}
WIDER = [
    (nodes, faults, other, withdraws)
    for (nodes, faults), other, withdraws in product(
        [(1, 2), (2, 1), (3, 1)], [PROMOTION, ROLLBACK, REMOVAL], [False, True]
    )
    if "MODELS" in os.environ or (nodes, other, withdraws) in SOME
]
"""MODELS=all in the environment asks for every one: some minutes."""


@pytest.mark.parametrize(
    ("other", "nodes", "withdraws", "states"),
    [(ROLLBACK, 2, False, 29_000), (REMOVAL, 1, True, 9_000), (PROMOTION, 1, False, 4_000)],
)
def test_no_state_of_two_commands_breaks_a_promise(
    other: MoveKind, nodes: int, states: int, *, withdraws: bool
) -> None:
    """A promotion and another command, with one fault anywhere."""
    assert Model((PROMOTION, other), nodes=nodes, faults=1, withdraws=withdraws).explore() > states


@pytest.mark.long
@pytest.mark.parametrize(("nodes", "faults", "other", "withdraws"), WIDER)
def test_no_state_of_more_nodes_or_faults_breaks_a_promise(
    nodes: int, faults: int, other: MoveKind, *, withdraws: bool
) -> None:
    """The same, wider."""
    assert Model((PROMOTION, other), nodes=nodes, faults=faults, withdraws=withdraws).explore() > 10_000


def _commit_always(patch: pytest.MonkeyPatch) -> None:
    holds = Entry.holds
    patch.setattr(Entry, "holds", lambda self, state: self.kind is RecordKind.SWITCHING or holds(self, state))


def _silence_is_success(patch: pytest.MonkeyPatch) -> None:
    assess = fleet_moves.assess

    def hopeful(*given: Any, **more: Any) -> Any:
        found = assess(*given, **more)
        return replace(found, cut_off=(), reached=found.reached | set(found.cut_off))

    patch.setattr(fleet_moves, "assess", hopeful)


def _open_for_ever(patch: pytest.MonkeyPatch) -> None:
    fold = fleet.fold

    def kept(records: Any, state: Any) -> Any:
        found = fold(records, state)
        return replace(found, open={**state.open, **found.open})

    patch.setattr(fleet, "fold", kept)


MUTATIONS: dict[str, Put] = {
    "a commit is written behind whatever came first": _commit_always,
    "silence is success": _silence_is_success,
    "what was committed stays open": _open_for_ever,
    "every promotion may be committed": lambda patch: patch.setattr(
        fleet_moves, "not_prepared", lambda *_given, **_more: None
    ),
    "nothing is taken back": lambda patch: patch.setattr(fleet_moves, "to_take_back", lambda *_given, **_more: None),
    "a record is never seen to be there": lambda patch: patch.setattr(Entry, "among", lambda *_given: None),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_decision_that_is_made_otherwise_is_seen(monkeypatch: pytest.MonkeyPatch, mutation: str) -> None:
    """Some state breaks a promise then."""
    MUTATIONS[mutation](monkeypatch)
    with pytest.raises(BrokenError):
        for faults in (1, 2):
            Model((PROMOTION, ROLLBACK), nodes=1, faults=faults).explore()
