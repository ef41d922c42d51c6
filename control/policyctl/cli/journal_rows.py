"""The journal in words: a row for each record, or one for each move with everything that belongs to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from policyctl.domain.instants import utc_text
from policyctl.domain.verdict import Verdict

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
                move.ended = f"{record['result']} after {_seconds(move.first, record):.1f} s"
            case "gate":
                _gate(rows, move, record)
            case _:
                rows.append(_Row(record, record_text(record)))
    return [row.cells() for row in rows]


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
