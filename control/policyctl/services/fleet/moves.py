"""Move an alias on every node of a fleet: prepare everywhere, commit once, see it through.

A promotion is two records of the store's journal. After the *intent* each node
loads and certifies the release next to what it serves, and says so in its
report. When all have, the *commit* is written, and from then on the alias names
the release. The command waits until every node serves it, and takes everything
back where one cannot. A command that dies before its commit has changed
nothing; after it, the nodes need nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from policyctl.adapters.bucket import Bucket
from policyctl.adapters.fleet_store import FleetJournal, read_reports
from policyctl.adapters.journal import actor
from policyctl.domain.compatibility import Difference
from policyctl.domain.fleet import FleetMove, FleetState, FleetStatus, NodeReport, StoredRelease, number
from policyctl.domain.fleet_moves import Entry, Waited, not_prepared, to_take_back
from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.moves import MoveKind, Result
from policyctl.domain.names import check_model_name, check_movable_alias
from policyctl.domain.operations import Done
from policyctl.errors import BusyError, MoveError, PolicyctlError, ServerError, UsageError
from policyctl.services.control import Say
from policyctl.services.fleet.chosen import changes, choose
from policyctl.services.fleet.waiting import Watch
from policyctl.services.moves.contract_change import require_unbroken
from policyctl.services.moves.contract_change import words as difference_words
from policyctl.services.moves.moved import fresh_move_id
from policyctl.services.rollout.request import (
    AbortRequest,
    AliasRequest,
    PinRequest,
    PromotionRequest,
    RemovalRequest,
    RollbackRequest,
    UnpinRequest,
)
from policyctl.settings import Settings

_TRIES: Final = 20
_UNANSWERED: Final = 3
"""Writes of one record to which the store gives no answer."""


@dataclass(slots=True)
class Fleet:
    """The nodes of one store, and the aliases that they serve.

    Attributes:
        settings: Everything that can be set.
        say: Where words for people go.
        clock: Monotonic, in seconds.
        sleep: Waits so many seconds.
        looks: Whether nothing is moved, so that no store is made where none is.
    """

    settings: Settings
    say: Say
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    looks: bool = False
    bucket: Bucket = field(init=False)
    journal: FleetJournal = field(init=False)

    def __post_init__(self) -> None:
        self.bucket = Bucket(self.settings.fleet.store, creates=not self.looks)
        self.journal = FleetJournal(self.bucket, actor())

    def carry_out(self, request: AliasRequest) -> Done:
        """Do what is wanted on every node, or say what would be done.

        Raises:
            UsageError: No such model, alias or release; or a fleet cannot do what is wanted.
            BusyError: Another move of the model is open.
            GateError: The release breaks the incumbent's contract; nothing was changed.
            MoveError: A node could not certify or serve the release; every node serves what it served before.
            ServerError: The store does not answer.
        """
        model, wanted = request.model, request.wanted
        check_model_name(model)
        state = self.journal.read()
        if isinstance(wanted, AbortRequest):
            return self._abort(state, model, dry_run=wanted.dry_run)
        if isinstance(wanted, PinRequest | UnpinRequest):
            raise UsageError(
                "a store names aliases, and no pins", remedy="Promote the release to an alias: --alias robot-7"
            )
        check_movable_alias(wanted.alias)
        incumbent = state.named(model, wanted.alias)
        target: StoredRelease | None = None
        differences: tuple[Difference, ...] = ()
        match wanted:
            case PromotionRequest():
                self._require_possible(wanted)
                kind, target = MoveKind.PROMOTION, self._release(state, model, wanted.release)
                differences = self._differences(model, incumbent, target, wanted)
            case RollbackRequest():
                if wanted.drain_s:
                    raise UsageError("a rollback of a fleet keeps no release reachable", remedy="Leave out --drain.")
                kind, target = MoveKind.ROLLBACK, state.earlier(model, wanted.alias, wanted.to)
            case RemovalRequest():
                if incumbent is None:
                    raise UsageError(f"alias {wanted.alias} of {model} names no release in {self.bucket.url}")
                kind = MoveKind.REMOVAL
        move = FleetMove(fresh_move_id(), kind, model, wanted.alias, incumbent, target, wanted.reason)
        if move.incumbent == move.target:
            words = f"{move.alias} of {model} names {number(target)} already. Nothing was changed."
            return Done(_result(move, changed=False), words)
        if kind is MoveKind.PROMOTION:
            self._require_free(state, model)
            if all(node.stopped for node in read_reports(self.bucket)):
                raise UsageError(
                    f"no node follows {self.bucket.url}",
                    remedy=f"Start one: policyctl --store {self.bucket.url} serve",
                )
        if wanted.dry_run:
            return self._would(move, read_reports(self.bucket), differences)
        if kind is MoveKind.PROMOTION and target is not None:
            return self._promote(move, target, differences)
        return self._commit(move, self.clock())

    def status(self, *, model: str | None) -> FleetStatus:
        """What every alias names, and what each node says that it serves.

        Raises:
            PolicyctlError: As `FleetJournal.read`.
        """
        state = self.journal.read()
        return FleetStatus.of(self.bucket.url, state, read_reports(self.bucket), model=model, now=datetime.now(UTC))

    def history(self, *, model: str | None, limit: int | None) -> tuple[dict[str, Any], ...]:
        """Every record of the store's journal, oldest first, or those of one model; the last `limit` of them.

        Raises:
            PolicyctlError: As `FleetJournal.read`.
        """
        self.journal.read()
        known: dict[str, dict[str, Any]] = {}
        found = []
        for record in self.journal.records:
            body = dict(record.body)
            if record.kind is RecordKind.INTENT:
                sides = {"from": body.pop("incumbent"), "to": body.pop("target")}
                body |= {name: None if side is None else side["release"] for name, side in sides.items()}
                known[body["move"]] = body
            else:
                body = {**known.get(body["move"], {}), **body}
            if model in {None, body.get("model")}:
                found.append(
                    {"seq": record.seq, "time": record.time, "actor": record.actor, "kind": record.kind.value, **body}
                )
        return tuple(found if limit is None else found[-limit:])

    # What is refused before anything begins.

    def _require_possible(self, wanted: PromotionRequest) -> None:
        gates = self.settings.gates.promote_with if wanted.gates is None else wanted.gates
        baking = self.settings.bake if wanted.bake is None else wanted.bake.over(self.settings.bake)
        refused = (
            (bool(gates), f"measure the gates {', '.join(gates)}", "--gates none"),
            (bool(baking.for_s), "watch a release after the switch", "--no-bake"),
            (wanted.format is not None, "choose an artifact for all nodes", "no --format"),
            (wanted.drain_s is not None, "set a drain for all nodes", "no --drain"),
        )
        for is_wanted, what, instead in refused:
            if is_wanted:
                raise UsageError(
                    f"a promotion over a fleet cannot {what}",
                    remedy=f"Promote with {instead}. Measure where the release was published: policyctl validate",
                )

    def _require_free(self, state: FleetState, model: str) -> None:
        if (opened := state.open.get(model)) is not None:
            raise BusyError(
                f"the {opened.move.words} by {opened.actor} is being prepared since {opened.since}",
                remedy=f"Wait for it. If its command has died, end it: policyctl abort {model}",
            )

    def _release(self, state: FleetState, model: str, text: str) -> StoredRelease:
        named = {alias: each.target.release for (m, alias), each in state.aliases.items() if m == model and each.target}
        return choose(self.bucket, model, text, named=named, say=self.say)

    def _differences(
        self, model: str, incumbent: StoredRelease | None, target: StoredRelease, wanted: PromotionRequest
    ) -> tuple[Difference, ...]:
        if incumbent is None:
            return ()
        differences = changes(self.bucket, incumbent, target)
        require_unbroken(
            differences,
            before=incumbent.release,
            model=model,
            alias=wanted.alias,
            release=target.release,
            breaking=wanted.breaking,
        )
        return differences

    def _would(self, move: FleetMove, nodes: Sequence[NodeReport], differences: Sequence[Difference]) -> Done:
        live = ", ".join(node.node for node in nodes if not node.stopped) or "no node"
        steps = [f"journal: intent of the {move.words}"]
        if move.kind is MoveKind.PROMOTION:
            steps.append(f"fetch, load and certify {move.model} {number(move.target)}: {live}")
        steps += ["journal: commit", f"switch: {live}", "journal: outcome"]
        lines = [f"Would carry out the {move.words}:", *(f"  {n}. {step}" for n, step in enumerate(steps, 1))]
        words = "\n".join([*lines, *filter(None, [difference_words(differences, number(move.incumbent))])])
        return Done({**_result(move), "dry_run": True, "steps": steps, "nodes": [n.node for n in nodes]}, words)

    # What is done.

    def _promote(self, move: FleetMove, target: StoredRelease, differences: Sequence[Difference]) -> Done:
        if differences:
            self.say(difference_words(differences, number(move.incumbent)))
        began, limits = self.clock(), self.settings.fleet
        self._append(Entry(RecordKind.INTENT, move))
        self.say(f"The nodes load and certify {move.model} {target.release} ...")
        try:
            waited = self._watch().until_prepared(move, within_s=limits.prepare_s)
            refusal = not_prepared(
                move,
                waited,
                prepare_s=limits.prepare_s,
                lease_s=limits.lease_s,
                max_unavailable=limits.max_unavailable,
            )
            if refusal is not None:
                raise refusal
            prepared_s = self.clock() - began
            generation = self._append(Entry(RecordKind.SWITCHING, move)).seq
        except PolicyctlError:
            if (committed := self._give_up(move)) is None:
                raise
            prepared_s, generation = self.clock() - began, committed
        except KeyboardInterrupt:
            self._give_up(move)
            raise
        return self._see_through(move, generation, began, prepared_s=prepared_s)

    def _give_up(self, move: FleetMove) -> int | None:
        """End a move before its commit; the generation, where the commit was written and its answer was lost."""
        try:
            self._append(Entry(RecordKind.OUTCOME, move, Result.ABORTED))
        except PolicyctlError as error:
            if self.journal.state.is_open(move):
                self.say(f"The {move.words} may be open still: {error.problem}. End it: policyctl abort {move.model}")
        return self.journal.state.generation_of(move)

    def _commit(self, move: FleetMove, began: float) -> Done:
        """Move without preparation; whatever else is open of the model is over by that."""
        self._append(Entry(RecordKind.INTENT, move))
        committed = self._append(Entry(RecordKind.SWITCHING, move))
        return self._see_through(move, committed.seq, began)

    def _see_through(self, move: FleetMove, generation: int, began: float, *, prepared_s: float | None = None) -> Done:
        """Wait until every node serves what was committed; take it back where one cannot."""
        at = self.clock()
        waited = self._watch().until_reached(move, generation)
        switched_s = self.clock() - at
        if (back := to_take_back(move, waited, move_id=fresh_move_id())) is not None:
            self._take_back(back, waited)
        try:
            self._append(Entry(RecordKind.OUTCOME, move, Result.DONE))
        except PolicyctlError as error:
            self.say(f"The outcome of the {move.words} is not in the store's journal: {error.problem}.")
        result = {
            **_result(move),
            "generation": generation,
            "nodes": sorted(waited.reached),
            "not_yet": list(waited.not_yet),
            "timings": {
                "prepare_ms": None if prepared_s is None else round(1e3 * prepared_s),
                "switch_ms": round(1e3 * switched_s),
                "total_ms": round(1e3 * (self.clock() - began)),
            },
        }
        words = (
            f"{move.alias} of {move.model}: {number(move.incumbent)} -> {number(move.target)} on"
            f" {len(waited.reached)} nodes, generation {generation}, {1e3 * switched_s:.0f} ms after the commit."
        )
        if waited.not_yet:
            words += f" Not yet: {', '.join(waited.not_yet)}. They come to it once they can read the store."
        refusal = None
        if waited.problems:
            node, problem = min(waited.problems.items())
            refusal = MoveError(f"node {node} does not serve what was committed: {problem}", remedy="It tries again.")
        return Done(result, words, refusal)

    def _take_back(self, back: FleetMove, waited: Waited) -> NoReturn:
        self.say(f"Taking it back: {back.reason}")
        try:
            done = self._commit(back, self.clock())
            words = done.words if done.refusal is None else f"{done.words} {done.refusal.problem}"
        except BusyError:
            now = number(self.journal.state.named(*back.key))
            words = f"Somebody else moved the alias before it was taken back: it names {now}."
        except ServerError as error:
            raise ServerError(
                f"{back.reason} It was committed, and nobody knows whether it was taken back: {error.problem}",
                remedy=f"See: policyctl status. To take it back: policyctl rollback {back.model}",
            ) from error
        raise MoveError(f"{back.reason} {words}", remedy=f"See the log of {min(waited.problems)}.")

    def _abort(self, state: FleetState, model: str, *, dry_run: bool) -> Done:
        opened = state.open.get(model)
        if opened is None:
            raise UsageError(f"no move of {model} is being prepared", remedy="See: policyctl status")
        said = f"the {opened.move.words} by {opened.actor}"
        if dry_run:
            return Done({"model": model, "result": f"Would abort {said}."}, f"Would abort {said}.")
        self._append(Entry(RecordKind.OUTCOME, opened.move, Result.ABORTED))
        return Done({"model": model, "result": f"Aborted: {said}."}, f"Aborted: {said}.")

    def _append(self, entry: Entry) -> Record:
        """Write a record; again where somebody else's came first and ours is right behind it.

        The store may have carried out what it gave no answer to. So what is there is read before a second try. What was
        read then may change what the next record means: so each is held against it before it is written.

        Raises:
            BusyError: What somebody else wrote changes what ours would mean; ours was not written.
            PolicyctlError: The store does not answer; whether the record is there is unknown.
        """
        before, unanswered = len(self.journal.records), 0
        for tries_left in reversed(range(_TRIES)):
            if not entry.holds(self.journal.state):
                raise BusyError(
                    f"somebody else began another move of {entry.move.model}; nothing was changed",
                    remedy="See what was done (policyctl history), then try again.",
                )
            try:
                return self.journal.append(entry.kind, entry.body)
            except (BusyError, ServerError) as error:
                unanswered += isinstance(error, ServerError)
                self.journal.read()
                if (written := entry.among(self.journal.records[before:])) is not None:
                    return written
                if not tries_left or unanswered > _UNANSWERED:
                    raise
        raise AssertionError("the last try returned or raised")

    def _watch(self) -> Watch:
        return Watch(self.journal, self.settings.fleet.lease_s, self.clock, self.sleep)


def _result(move: FleetMove, *, changed: bool = True) -> dict[str, Any]:
    return {
        "move": move.id,
        "kind": move.kind.value,
        "model": move.model,
        "alias": move.alias,
        "from": None if move.incumbent is None else move.incumbent.release,
        "to": None if move.target is None else move.target.release,
        "changed": changed,
        "dry_run": False,
    }
