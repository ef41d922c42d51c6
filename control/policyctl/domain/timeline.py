"""What the journal says of an instant in the past: which release each alias named, and who moved it there.

The journal says what an alias named, and which server had certified it. It does
not say that a server ran at every second. Between the records ``switching``
and ``outcome`` of a move either release may have answered, so both are said.

Time is the records' own. Where the machine's clock went back, the order of the
lines counts: a record is taken as no earlier than the one before it, and the
answer says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from policyctl.domain.fold import fold
from policyctl.domain.journal import GENESIS, Record, RecordKind
from policyctl.domain.json_values import OMIT, fields_to_json
from policyctl.domain.moves import Move, MoveKind, Placement
from policyctl.domain.state import AliasState, State
from policyctl.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class MoveSeen:
    """One move, as far as the whole journal says.

    Attributes:
        move: The move.
        actor: Who asked for it.
        started: Time of its intent.
        switching: From when on the target may have answered; None if it never came so far.
        ended: Time of its outcome; None while it is open.
        result: Its outcome; None while it is open.
    """

    move: Move
    actor: str
    started: str
    switching: str | None = None
    ended: str | None = None
    result: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        incumbent = self.move.incumbent
        return {
            "move": self.move.id,
            "kind": self.move.kind.value,
            "from": None if incumbent is None else incumbent.release,
            "to": None if self.move.kind is MoveKind.REMOVAL else self.move.target.release,
            "by": self.actor,
            "reason": self.move.reason,
            "started": self.started,
            "switching": self.switching,
            "ended": self.ended,
            "result": self.result,
        }


@dataclass(frozen=True, slots=True)
class GateSeen:
    """The last verdict of a gate before the alias was switched."""

    gate: str
    verdict: str
    time: str
    evidence: str
    evidence_digest: str


@dataclass(frozen=True, slots=True)
class LastCertified:
    """The last certification of a release until an instant."""

    server: str
    time: str


@dataclass(frozen=True, slots=True)
class AliasThen:
    """One alias at that instant.

    Attributes:
        model: Of which model.
        alias: Which alias.
        named: What it named; None where a first promotion was being switched.
        since: When its move ended.
        by: The move that brought it there; None where `named` is None.
        gates: What let it: the gates' last verdicts on exactly these bytes before the switch.
        certified: Server and time of the last certification until then.
        moving: A move of this alias that was under way.
        switching: That move was between ``switching`` and ``outcome``: its target may have answered too.
    """

    model: str
    alias: str
    named: Placement | None = field(metadata=OMIT)
    since: str | None
    by: MoveSeen | None
    gates: tuple[GateSeen, ...] = ()
    certified: LastCertified | None = None
    moving: MoveSeen | None = None
    switching: bool = False

    @property
    def possible(self) -> tuple[Placement, ...]:
        """What may have answered: one release, or two in the middle of a switch.

        In the middle of a removal it is the one that is removed, or nothing.
        """
        target = (self.moving.move.target,) if self.switching and self.moving is not None else ()
        return tuple(dict.fromkeys((*(() if self.named is None else (self.named,)), *target)))

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        possible = [fields_to_json(placement) for placement in self.possible]
        for placement in possible:
            del placement["config"]  # long, and pinned by the digest of the move
        return {**fields_to_json(self), "possible": possible}


@dataclass(frozen=True, slots=True)
class Moment:
    """What the journal says of one instant.

    Attributes:
        when: The instant, UTC.
        records: How many records lie before it.
        head: Digest of the last of them.
        aliases: Those that named something, or were about to.
        cautions: What to know before relying on it.
    """

    when: datetime
    records: int
    head: str
    aliases: tuple[AliasThen, ...]
    cautions: tuple[str, ...] = ()


def moment(
    records: Sequence[Record], when: datetime, *, now: datetime, model: str | None = None, whole: State | None = None
) -> Moment:
    """What each alias named at `when`.

    Args:
        records: The whole journal; what comes after `when` says how a move of then ended.
        when: An aware time.
        now: The present, to say where `when` has not come yet.
        model: Only this one's aliases.
        whole: What all the records say, where that is known already.

    Raises:
        IntegrityError: A record's time or body cannot be read.
    """
    times, cautions = _times(records, when)
    count = sum(time <= when for time in times)
    until = records[:count]
    state = whole if whole is not None and count == len(records) else fold(until)
    seen = _moves(records)
    aliases: dict[tuple[str, str], AliasState | None] = {
        key: named for key, named in state.aliases.items() if model in {None, key[0]}
    }
    for owner, unfinished in state.unfinished.items():
        if model in {None, owner}:
            aliases.setdefault((owner, unfinished.move.alias), None)
    found = []
    for key, named in sorted(aliases.items()):
        open_move = state.moving(*key)
        moving = None if open_move is None else seen[open_move.move.id]
        switching = open_move is not None and open_move.phase.is_switched
        found.append(_then(key, named, until, seen, moving=moving, switching=switching))
    if when > now:
        cautions = (*cautions, f"{when.isoformat()} is still to come: this is how things stand now")
    head = until[-1].digest if until else GENESIS
    return Moment(when.astimezone(UTC), count, head, tuple(found), cautions)


def _times(records: Sequence[Record], when: datetime) -> tuple[list[datetime], tuple[str, ...]]:
    """The records' times, never falling; and what to say where the clock went back across `when`."""
    times: list[datetime] = []
    cautions = []
    for record in records:
        try:
            own = datetime.fromisoformat(record.time)
            time = max(own, times[-1]) if times else own
        except (ValueError, TypeError) as error:
            raise IntegrityError(f"journal line {record.seq + 1}: {record.time!r} is not a time ({error})") from error
        if own < time and own <= when <= time:
            cautions.append(
                f"the clock had gone back at record {record.seq} (to {record.time}):"
                " the order of the records was taken, not their times"
            )
        times.append(time)
    return times, tuple(cautions[:1])


def _moves(records: Iterable[Record]) -> dict[str, MoveSeen]:
    found: dict[str, MoveSeen] = {}
    for record in records:
        body = record.body
        if record.kind is RecordKind.INTENT:
            found[body["move"]] = MoveSeen(Move.from_json(body), record.actor, record.time)
        elif record.kind is RecordKind.SWITCHING and body["move"] in found:
            found[body["move"]] = replace(found[body["move"]], switching=record.time)
        elif record.kind is RecordKind.OUTCOME and body["move"] in found:
            found[body["move"]] = replace(found[body["move"]], ended=record.time, result=body["result"])
    return found


def _then(
    key: tuple[str, str],
    named: AliasState | None,
    until: Sequence[Record],
    seen: Mapping[str, MoveSeen],
    *,
    moving: MoveSeen | None,
    switching: bool,
) -> AliasThen:
    model, alias = key
    if named is None:
        return AliasThen(model, alias, None, None, None, moving=moving, switching=switching)
    outcome = next(
        r.seq
        for r in reversed(until)
        if r.kind is RecordKind.OUTCOME
        and r.body["result"] == "done"
        and (seen[r.body["move"]].move.model, seen[r.body["move"]].move.alias) == key
    )
    by = seen[until[outcome].body["move"]]
    digest = named.placement.manifest_digest
    return AliasThen(
        model,
        alias,
        named.placement,
        named.since,
        by,
        gates=_gates(until[:outcome], model, digest),
        certified=_certified(until, model, digest),
        moving=moving,
        switching=switching,
    )


def _gates(records: Iterable[Record], model: str, digest: str) -> tuple[GateSeen, ...]:
    found = {}
    for record in records:
        body = record.body
        if record.kind is RecordKind.GATE and (body["model"], body["manifest_digest"]) == (model, digest):
            found[body["gate"]] = GateSeen(
                body["gate"], body["verdict"], record.time, str(body.get("evidence", "")), body["evidence_digest"]
            )
    return tuple(found[name] for name in sorted(found))


def _certified(records: Sequence[Record], model: str, digest: str) -> LastCertified | None:
    for record in reversed(records):
        body = record.body
        if record.kind is RecordKind.CERTIFIED and (body["model"], body["manifest_digest"]) == (model, digest):
            return LastCertified(str(body["server"]), record.time)
    return None
