"""Read what the records of a journal say together.

The journal is the only memory; this fold is the only reader of its meaning.

Law: folding a prefix and then the rest is folding the whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from policyctl.domain import bake
from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.moves import Move, MoveKind, Phase, Placement, Result
from policyctl.domain.signature import SignatureRecord
from policyctl.domain.state import AliasState, GateRecord, OpenBake, PublishedRelease, State, Unfinished
from policyctl.domain.verdict import Verdict
from policyctl.errors import IntegrityError, UsageError


def fold(records: Iterable[Record], state: State | None = None) -> State:
    """Read `records`, in order, on top of `state`.

    Raises:
        IntegrityError: A record lacks what its kind needs.
    """
    folding = _Folding(state or State())
    for record in records:
        try:
            folding.add(record)
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise IntegrityError(
                f"journal line {record.seq + 1} is not a {record.kind} record ({type(error).__name__}: {error})",
                remedy="Restore .policyctl/journal.jsonl from a copy; until then nothing will be moved.",
            ) from error
    return folding.state()


class _Folding:
    """A state while records are read: its copies of the mappings may change, so each record costs the same."""

    def __init__(self, state: State) -> None:
        self.releases, self.aliases, self.gates = dict(state.releases), dict(state.aliases), dict(state.gates)
        self.certified, self.unfinished = set(state.certified), dict(state.unfinished)
        self.bakes, self.tuned, self.signatures = dict(state.bakes), dict(state.tuned), dict(state.signatures)
        self.latest = state.latest

    def state(self) -> State:
        """The state that was reached."""
        return State(
            releases=self.releases,
            aliases=self.aliases,
            gates=self.gates,
            certified=frozenset(self.certified),
            unfinished=self.unfinished,
            bakes=self.bakes,
            tuned=self.tuned,
            signatures=self.signatures,
            latest=self.latest,
        )

    def add(self, record: Record) -> None:
        """Read one record."""
        self.latest = max(self.latest, record.time)
        body = record.body
        match record.kind:
            case RecordKind.PUBLISHED:
                release = _published(record)
                self.releases[release.model, release.release] = release
            case RecordKind.COLLECTED | RecordKind.RESTORED:
                key = (body["model"], body["release"])
                collected = record.time if record.kind is RecordKind.COLLECTED else ""
                self.releases[key] = replace(self.releases[key], collected=collected)
            case RecordKind.GATE:
                self._judge(record)
            case RecordKind.INTENT:
                move = Move.from_json(body)
                self.unfinished[move.model] = Unfinished(move, Phase.INTENT, record.time, record.actor)
            case RecordKind.CERTIFIED:
                self.certified.add((body["server"], body["model"], body["manifest_digest"], body["config_digest"]))
                self._advance(body.get("move"), Phase.CERTIFIED)
            case RecordKind.SWITCHING | RecordKind.REVERTING:
                self._advance(body["move"], Phase(record.kind.value))
            case RecordKind.OUTCOME:
                self._close(record)
            case RecordKind.TUNED if body["options"] is None:
                self.tuned.pop(body["model"], None)
            case RecordKind.TUNED:
                self.tuned[body["model"]] = dict(body["options"])
            case RecordKind.SIGNED:
                signed = SignatureRecord.from_body(body, time=self.latest, actor=record.actor)
                self.signatures[signed.model, signed.release, signed.name] = signed
            case RecordKind.MEASURED | RecordKind.REPAIRED:
                pass

    def _judge(self, record: Record) -> None:
        """Keep a verdict. A bake that keeps the release is over; another one is once the alias has moved."""
        body = record.body
        self.gates[body["model"], body["release"], body["gate"]] = GateRecord(
            gate=body["gate"],
            verdict=Verdict(body["verdict"]),
            manifest_digest=body["manifest_digest"],
            evidence_digest=body["evidence_digest"],
            time=record.time,
        )
        if body["gate"] != bake.NAME or "move" not in body:
            return
        for key, baking in tuple(self.bakes.items()):
            if baking.move.id != body["move"]:
                continue
            if bake.Then(body["then"]) is bake.Then.KEEP:
                del self.bakes[key]
            else:
                self.bakes[key] = replace(baking, verdict=Verdict(body["verdict"]), reason=body["reason"])

    def _open(self, move_id: str | None) -> Unfinished | None:
        return next((each for each in self.unfinished.values() if each.move.id == move_id), None)

    def _advance(self, move_id: str | None, phase: Phase) -> None:
        if (unfinished := self._open(move_id)) is not None:
            self.unfinished[unfinished.move.model] = replace(unfinished, phase=phase)

    def _close(self, record: Record) -> None:
        unfinished = self._open(record.body["move"])
        if unfinished is None:
            return
        move, key = unfinished.move, (unfinished.move.model, unfinished.move.alias)
        del self.unfinished[move.model]
        if Result(record.body["result"]) is not Result.DONE:
            return
        self.bakes.pop(key, None)  # whatever moved the alias, a bake that was under way is over
        if move.bake is not None:
            self.bakes[key] = OpenBake(move, record.time)
        before = self.aliases.pop(key, None)
        if move.kind is not MoveKind.REMOVAL:
            trail = _trail(() if before is None else before.trail, move)
            self.aliases[key] = AliasState(move.target, record.time, trail, move.drain_s)


def _published(record: Record) -> PublishedRelease:
    body = record.body
    if not isinstance(body["contract"], dict):
        raise TypeError(f"contract is {type(body['contract']).__name__}")
    return PublishedRelease(
        model=body["model"],
        release=body["release"],
        slot=body["slot"],
        manifest_digest=body["manifest_digest"],
        time=record.time,
        actor=record.actor,
        contract=body["contract"],
    )


def _trail(trail: tuple[Placement, ...], move: Move) -> tuple[Placement, ...]:
    if move.kind is MoveKind.ROLLBACK:
        # The last of the trail is what the rollback leaves; it may be the same release, served otherwise.
        for index in range(len(trail) - 2, -1, -1):
            if trail[index].release == move.target.release:
                return (*trail[:index], move.target)
    return (*trail, move.target)
