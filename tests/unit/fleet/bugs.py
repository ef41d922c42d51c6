"""Bugs to put into the fleet's code, one at a time: each is what somebody could write, and forget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import pytest

from policyctl.adapters import fleet_store
from policyctl.adapters.bucket import Bucket
from policyctl.domain import fleet as domain
from policyctl.domain.fleet import NodeReport
from policyctl.domain.journal import RecordKind
from policyctl.services.fleet import moves, node
from policyctl.services.fleet.moves import Fleet, Waited
from policyctl.services.fleet.node import Node

Put = Callable[[pytest.MonkeyPatch], None]


def _nobody(*_: Any, **__: Any) -> None:
    """Nothing is done."""


def _patched(where: object, name: str, value: Any) -> Put:
    return lambda patch: patch.setattr(where, name, value)


def writes_over(patch: pytest.MonkeyPatch) -> None:
    """A record is written whatever lies there."""

    def create(self: Bucket, key: str, content: bytes) -> bool:
        self.put(key, content)
        return True

    patch.setattr(Bucket, "create", create)


def takes_any_record_for_its_own(patch: pytest.MonkeyPatch) -> None:
    """A key that is taken counts as written."""
    create = Bucket.create

    def careless(self: Bucket, key: str, content: bytes) -> bool:
        create(self, key, content)
        return True

    patch.setattr(Bucket, "create", careless)


def follows_the_intent(patch: pytest.MonkeyPatch) -> None:
    """A node serves what is only being prepared."""
    follow = Node.follow

    def eager(self: Node) -> None:
        follow(self)
        for opened in self._state.open.values():
            if opened.move.target is not None:
                named = domain.Named(0, opened.move, opened.since, opened.actor)
                self._follow(opened.move.key, named)

    patch.setattr(Node, "follow", eager)


def reports_before_it_certified(patch: pytest.MonkeyPatch) -> None:
    """A node says that it is prepared, whatever its golden set says."""

    def prepare(self: Node, move: domain.FleetMove, *_: Any) -> None:
        self._prepared = (*self._prepared, move.id)

    patch.setattr(Node, "_prepare", prepare)
    gives_up_at_once(patch)


def gives_up_at_once(patch: pytest.MonkeyPatch) -> None:
    """A node tries a move once."""
    tried = set[tuple[int, str]]()
    attempt = Node._try

    def once(self: Node, work_id: str, work: Any, **more: Any) -> None:
        if (id(self), work_id) not in tried:
            tried.add((id(self), work_id))
            attempt(self, work_id, work, **more)

    patch.setattr(Node, "_try", once)


def claims_every_generation(patch: pytest.MonkeyPatch) -> None:
    """A node's report names the generation that it has read, whatever it serves."""

    def serving(self: Node, key: tuple[str, str]) -> domain.Serving:
        named = self._state.aliases[key]
        return domain.Serving(*key, None if named.target is None else named.target.release, named.generation)

    patch.setattr(Node, "_serving", serving)


def stops_at_the_first_error(patch: pytest.MonkeyPatch) -> None:
    """A node that could not read the store once never looks again."""
    follow, blind = Node.follow, set[int]()

    def once(self: Node) -> None:
        if id(self) not in blind:
            follow(self)
            if self._said:
                blind.add(id(self))

    patch.setattr(Node, "follow", once)


def rolls_back_too_far(patch: pytest.MonkeyPatch) -> None:
    """A rollback lengthens the trail, so the next one goes forward again."""

    def trail(before: domain.Named | None, move: domain.FleetMove) -> tuple[domain.StoredRelease, ...]:
        return (*(before.trail if before else ()), *filter(None, [move.target]))

    patch.setattr(domain, "_trail", trail)


def loses_the_open_move(patch: pytest.MonkeyPatch) -> None:
    """A journal that was read in parts has forgotten what is open."""
    fold = domain.fold
    patch.setattr(fleet_store, "fold", lambda records, state: replace(fold(records, state), open={}))


def aborts_what_was_committed(patch: pytest.MonkeyPatch) -> None:
    """A lost answer to the commit is taken for a commit that was not written, and says so."""
    give_up = Fleet._give_up

    def careless(self: Fleet, move: domain.FleetMove) -> None:
        give_up(self, move)
        raise moves.MoveError("the store did not answer. Nothing was changed")

    patch.setattr(Fleet, "_give_up", careless)

    def append(self: Fleet, kind: RecordKind, body: Mapping[str, Any], _still: Any) -> Any:
        return self.journal.append(kind, body)

    patch.setattr(Fleet, "_append", append)


def forgets_a_removal(patch: pytest.MonkeyPatch) -> None:
    """A node ignores that an alias was taken out of service."""
    is_at = Node._is_at
    patch.setattr(Node, "_is_at", lambda self, key: self._state.aliases[key].target is None or is_at(self, key))


def compares_numbers_of_slots(patch: pytest.MonkeyPatch) -> None:
    """A node takes an alias for right that names anything at all."""
    patch.setattr(
        Node,
        "_is_at",
        lambda self, key: (
            (self.control.repository.journal.state().alias(*key) is None) == (self._state.aliases[key].target is None)
        ),
    )


def skips_the_take_back(patch: pytest.MonkeyPatch) -> None:
    """A node that cannot serve what was committed changes nothing for the others, and the command says done."""
    see_through, wait = Fleet._see_through, Fleet._wait

    def blind(self: Fleet, *arguments: Any, **more: Any) -> Waited:
        found = wait(self, *arguments, **more)
        return replace(found, problems={}, reached=found.reached | found.problems.keys())

    def see(self: Fleet, *arguments: Any, **more: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Fleet, "_wait", blind)
            return see_through(self, *arguments, **more)

    patch.setattr(Fleet, "_see_through", see)


def keeps_failures_for_ever(patch: pytest.MonkeyPatch) -> None:
    """A node that failed once waits for years before the next try."""
    patch.setattr(node, "RETRY_S", (1e9,))


BUGS: Final[dict[str, Put]] = {
    "writes over": writes_over,
    "takes any record for its own": takes_any_record_for_its_own,
    "follows the intent": follows_the_intent,
    "reports before it certified": reports_before_it_certified,
    "gives up at once": gives_up_at_once,
    "keeps failures for ever": keeps_failures_for_ever,
    "claims every generation": claims_every_generation,
    "stops at the first error": stops_at_the_first_error,
    "does not forget at a start": _patched(Node, "_forget", _nobody),
    "never takes out of service": forgets_a_removal,
    "takes any release for right": compares_numbers_of_slots,
    "loses the open move": loses_the_open_move,
    "aborts what was committed": aborts_what_was_committed,
    "skips the take-back": skips_the_take_back,
    "trail without end": rolls_back_too_far,
    "does not wait": _patched(NodeReport, "has_reached", lambda self, _key, _generation: True),
}
