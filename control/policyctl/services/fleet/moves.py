"""Move an alias on every node of a fleet: prepare everywhere, commit once, see it through.

A promotion is two records of the store's journal. After the *intent* each node
loads and certifies the release next to what it serves, and says so in its
report. When all have, the *commit* is written, and from then on the alias names
the release. The command waits until every node serves it, and takes everything
back where one cannot. A command that dies before its commit has changed
nothing; after it, the nodes need nobody.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

from policyctl.adapters.bucket import Bucket
from policyctl.adapters.bucket_releases import BucketReleases
from policyctl.adapters.fleet_store import FleetJournal, read_reports
from policyctl.adapters.journal import actor
from policyctl.domain import versions
from policyctl.domain.artifacts import CONTRACT_FILE
from policyctl.domain.compatibility import Difference, compare
from policyctl.domain.contract import Contract
from policyctl.domain.fleet import FleetMove, FleetState, FleetStatus, NodeReport, StoredRelease, number
from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.moves import MoveKind, Result
from policyctl.domain.names import check_model_name, check_movable_alias
from policyctl.domain.oci import read_artifact
from policyctl.domain.operations import Done
from policyctl.errors import BusyError, IntegrityError, MoveError, PolicyctlError, ServerError, UsageError
from policyctl.services.control import Say
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
LOOK_S: Final = 0.1
"""How often the reports of the nodes are read while a command waits for them."""
SWITCH_S: Final = 60.0
"""For all nodes to serve what was committed. They go on after it; the command says who has not come so far."""


@dataclass(slots=True)
class Fleet:
    """The nodes of one store, and the aliases that they serve.

    Attributes:
        settings: Everything that can be set.
        say: Where words for people go.
        clock: Monotonic, in seconds.
        sleep: Waits so many seconds.
    """

    settings: Settings
    say: Say
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    bucket: Bucket = field(init=False)
    journal: FleetJournal = field(init=False)

    def __post_init__(self) -> None:
        self.bucket = Bucket(self.settings.fleet.store)
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
        return FleetStatus.of(self.bucket.url, state, read_reports(self.bucket), model=model)

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
        releases = BucketReleases(self.bucket)
        numbers = releases.releases(model)
        named = {alias: each.target.release for (m, alias), each in state.aliases.items() if m == model and each.target}
        chosen = versions.select(text, numbers, named)
        if chosen is None:
            have = ", ".join(sorted(numbers, key=versions.parse)) or "none"
            raise UsageError(
                f"{self.bucket.url} holds no release {text!r} of {model}",
                remedy=f"It holds: {have}. Put one there: policyctl release export {model} RELEASE {self.bucket.url}",
            )
        if chosen != text:
            self.say(f"{text} of {model} is {chosen}.")
        artifact = read_artifact(releases.manifest(f"{model}:{chosen}"))
        if (artifact.model, artifact.release) != (model, chosen):
            raise IntegrityError(
                f"{self.bucket.url}: {model}:{chosen} is {artifact.model} {artifact.release}",
                remedy=f"Put the release there again: policyctl release export {model} {chosen} {self.bucket.url}",
            )
        return StoredRelease(chosen, artifact.digest, artifact.config.digest)

    def _differences(
        self, model: str, incumbent: StoredRelease | None, target: StoredRelease, wanted: PromotionRequest
    ) -> tuple[Difference, ...]:
        if incumbent is None:
            return ()
        found = compare(self._contract(incumbent), self._contract(target))
        require_unbroken(
            found,
            before=incumbent.release,
            model=model,
            alias=wanted.alias,
            release=target.release,
            breaking=wanted.breaking,
        )
        return found

    def _contract(self, release: StoredRelease) -> Contract:
        releases = BucketReleases(self.bucket)
        artifact = read_artifact(releases.manifest(release.artifact))
        try:
            entry = next(each for each in artifact.files if each.path == CONTRACT_FILE)
            return Contract.from_json(json.loads(releases.read(entry)))
        except (StopIteration, ValueError, UsageError) as error:
            raise IntegrityError(
                f"{releases}: {artifact.model} {artifact.release} has no contract ({error})"
            ) from error

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
        began = self.clock()
        self._append(RecordKind.INTENT, move.to_json(), lambda state: _is_free(state, move))
        self.say(f"The nodes load and certify {move.model} {target.release} ...")
        try:
            prepared = self._wait(
                move,
                lambda node: move.id in node.prepared,
                within_s=self.settings.fleet.prepare_s,
                is_off=lambda state: not _is_open(state, move),
            )
            self._require_prepared(move, prepared)
            prepared_s = self.clock() - began
            generation = self._append(RecordKind.SWITCHING, {"move": move.id}, lambda state: _is_open(state, move)).seq
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
        body = {"move": move.id, "result": Result.ABORTED.value}
        try:
            self._append(RecordKind.OUTCOME, body, lambda state: _is_open(state, move))
        except PolicyctlError as error:
            if _is_open(self.journal.state, move):
                self.say(f"The {move.words} may be open still: {error.problem}. End it: policyctl abort {move.model}")
        named = self.journal.state.aliases.get(move.key)
        return named.generation if named is not None and named.move.id == move.id else None

    def _require_prepared(self, move: FleetMove, waited: Waited) -> None:
        said = f"Nothing was changed: {move.alias} of {move.model} names {number(move.incumbent)}"
        if waited.problems:
            node, problem = min(waited.problems.items())
            raise MoveError(f"node {node} cannot serve the release: {problem} {said}")
        if waited.late:
            late = ", ".join(waited.late)
            raise MoveError(
                f"{late} did not certify the release within {self.settings.fleet.prepare_s:g} s. {said}",
                remedy="Allow more: POLICYCTL_FLEET__PREPARE_S. Or look at the log of these nodes.",
            )
        if not waited.reached and not waited.cut_off:
            raise MoveError(f"every node was stopped. {said}", remedy="Start one: policyctl --store ... serve")
        if len(waited.cut_off) > self.settings.fleet.max_unavailable or not waited.reached:
            raise MoveError(
                f"{', '.join(waited.cut_off)} reported nothing for {self.settings.fleet.lease_s:g} s. {said}",
                remedy="Start them again, remove the reports of nodes that are gone for good (nodes/NAME in the"
                " store), or allow some to be away: POLICYCTL_FLEET__MAX_UNAVAILABLE=1",
            )

    def _commit(self, move: FleetMove, began: float) -> Done:
        """Move without preparation; whatever else is open of the model is over by that."""
        named = move.incumbent
        self._append(RecordKind.INTENT, move.to_json(), lambda state: state.named(*move.key) == named)
        committed = self._append(RecordKind.SWITCHING, {"move": move.id}, lambda state: _is_open(state, move))
        return self._see_through(move, committed.seq, began)

    def _see_through(self, move: FleetMove, generation: int, began: float, *, prepared_s: float | None = None) -> Done:
        """Wait until every node serves what was committed; take it back where one cannot."""
        at = self.clock()
        # What a node's clock says decides nothing here but how long the command waits for a node that may be gone.
        old = (datetime.now(UTC) - timedelta(seconds=2 * self.settings.fleet.lease_s)).isoformat()
        waited = self._wait(
            move,
            lambda node: node.has_reached(move.key, generation),
            within_s=SWITCH_S,
            is_gone=lambda node: move.kind is not MoveKind.PROMOTION and node.time < old,
            generation=generation,
        )
        switched_s = self.clock() - at
        if waited.problems and move.kind is MoveKind.PROMOTION:
            self._take_back(move, waited.problems)
        body = {"move": move.id, "result": Result.DONE.value}
        try:
            self._append(RecordKind.OUTCOME, body, lambda _state: True)
        except PolicyctlError as error:
            self.say(f"The outcome of the {move.words} is not in the store's journal: {error.problem}.")
        not_yet = sorted({*waited.cut_off, *waited.late, *waited.problems})
        result = {
            **_result(move),
            "generation": generation,
            "nodes": sorted(waited.reached),
            "not_yet": not_yet,
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
        if not_yet:
            words += f" Not yet: {', '.join(not_yet)}. They come to it once they can read the store."
        refusal = None
        if waited.problems:
            node, problem = min(waited.problems.items())
            refusal = MoveError(f"node {node} does not serve what was committed: {problem}", remedy="It tries again.")
        return Done(result, words, refusal)

    def _take_back(self, move: FleetMove, problems: Mapping[str, str]) -> NoReturn:
        node, problem = min(problems.items())
        kind = MoveKind.REMOVAL if move.incumbent is None else MoveKind.ROLLBACK
        reason = f"node {node} could not serve {number(move.target)}: {problem}"
        back = FleetMove(fresh_move_id(), kind, move.model, move.alias, move.target, move.incumbent, reason)
        self.say(f"Taking it back: {reason}")
        done = self._commit(back, self.clock())
        raise MoveError(f"{reason} {done.words}", remedy=f"See the log of {node}.")

    def _abort(self, state: FleetState, model: str, *, dry_run: bool) -> Done:
        opened = state.open.get(model)
        if opened is None:
            raise UsageError(f"no move of {model} is being prepared", remedy="See: policyctl status")
        said = f"the {opened.move.words} by {opened.actor}"
        if dry_run:
            return Done({"model": model, "result": f"Would abort {said}."}, f"Would abort {said}.")
        body = {"move": opened.move.id, "result": Result.ABORTED.value}
        self._append(RecordKind.OUTCOME, body, lambda state: _is_open(state, opened.move))
        return Done({"model": model, "result": f"Aborted: {said}."}, f"Aborted: {said}.")

    def _append(self, kind: RecordKind, body: Mapping[str, Any], still: Callable[[FleetState], bool]) -> Record:
        """Write a record; again where somebody else's came first and `still` says that ours is right behind it.

        The store may have carried out what it gave no answer to. So what is there is read before a second try, and
        a record that was written, or is written late, is known by its body, which names one move.

        Raises:
            BusyError: What somebody else wrote changes what ours would mean; ours was not written.
            PolicyctlError: The store does not answer; whether the record is there is unknown.
        """
        before, unanswered = len(self.journal.records), 0
        for tries_left in reversed(range(_TRIES)):
            try:
                return self.journal.append(kind, body)
            except (BusyError, ServerError) as error:
                unanswered += isinstance(error, ServerError)
                state = self.journal.read()
                for record in self.journal.records[before:]:
                    if (record.kind, record.body) == (kind, body):
                        return record
                if not tries_left or unanswered > _UNANSWERED or not still(state):
                    raise
        raise AssertionError("the last try returned or raised")

    def _wait(
        self,
        move: FleetMove,
        is_there: Callable[[NodeReport], bool],
        *,
        within_s: float,
        is_off: Callable[[FleetState], bool] = lambda _state: False,
        is_gone: Callable[[NodeReport], bool] = lambda _node: False,
        generation: int | None = None,
    ) -> Waited:
        """Wait until every node that reports is where it should be, or says that it cannot be.

        Whether a node lives is seen by its reports changing while we look: no clock of any node is believed.

        Raises:
            MoveError: `is_off` says that somebody ended the move.
            ServerError: The store does not answer; after a commit (`generation`) that is waited for as well.
        """
        deadline, changes = self.clock() + within_s, dict[str, tuple[tuple[str, int], float]]()
        while True:
            if is_off(self.journal.read()):
                raise MoveError(f"somebody ended the {move.words}", remedy="See who: policyctl history")
            now = self.clock()
            try:
                nodes = [node for node in read_reports(self.bucket) if not node.stopped]
            except ServerError as error:
                if generation is None:
                    raise
                if now < deadline:
                    self.sleep(LOOK_S)
                    continue
                raise ServerError(
                    f"the {move.words} is committed as generation {generation}, and the store does not say which nodes"
                    f" serve it: {error.problem}",
                    remedy="See: policyctl status. To take it back: policyctl rollback.",
                ) from error
            for node in nodes:
                if changes.get(node.node, (None,))[0] != (node.run, node.beat):
                    changes[node.node] = ((node.run, node.beat), now)
            reached = {node.node for node in nodes if is_there(node)}
            problems = {n.node: n.problems[move.id] for n in nodes if move.id in n.problems and n.node not in reached}
            waiting = {node.node for node in nodes} - reached - problems.keys()
            mine = self.settings.fleet.lease_s
            silent = {node.node for node in nodes if now - changes[node.node][1] >= max(mine, node.lease_s)}
            cut_off = waiting & (silent | {node.node for node in nodes if is_gone(node)})
            late = waiting - cut_off
            if problems or not late or now >= deadline:
                return Waited(frozenset(reached), tuple(sorted(cut_off)), tuple(sorted(late)), problems)
            self.sleep(LOOK_S)


@dataclass(frozen=True, slots=True)
class Waited:
    """Where the nodes were when a wait ended.

    Attributes:
        reached: They are where they should be.
        cut_off: Their reports did not change for the length of a lease.
        late: They live, and did not come so far in time.
        problems: What they could not do, by node.
    """

    reached: frozenset[str]
    cut_off: tuple[str, ...]
    late: tuple[str, ...]
    problems: Mapping[str, str]


def _is_open(state: FleetState, move: FleetMove) -> bool:
    found = state.open.get(move.model)
    return found is not None and found.move.id == move.id


def _is_free(state: FleetState, move: FleetMove) -> bool:
    return move.model not in state.open and state.named(*move.key) == move.incumbent


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
