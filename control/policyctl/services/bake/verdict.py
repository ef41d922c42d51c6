"""How a bake ended: kept in the journal, and read from it by processes that did not carry it out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from policyctl.domain.bake import NAME, Baked, Then
from policyctl.domain.journal import RecordKind
from policyctl.domain.moves import Move, Result
from policyctl.domain.probes import AliasKey
from policyctl.domain.state import OpenBake
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import IntegrityError, UsageError
from policyctl.services.control import Control
from policyctl.services.evidence import content, record_verdict


def keep(control: Control, found: OpenBake, result: GateResult, then: Then, seconds: float) -> Baked:
    """Keep a verdict with its evidence; the caller holds the writer lock.

    Args:
        control: The control plane.
        found: The bake, which is open.
        result: What the gate said.
        then: What becomes of the alias.
        seconds: How long it was watched.
    """
    move = found.move
    published = control.repository.journal.state().release(move.model, move.target.release)
    more = {"move": move.id, "alias": move.alias, "then": then.value}
    result = replace(result, evidence={**result.evidence, "seconds": seconds})
    path, digest = record_verdict(control, published, result, more)
    return Baked(
        result.verdict,
        then,
        result.reason,
        source=str(result.evidence["source"]),
        seconds=seconds,
        evidence=str(path.relative_to(control.repository.control)),
        evidence_digest=digest,
        checks=tuple(result.evidence.get("checks", ())),
    )


def ended(control: Control, key: AliasKey, move_id: str) -> Baked:
    """How a bake ended that is not open any more."""
    said = recorded(control, move_id)
    if said is not None and said.then is Then.KEEP:
        return said
    records = control.repository.journal.records()
    mine = next((r.seq for r in records if r.kind is RecordKind.OUTCOME and r.body["move"] == move_id), len(records))
    intents = {r.body["move"]: r for r in records[mine + 1 :] if r.kind is RecordKind.INTENT}
    for record in records[mine + 1 :]:
        intent = intents.get(str(record.body.get("move")))
        if record.kind is not RecordKind.OUTCOME or intent is None or record.body["result"] != Result.DONE:
            continue
        move = Move.from_json(intent.body)
        if (move.model, move.alias) != key:
            continue
        if said is not None and said.evidence in move.reason:
            return said
        words = f"the {move.words} by {intent.actor} took precedence"
        return Baked(None, None, words) if said is None else replace(said, then=None, reason=f"{said.reason}; {words}")
    return said or Baked(None, None, "the alias is not where this promotion brought it")


def recorded(control: Control, move_id: str) -> Baked | None:
    """The verdict that the journal has of the bake of one promotion."""
    for record in control.repository.journal.records():
        body = record.body
        if record.kind is RecordKind.GATE and body["gate"] == NAME and body.get("move") == move_id:
            figures = _figures(control, body)
            return Baked(
                Verdict(body["verdict"]),
                Then(body["then"]),
                body["reason"],
                source=str(figures.get("source", "")),
                seconds=float(figures.get("seconds", 0.0)),
                evidence=str(body["evidence"]),
                evidence_digest=str(body["evidence_digest"]),
                checks=tuple(figures.get("checks", ())),
            )
    return None


def _figures(control: Control, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the gate saw; empty where its file is gone or was changed, since the verdict stands without it."""
    with contextlib.suppress(IntegrityError, UsageError):
        kept = json.loads(content(control, body["model"], body["release"], str(body["evidence_digest"])))
        figures: Mapping[str, Any] = kept["evidence"]
        return figures
    return {}
