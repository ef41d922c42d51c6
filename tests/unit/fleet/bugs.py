"""Bugs to put into the fleet's code, one at a time: each is what somebody could write, and forget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from policyctl.adapters import fleet_store
from policyctl.adapters.bucket import Bucket
from policyctl.adapters.fleet_store import FleetJournal
from policyctl.domain import fleet as domain
from policyctl.domain.fleet import NodeReport
from policyctl.domain.fleet_moves import Entry, Waited
from policyctl.domain.journal import RecordKind
from policyctl.errors import PolicyctlError
from policyctl.services.fleet import moves, node, waiting
from policyctl.services.fleet.moves import Fleet
from policyctl.services.fleet.node import Node
from policyctl.services.fleet.waiting import Watch

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
    patch.setattr(Fleet, "_append", lambda self, entry: self.journal.append(entry.kind, entry.body))


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


def _without_problems(waited: Waited) -> Waited:
    return replace(waited, problems={}, reached=waited.reached | waited.problems.keys())


def skips_the_take_back(patch: pytest.MonkeyPatch) -> None:
    """A node that cannot serve what was committed counts as one that serves it."""
    until_reached = Watch.until_reached
    patch.setattr(Watch, "until_reached", lambda *given: _without_problems(until_reached(*given)))


def commits_over_a_problem(patch: pytest.MonkeyPatch) -> None:
    """A node that says before the commit that it cannot serve the release is not heard."""
    until_prepared = Watch.until_prepared
    patch.setattr(Watch, "until_prepared", lambda *given, **more: _without_problems(until_prepared(*given, **more)))


def commits_behind_the_move_of_another(patch: pytest.MonkeyPatch) -> None:
    """Who finds that another record came first writes the commit behind it, whatever that record is."""
    holds = Entry.holds
    patch.setattr(Entry, "holds", lambda self, state: self.kind is RecordKind.SWITCHING or holds(self, state))


def begins_over_an_open_move(patch: pytest.MonkeyPatch) -> None:
    """A promotion begins while another one is being prepared."""
    patch.setattr(Fleet, "_require_free", _nobody)
    holds = Entry.holds
    patch.setattr(Entry, "holds", lambda self, state: self.kind is RecordKind.INTENT or holds(self, state))


def takes_silence_for_success(patch: pytest.MonkeyPatch) -> None:
    """A node that reports nothing counts as one that is there."""
    assess = waiting.assess

    def hopeful(*given: Any, **more: Any) -> Waited:
        found = assess(*given, **more)
        return replace(found, cut_off=(), reached=found.reached | set(found.cut_off))

    patch.setattr(waiting, "assess", hopeful)


def takes_its_time_for_silence(patch: pytest.MonkeyPatch) -> None:
    """A node that has not come so far at the first look counts as one that is cut off."""
    assess = waiting.assess

    def impatient(nodes: Any, *given: Any, **_: Any) -> Waited:
        return assess(nodes, *given, silent={each.node for each in nodes})

    patch.setattr(waiting, "assess", impatient)


def reads_one_record_too_late(patch: pytest.MonkeyPatch) -> None:
    """A node acts on all records but the newest one."""
    read = FleetJournal.read

    def late(self: FleetJournal) -> domain.FleetState:
        state = read(self)
        return state if self.copy is None else domain.fold(self.records[:-1])

    patch.setattr(FleetJournal, "read", late)


def leaves_its_move_open(patch: pytest.MonkeyPatch) -> None:
    """A promotion that fails before its commit is not ended in the journal."""
    patch.setattr(Fleet, "_give_up", _nobody)


def hides_the_failed_take_back(patch: pytest.MonkeyPatch) -> None:
    """A commit that nobody could take back is reported as the refusal of the take-back, which changed nothing."""

    def take_back(self: Fleet, back: domain.FleetMove, _waited: Waited) -> Any:
        done = self._commit(back, self.clock())
        raise moves.MoveError(f"{back.reason} {done.words}")

    patch.setattr(Fleet, "_take_back", take_back)


def keeps_what_it_should_withdraw(patch: pytest.MonkeyPatch) -> None:
    """A node that is cut off serves on, whatever its settings say."""
    patch.setattr(Node, "keep_lease", _nobody)


def counts_the_lease_from_its_last_failure(patch: pytest.MonkeyPatch) -> None:
    """Each look that fails begins the lease again."""
    cannot_read = Node._cannot_read

    def again(self: Node, error: PolicyctlError) -> None:
        cannot_read(self, error)
        self._read_at = self.clock()

    patch.setattr(Node, "_cannot_read", again)


def finishes_what_it_cannot_know(patch: pytest.MonkeyPatch) -> None:
    """A node that withdraws and starts without the store finishes the move that a crash left open."""
    forget = Node._forget
    patch.setattr(Node, "_forget", lambda self, is_wrong, reason, **_: forget(self, is_wrong, reason))


def forgets_what_it_has_read(patch: pytest.MonkeyPatch) -> None:
    """A node keeps no copy of the journal, so a start without the store knows nothing."""
    patch.setattr(FleetJournal, "__post_init__", _nobody)


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
    "takes nothing back": _patched(moves, "to_take_back", _nobody),
    "hides the failed take-back": hides_the_failed_take_back,
    "trail without end": rolls_back_too_far,
    "does not wait": _patched(NodeReport, "has_reached", lambda self, _key, _generation: True),
    "commits behind the move of another": commits_behind_the_move_of_another,
    "commits over a problem": commits_over_a_problem,
    "takes silence for success": takes_silence_for_success,
    "takes its time for silence": takes_its_time_for_silence,
    "reads one record too late": reads_one_record_too_late,
    "begins over an open move": begins_over_an_open_move,
    "leaves its move open": leaves_its_move_open,
    "keeps what it should withdraw": keeps_what_it_should_withdraw,
    "counts the lease from its last failure": counts_the_lease_from_its_last_failure,
    "finishes what it cannot know": finishes_what_it_cannot_know,
    "forgets what it has read": forgets_what_it_has_read,
}
