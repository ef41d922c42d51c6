"""Decide what a command writes into a store's journal, and what it makes of what the nodes report.

`services.fleet.moves` acts: it reads, writes and waits. Every decision on the
way is a function here, without clock and store. So a test tries the decisions
in every order that commands, nodes and faults allow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from policyctl.domain.fleet import FleetMove, FleetState, NodeReport, number
from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.moves import MoveKind, Result
from policyctl.errors import MoveError

MOST_REASON: Final = 2000
"""Characters, as of the reason that a person gives."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record that a command is about to write.

    Attributes:
        kind: An intent, a commit (``switching``) or an outcome.
        move: Whose.
        result: Of an outcome.
    """

    kind: RecordKind
    move: FleetMove
    result: Result | None = None

    @property
    def body(self) -> dict[str, Any]:
        """What the record says; it names one move, so nobody else writes the same."""
        if self.kind is RecordKind.INTENT:
            return self.move.to_json()
        named = {"move": self.move.id}
        return named if self.result is None else {**named, "result": self.result.value}

    def holds(self, state: FleetState) -> bool:
        """Whether it means what was decided, also behind everything that `state` says.

        A promotion begins where nothing is open; any other move ends what is open. A commit counts, and an abort has
        something to end, only while the move is open. That a move is done stays true.
        """
        if self.kind is RecordKind.INTENT:
            is_free = self.move.kind is not MoveKind.PROMOTION or self.move.model not in state.open
            return is_free and state.named(*self.move.key) == self.move.incumbent
        return self.result is Result.DONE or state.is_open(self.move)

    def among(self, records: Iterable[Record]) -> Record | None:
        """The record, where it was written already; a store may have carried out what it gave no answer to."""
        return next((each for each in records if (each.kind, each.body) == (self.kind, self.body)), None)


@dataclass(frozen=True, slots=True)
class Waited:
    """Where the nodes are while a command waits for them.

    Attributes:
        reached: They are where they should be.
        cut_off: They are not, and report nothing.
        late: They live, and have not come so far.
        problems: What they could not do, by node.
    """

    reached: frozenset[str]
    cut_off: tuple[str, ...]
    late: tuple[str, ...]
    problems: Mapping[str, str]

    @property
    def is_over(self) -> bool:
        """Whether to wait on changes nothing: a node cannot do it, or none is on its way."""
        return bool(self.problems) or not self.late

    @property
    def not_yet(self) -> tuple[str, ...]:
        """All that are not where they should be."""
        return tuple(sorted({*self.cut_off, *self.late, *self.problems}))


def assess(
    nodes: Sequence[NodeReport],
    move: FleetMove,
    is_there: Callable[[NodeReport], bool],
    *,
    silent: Collection[str],
) -> Waited:
    """Where the nodes are, by what they report.

    Args:
        nodes: Their reports; a node that was stopped on purpose is nobody's concern.
        move: What is waited for.
        is_there: Whether a node is where it should be.
        silent: Names of nodes whose reports do not change; no matter where they are there already.
    """
    live = [node for node in nodes if not node.stopped]
    reached = frozenset(node.node for node in live if is_there(node))
    problems = {n.node: n.problems[move.id] for n in live if move.id in n.problems and n.node not in reached}
    waiting = {node.node for node in live} - reached - problems.keys()
    cut_off = waiting & set(silent)
    return Waited(reached, tuple(sorted(cut_off)), tuple(sorted(waiting - cut_off)), problems)


def not_prepared(
    move: FleetMove, waited: Waited, *, prepare_s: float, lease_s: float, max_unavailable: int
) -> MoveError | None:
    """Why a promotion may not be committed; None where it may."""
    unchanged = f"Nothing was changed: {move.alias} of {move.model} names {number(move.incumbent)}"
    if waited.problems:
        node, problem = min(waited.problems.items())
        return MoveError(f"node {node} cannot serve the release: {problem} {unchanged}")
    if waited.late:
        return MoveError(
            f"{', '.join(waited.late)} did not certify the release within {prepare_s:g} s. {unchanged}",
            remedy="Allow more: POLICYCTL_FLEET__PREPARE_S. Or look at the log of these nodes.",
        )
    if not waited.reached and not waited.cut_off:
        return MoveError(f"every node was stopped. {unchanged}", remedy="Start one: policyctl --store ... serve")
    if len(waited.cut_off) > max_unavailable or not waited.reached:
        return MoveError(
            f"{', '.join(waited.cut_off)} reported nothing for {lease_s:g} s. {unchanged}",
            remedy="Start them again, remove the reports of nodes that are gone for good (nodes/NAME in the"
            " store), or allow some to be away: POLICYCTL_FLEET__MAX_UNAVAILABLE=1",
        )
    return None


def to_take_back(move: FleetMove, waited: Waited, *, move_id: str) -> FleetMove | None:
    """The move that brings the incumbent back, where a node cannot serve what a promotion committed; else None."""
    if not waited.problems or move.kind is not MoveKind.PROMOTION:
        return None
    node, problem = min(waited.problems.items())
    kind = MoveKind.REMOVAL if move.incumbent is None else MoveKind.ROLLBACK
    # What a node writes is not trusted to be short, and a record must be.
    reason = f"node {node} could not serve {number(move.target)}: {problem}"[:MOST_REASON]
    return FleetMove(move_id, kind, move.model, move.alias, move.target, move.incumbent, reason)
