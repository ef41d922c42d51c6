"""The journal in words: a row for each record, a row for each move, or a row for each alias at an instant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any, Final

from policyctl.domain.instants import next_second, utc_text
from policyctl.domain.moves import MoveKind
from policyctl.domain.verdict import Verdict

if TYPE_CHECKING:
    from policyctl.domain.timeline import AliasThen, Moment, MoveSeen

_WORDS: Final = {
    "published": "{release} as slot {slot}",
    "gate": "{release}: {gate} {verdict}",
    "measured": "{release}: {what}",
    "signed": "{release} by {name} ({method})",
    "collected": "{release}: its files were removed from slot {slot}",
    "restored": "{release}: its files are back in slot {slot}",
    "repaired": "{what}: {done}",
}
"""Kinds of records that one sentence describes; the others need a decision."""


def record_text(record: Mapping[str, Any]) -> str:
    """What one record says, in words."""
    kind = str(record["kind"])
    if words := _WORDS.get(kind):
        return words.format(**record)
    match kind:
        case "certified":
            return f"{record['release']} on server {record['server'] or '(not ours)'}"
        case "tuned":
            return "serving options forgotten" if record["options"] is None else f"serving options {record['options']}"
        case "intent" | "switching" | "reverting" | "outcome":
            return _step(kind, record)
    return f"{record.get('release') or ''}: {kind}"


def _step(kind: str, record: Mapping[str, Any]) -> str:
    alias, target = record["alias"], record["to"]
    if record.get("move_kind") == "removal":
        ends = {"intent": f", which names {record.get('from')}", "outcome": f": {record.get('result')}"}
        return f"removal of {alias}{ends.get(kind, '')}"
    match kind:
        case "switching":
            return f"{alias} to {target}"
        case "reverting":
            return f"{alias} back to {record['from'] or 'nothing'}"
        case "outcome":
            return f"{record['move_kind']} of {alias} to {target}: {record['result']}"
    return f"{record['move_kind']} of {alias}, {record['from'] or 'nothing'} to {target}"


@dataclass(slots=True)
class _Row:
    """What becomes one row: a move, a run of gates on one release, or a record that stands alone."""

    first: Mapping[str, Any]
    text: str = ""
    phase: str = ""
    ended: str = ""
    ended_at: str = ""
    gates: dict[str, str] = field(default_factory=dict)

    @property
    def about(self) -> tuple[Any, Any, Any]:
        """Model, release and actor."""
        return self.first.get("model"), self.first.get("release") or self.first.get("to"), self.first["actor"]

    @property
    def is_open(self) -> bool:
        """Whether a gate of the same release belongs to it."""
        return self.first["kind"] == "gate" or (self.first["kind"] == "intent" and not self.ended)

    def cells(self) -> tuple[Any, ...]:
        """For the columns seq, time, actor, model, what, reason."""
        record, bad = self.first, [f"{g} {v}" for g, v in self.gates.items() if v != Verdict.PASSED]
        text = self.text
        if record["kind"] == "intent":
            text += f": {self.ended or f'not ended, {self.phase}'}" + "".join(f"; {words}" for words in bad)
        elif self.gates:
            text = f"{record['release']}: " + (", ".join(bad) or "passed " + ", ".join(self.gates))
        reason = "" if record["kind"] == "gate" and not bad else record.get("reason") or ""
        return record["seq"], utc_text(record["time"]), record["actor"], record.get("model"), text, reason


def rows_of(records: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """One row a move, oldest first, for the columns seq, time, actor, model, what, reason.

    Gates that were run for a move stand in its row, and only those that did not
    pass are named there. Gates that no move followed have a row together.
    """
    return [row.cells() for row in _grouped(records)]


def rows_with_effect(records: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """The rows of `rows_of`, each behind the first whole second at which it had its effect."""
    return [(next_second(row.ended_at or row.first["time"]), *row.cells()) for row in _grouped(records)]


def _grouped(records: Iterable[Mapping[str, Any]]) -> list[_Row]:
    rows: list[_Row] = []
    moves: dict[str, _Row] = {}
    for record in records:
        move = moves.get(str(record.get("move", "")))
        match record["kind"]:
            case "intent":
                row = _Row(record, record_text(record), phase="begun")
                if rows and rows[-1].gates and rows[-1].about == row.about:
                    row.gates = rows.pop().gates
                moves[record["move"]] = row
                rows.append(row)
            case "certified" | "switching" | "reverting" if move is not None:
                move.phase = record["kind"]
            case "outcome" if move is not None:
                move.ended_at = record["time"]
                move.ended = f"{record['result']} after {_seconds(move.first, record):.1f} s"
            case "gate":
                _gate(rows, move, record)
            case _:
                words = record_text(record)
                rows.append(_Row(record, f"{record['kind']} {words}" if record["kind"] in _WORDS else words))
    return rows


def _gate(rows: list[_Row], move: _Row | None, record: Mapping[str, Any]) -> None:
    """Put a gate into the row of its move, or of the gates before it."""
    fresh = _Row(record)
    if move is None and rows and rows[-1].is_open and rows[-1].about == fresh.about:
        move = rows[-1]
    if move is None:
        rows.append(move := fresh)
    move.gates[str(record["gate"])] = str(record["verdict"])


def _seconds(first: Mapping[str, Any], last: Mapping[str, Any]) -> float:
    return (datetime.fromisoformat(last["time"]) - datetime.fromisoformat(first["time"])).total_seconds()


def rows_then(found: Moment, zone: tzinfo | None = None) -> list[tuple[object, ...]]:
    """One row for each release that an alias may have served at an instant.

    The columns are model, alias, release, slot, format, since, by, why, gates, manifest.

    Args:
        found: What the journal says of the instant.
        zone: Of the times that are shown; None for UTC.
    """
    return [row for alias in found.aliases for row in _rows(alias, zone)]


def _rows(alias: AliasThen, zone: tzinfo | None) -> Iterator[tuple[object, ...]]:
    for placement in alias.possible:
        settled = placement is alias.named
        doing = alias.by if settled else alias.moving
        since = utc_text(alias.since, zone) if settled else f"being switched since {_switching(alias, zone)}"
        gates = ", ".join(f"{g.gate} {g.verdict}" for g in alias.gates) if settled else ""
        who, why = ("", "") if doing is None else (doing.actor, doing.move.reason)
        serving = (placement.release, placement.slot, placement.format)
        yield (alias.model, alias.alias, *serving, since, who, why, gates, placement.manifest_digest)


def words_then(found: Moment, zone: tzinfo | None = None) -> Iterator[str]:
    """What else is to be said of an instant: moves that were under way, certifications, cautions.

    Args:
        found: What the journal says of the instant.
        zone: Of the times that are shown; None for UTC.
    """
    if not found.records:
        yield "The journal had no record then: nothing was published, and nothing served."
    elif not found.aliases:
        yield "No alias named a release then: nothing was served."
    for alias in found.aliases:
        if alias.moving is not None:
            yield _moving(alias, alias.moving, zone)
        if alias.certified is not None:
            server, time = alias.certified.server or "(not ours)", utc_text(alias.certified.time, zone)
            yield f"{alias.model}.{alias.alias}: server {server} had certified it, {time}."
    for caution in found.cautions:
        yield f"Caution: {caution}."


def _moving(alias: AliasThen, moving: MoveSeen, zone: tzinfo | None) -> str:
    ended = "it is still open" if moving.ended is None else f"it ended {utc_text(moving.ended, zone)}: {moving.result}"
    begun = f"Under way: the {moving.move.words}, by {moving.actor}, begun {utc_text(moving.started, zone)}"
    if not alias.switching:
        return f"{begun}. Its switch had not begun, so no client was answered by {moving.move.target.release}; {ended}."
    since = _switching(alias, zone)
    if moving.move.kind is MoveKind.REMOVAL:
        return f"{begun}, being removed since {since}: it may have answered, or nothing; {ended}."
    return f"{begun}, being switched since {since}: either may have answered; {ended}."


def _switching(alias: AliasThen, zone: tzinfo | None) -> str:
    return "" if alias.moving is None else utc_text(alias.moving.switching, zone)
