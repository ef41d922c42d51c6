"""What the journal says in numbers: moves by outcome and duration, verdicts, certifications.

The journal is append-only, so counters that are computed from it are right
across restarts, and on every machine that reads the same journal.

A series that is not there before its first event hides that event from a rate,
so every alias has its counters from the start, at zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from policyctl.domain.fold import fold
from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.metrics import MOVE_BUCKETS_S, Histogram, Sample
from policyctl.domain.moves import Move, MoveKind, Result
from policyctl.domain.names import PRODUCTION, is_pin, served_name
from policyctl.domain.state import State
from policyctl.domain.verdict import Verdict
from policyctl.errors import IntegrityError

_MOVABLE: Final = (MoveKind.PROMOTION, MoveKind.ROLLBACK, MoveKind.REMOVAL)
_PINNED: Final = (MoveKind.PIN, MoveKind.REMOVAL)

Certified = Mapping[tuple[str, str, str], float]
"""When a model's release (by manifest digest) was last certified with a configuration (by its identity's digest)."""


@dataclass(frozen=True, slots=True)
class JournalNumbers:
    """What one reading of the whole journal gave.

    Attributes:
        state: What the records say together.
        records: How many there are.
        samples: By family.
        certified: Times of the last certifications.
    """

    state: State = field(default_factory=State)
    records: int = 0
    samples: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)
    certified: Certified = field(default_factory=dict)


@dataclass(slots=True)
class _Seen:
    """Counts on the way through the records."""

    aliases: set[tuple[str, str]] = field(default_factory=set)
    began: dict[str, tuple[Move, float]] = field(default_factory=dict)
    ended: Counter[tuple[str, str, MoveKind, Result]] = field(default_factory=Counter)
    durations: dict[MoveKind, Histogram] = field(
        default_factory=lambda: {kind: Histogram.empty(MOVE_BUCKETS_S) for kind in MoveKind}
    )
    gates: set[tuple[str, str]] = field(default_factory=set)
    judged: Counter[tuple[str, str, Verdict]] = field(default_factory=Counter)
    certified: dict[tuple[str, str, str], float] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        body = record.body
        match record.kind:
            case RecordKind.PUBLISHED:
                self.aliases.add((body["model"], PRODUCTION))
            case RecordKind.INTENT:
                move = Move.from_json(body)
                self.aliases.add((move.model, move.alias))
                self.began[move.id] = (move, seconds(record.time))
            case RecordKind.OUTCOME if body["move"] in self.began:
                move, since = self.began.pop(body["move"])
                self.ended[move.model, move.alias, move.kind, Result(body["result"])] += 1
                # The clock may have been turned back meanwhile.
                taken = max(0.0, seconds(record.time) - since)
                self.durations[move.kind] = self.durations[move.kind].observe(taken)
            case RecordKind.GATE:
                self.gates.add((body["model"], body["gate"]))
                self.judged[body["model"], body["gate"], Verdict(body["verdict"])] += 1
            case RecordKind.CERTIFIED:
                key = (body["model"], body["manifest_digest"], body["config_digest"])
                self.certified[key] = seconds(record.time)
            case _:
                pass

    def moves(self) -> tuple[Sample, ...]:
        keys = {
            (model, alias, kind, outcome)
            for model, alias in self.aliases
            for kind in (_PINNED if is_pin(alias) else _MOVABLE)
            for outcome in Result
        }
        return tuple(
            Sample((model, alias, kind.value, outcome.value), float(self.ended[model, alias, kind, outcome]))
            for model, alias, kind, outcome in sorted(keys | self.ended.keys())
        )

    def verdicts(self) -> tuple[Sample, ...]:
        return tuple(
            Sample((model, gate, verdict.value), float(self.judged[model, gate, verdict]))
            for model, gate in sorted(self.gates)
            for verdict in Verdict
        )


@dataclass(slots=True)
class JournalCount:
    """Counts a journal that grows, and only what is new of it.

    Law: counting it in pieces is counting it at once.
    """

    _state: State = field(default_factory=State)
    _seen: _Seen = field(default_factory=_Seen)
    _last: Record | None = None

    def update(self, records: tuple[Record, ...]) -> JournalNumbers:
        """Count `records`, the whole journal, whose chain is whole.

        Raises:
            IntegrityError: A record lacks what its kind needs.
        """
        # Each record pins all before it, so the last that was counted stands for them.
        done = 0 if self._last is None else self._last.seq + 1
        if self._last is None or len(records) < done or records[done - 1] != self._last:
            self._state, self._seen, self._last, done = State(), _Seen(), None, 0
        try:
            self._state = fold(records[done:], self._state)
            for record in records[done:]:
                self._seen.add(record)
        except (KeyError, TypeError, ValueError) as error:
            self._last = None
            raise IntegrityError(f"the journal cannot be counted ({type(error).__name__}: {error})") from error
        except IntegrityError:
            self._last = None
            raise
        self._last = records[-1] if records else None
        return self._numbers(len(records))

    def _numbers(self, count: int) -> JournalNumbers:
        state, seen = self._state, self._seen
        samples = {
            "policyctl_alias_info": _infos(state),
            "policyctl_moves_total": seen.moves(),
            "policyctl_move_duration_seconds": tuple(Sample((k.value,), h) for k, h in seen.durations.items()),
            "policyctl_move_unfinished_timestamp_seconds": _unfinished(state),
            "policyctl_gate_verdicts_total": seen.verdicts(),
            "policyctl_journal_records": (Sample((), float(count)),),
        }
        return JournalNumbers(state, count, samples, dict(seen.certified))


def seconds(time: str) -> float:
    """A record's time as Unix seconds."""
    return datetime.fromisoformat(time).timestamp()


def _infos(state: State) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            (model, alias, served_name(model, alias), p.release, str(p.slot), p.format.value),
            1.0,
        )
        for (model, alias), p in sorted((key, named.placement) for key, named in state.aliases.items())
    )


def _unfinished(state: State) -> tuple[Sample, ...]:
    return tuple(
        Sample((each.move.model, each.move.alias, each.move.kind.value), seconds(each.since))
        for each in state.unfinished.values()
    )
