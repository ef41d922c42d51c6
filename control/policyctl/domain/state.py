"""What the journal says: releases, aliases, evidence, and any unfinished move.

The journal is the only memory; this fold is the only reader of its meaning.

Law: folding a prefix and then the rest is folding the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from policyctl.domain import bake, versions
from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.moves import Move, MoveKind, Phase, Placement, Result
from policyctl.domain.names import check_alias, check_model_name
from policyctl.domain.signature import SignatureRecord
from policyctl.domain.verdict import Verdict
from policyctl.errors import IntegrityError, UsageError


@dataclass(frozen=True, slots=True)
class PublishedRelease:
    """A release as it was published.

    Attributes:
        contract: What it takes and gives, as JSON; None in a record of before
            that was written down.
        collected: When `policyctl gc` removed its files; empty while they are there.
    """

    model: str
    release: str
    slot: int
    manifest_digest: str
    time: str
    actor: str
    contract: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    collected: str = ""


@dataclass(frozen=True, slots=True)
class AliasState:
    """What an alias names.

    Attributes:
        placement: The release that it names, and how that is served.
        since: When it was switched there.
        trail: The releases it came by, oldest first, the named one last. A
            rollback without a target goes to the last but one.
    """

    placement: Placement
    since: str
    trail: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A move that has an intent and no outcome."""

    move: Move
    phase: Phase
    since: str
    actor: str


@dataclass(frozen=True, slots=True)
class OpenBake:
    """A promotion whose bake is not over: the alias is still where it brought it.

    Attributes:
        move: The promotion; its `bake` says what was declared.
        since: When it was switched.
        verdict: What the bake said, where the rollback that follows from it is still owed.
        reason: Why, for that rollback.
    """

    move: Move
    since: str
    verdict: Verdict | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GateRecord:
    """The last verdict of one gate on one release."""

    gate: str
    verdict: Verdict
    manifest_digest: str
    evidence_digest: str
    time: str


@dataclass(frozen=True, slots=True)
class State:
    """Everything the journal says."""

    releases: dict[tuple[str, str], PublishedRelease] = field(default_factory=dict)
    aliases: dict[tuple[str, str], AliasState] = field(default_factory=dict)
    gates: dict[tuple[str, str, str], GateRecord] = field(default_factory=dict)
    certified: frozenset[tuple[str, str, str, str]] = frozenset()
    """(server, model, manifest digest, config) that a server has certified."""
    unfinished: Unfinished | None = None
    bakes: dict[tuple[str, str], OpenBake] = field(default_factory=dict)
    """By model and alias."""
    tuned: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """How a model is served where no setting says otherwise, by model; see `services.tuned`."""
    signatures: dict[tuple[str, str, str], SignatureRecord] = field(default_factory=dict)
    """By model, release and name."""
    latest: str = ""
    """The latest time that any record tells: a clock that was turned back signs nothing earlier than that."""

    def release(self, model: str, release: str) -> PublishedRelease:
        """The published release.

        Raises:
            UsageError: There is no such model or release, or its files were
                collected; names those that exist.
        """
        found = self.releases.get((model, release))
        if found is not None and not found.collected:
            return found
        if found is not None:
            raise UsageError(
                f"{model} {release} is not here any more: policyctl gc removed its files at {found.collected}",
                remedy="Bring it back from where it was exported to: policyctl import-release SRC",
            )
        have = [r.release for r in self.of_model(model) if not r.collected]
        if not have:
            models = sorted({m for m, _ in self.releases}) or ["none"]
            raise UsageError(
                f"model {model!r} is not published here",
                remedy=f"Published models: {', '.join(models)}. Publish with: policyctl publish",
            )
        aliases = sorted(a for m, a in self.aliases if m == model)
        raise UsageError(
            f"{model} has no release {release!r}",
            remedy=f"Published releases: {', '.join(have)}." + f" Aliases: {', '.join(aliases)}." * bool(aliases),
        )

    def select(self, model: str, text: str) -> PublishedRelease:
        """The published release that a person means.

        Args:
            model: Which model.
            text: A release (``1.2.3``), a range (``^1.2``, ``~1.2.0``: its
                highest), ``latest``, or an alias; see `domain.versions.select`.

        Raises:
            UsageError: There is no such model or release; names those that exist.
        """
        releases = [r.release for r in self.of_model(model) if not r.collected]
        named = {a: s.placement.release for (m, a), s in self.aliases.items() if m == model}
        return self.release(model, versions.select(text, releases, named) or text)

    def require(self, model: str) -> None:
        """Refuse a model that is not published.

        Raises:
            UsageError: It is not; names those that are.
        """
        if not self.of_model(model):
            self.release(model, "")

    def of_model(self, model: str) -> tuple[PublishedRelease, ...]:
        """Releases of `model`, by slot; those that were collected too, for a slot is never used again."""
        mine = (r for (m, _), r in self.releases.items() if m == model)
        return tuple(sorted(mine, key=lambda r: r.slot))

    def signatures_of(self, model: str, release: str) -> tuple[SignatureRecord, ...]:
        """Signatures of one release, by name."""
        mine = ((name, s) for (m, r, name), s in self.signatures.items() if (m, r) == (model, release))
        return tuple(signature for _, signature in sorted(mine, key=lambda pair: pair[0]))

    def slots(self, model: str) -> dict[str, str]:
        """Slot to release, for every release of `model`."""
        return {str(r.slot): r.release for r in self.of_model(model)}

    def alias(self, model: str, alias: str) -> AliasState | None:
        """What `alias` of `model` names, None if nothing."""
        return self.aliases.get((model, alias))

    def named(self, model: str, alias: str) -> AliasState:
        """What `alias` of `model` names, for whoever cannot do without.

        Raises:
            UsageError: No such model, a name that is not allowed, or the alias names nothing.
        """
        check_model_name(model)
        check_alias(alias)
        self.require(model)
        if found := self.alias(model, alias):
            return found
        raise UsageError(
            f"alias {alias} of {model} names no release", remedy=f"Promote one: policyctl promote {model} RELEASE"
        )

    def under_way(self, model: str) -> Unfinished:
        """The move of `model` that has no outcome yet.

        Raises:
            UsageError: There is none.
        """
        if self.unfinished is not None and self.unfinished.move.model == model:
            return self.unfinished
        raise UsageError(f"no move of {model} is under way", remedy=f"See: policyctl status {model}")

    def previous(self, model: str, alias: str) -> Placement:
        """Where a rollback without a target goes.

        Raises:
            UsageError: The alias names nothing, or nothing came before.
        """
        current = self.alias(model, alias)
        if current is None:
            raise UsageError(
                f"alias {alias} of {model} names no release, so there is nothing to roll back",
                remedy=f"See what is there: policyctl status {model}",
            )
        if len(current.trail) < 2:
            raise UsageError(
                f"{model} {current.placement.release} is the first release that {alias} named: nothing came before it",
                remedy=f"Name a release: policyctl rollback {model} --to RELEASE",
            )
        return current.trail[-2]


def fold(records: Iterable[Record], state: State | None = None) -> State:
    """Read `records`, in order, on top of `state`.

    Raises:
        IntegrityError: A record lacks what its kind needs.
    """
    state = state or State()
    for record in records:
        try:
            state = _step(replace(state, latest=max(state.latest, record.time)), record)
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"journal line {record.seq + 1} is no {record.kind} record ({type(error).__name__}: {error})",
                remedy="Restore .policyctl/journal.jsonl from a copy; until then nothing will be moved.",
            ) from error
    return state


def _step(state: State, record: Record) -> State:
    body = record.body
    match record.kind:
        case RecordKind.PUBLISHED:
            contract = body.get("contract")
            if contract is not None and not isinstance(contract, dict):
                raise TypeError(f"contract is {type(contract).__name__}")
            release = PublishedRelease(
                model=body["model"],
                release=body["release"],
                slot=body["slot"],
                manifest_digest=body["manifest_digest"],
                time=record.time,
                actor=record.actor,
                contract=contract,
            )
            return replace(state, releases={**state.releases, (release.model, release.release): release})
        case RecordKind.GATE:
            gate_key = (body["model"], body["release"], body["gate"])
            gate = GateRecord(
                gate=body["gate"],
                verdict=Verdict(body["verdict"]),
                manifest_digest=body["manifest_digest"],
                evidence_digest=body["evidence_digest"],
                time=record.time,
            )
            return _baked(replace(state, gates={**state.gates, gate_key: gate}), record)
        case RecordKind.MEASURED:
            return state
        case RecordKind.INTENT:
            move = Move.from_json(body)
            return replace(state, unfinished=Unfinished(move, Phase.INTENT, record.time, record.actor))
        case RecordKind.CERTIFIED:
            seen = (body["server"], body["model"], body["manifest_digest"], body["config_digest"])
            state = replace(state, certified=state.certified | {seen})
            return _advance(state, body.get("move"), Phase.CERTIFIED)
        case RecordKind.SWITCHING:
            return _advance(state, body["move"], Phase.SWITCHING)
        case RecordKind.OUTCOME:
            return _close(state, record)
        case RecordKind.COLLECTED | RecordKind.RESTORED:
            key = (body["model"], body["release"])
            collected = record.time if record.kind is RecordKind.COLLECTED else ""
            return replace(state, releases={**state.releases, key: replace(state.releases[key], collected=collected)})
        case RecordKind.REPAIRED:
            return state
        case RecordKind.TUNED:
            others = {model: options for model, options in state.tuned.items() if model != body["model"]}
            chosen = body["options"]
            return replace(state, tuned=others if chosen is None else {**others, body["model"]: dict(chosen)})
        case RecordKind.SIGNED:
            signed = SignatureRecord.from_body(body, time=state.latest, actor=record.actor)
            named = (signed.model, signed.release, signed.name)
            return replace(state, signatures={**state.signatures, named: signed})


def _advance(state: State, move_id: str | None, phase: Phase) -> State:
    unfinished = state.unfinished
    if unfinished is None or unfinished.move.id != move_id:
        return state
    return replace(state, unfinished=replace(unfinished, phase=phase))


def _close(state: State, record: Record) -> State:
    unfinished = state.unfinished
    if unfinished is None or unfinished.move.id != record.body["move"]:
        return state
    state = replace(state, unfinished=None)
    if Result(record.body["result"]) is not Result.DONE:
        return state
    move, key = unfinished.move, (unfinished.move.model, unfinished.move.alias)
    # Whatever moved the alias, a bake that was under way is over.
    bakes = {k: v for k, v in state.bakes.items() if k != key}
    if move.bake is not None:
        bakes[key] = OpenBake(move, record.time)
    state = replace(state, bakes=bakes)
    if move.kind is MoveKind.REMOVAL:
        return replace(state, aliases={k: v for k, v in state.aliases.items() if k != key})
    before = state.alias(move.model, move.alias)
    trail = _trail(() if before is None else before.trail, move)
    after = AliasState(placement=move.target, since=record.time, trail=trail)
    return replace(state, aliases={**state.aliases, (move.model, move.alias): after})


def _baked(state: State, record: Record) -> State:
    """A bake that keeps the release is over; one that does not is, once the alias has moved."""
    if record.body["gate"] != bake.NAME or "move" not in record.body:
        return state
    for key, found in state.bakes.items():
        if found.move.id != record.body["move"]:
            continue
        if bake.Then(record.body["then"]) is bake.Then.KEEP:
            return replace(state, bakes={k: v for k, v in state.bakes.items() if k != key})
        said = replace(found, verdict=Verdict(record.body["verdict"]), reason=record.body["reason"])
        return replace(state, bakes={**state.bakes, key: said})
    return state


def _trail(trail: tuple[Placement, ...], move: Move) -> tuple[Placement, ...]:
    if move.kind is MoveKind.ROLLBACK:
        # The last of the trail is what the rollback leaves; it may be the same release, served otherwise.
        for index in range(len(trail) - 2, -1, -1):
            if trail[index].release == move.target.release:
                return (*trail[:index], move.target)
    return (*trail, move.target)
