"""How a bake ended: kept in the journal, and read from it again by whoever did not carry it out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from policyctl.domain.bake import NAME, Then
from policyctl.domain.journal import RecordKind
from policyctl.domain.moves import Move, Result
from policyctl.domain.state import OpenBake
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.services.control import Control
from policyctl.services.evidence import record_verdict
from policyctl.services.observed import AliasKey


@dataclass(frozen=True, slots=True)
class Baked:
    """How a bake ended.

    Attributes:
        verdict: None where somebody moved the alias before there was one.
        then: What became of the alias by this bake; None where somebody else moved it.
        reason: One sentence.
        source: Where the figures came from.
        seconds: How long it was watched.
        evidence: The figures, within the repository's control folder; empty where there are none.
        evidence_digest: Of that file.
        checks: What each check said.
    """

    verdict: Verdict | None
    then: Then | None
    reason: str
    source: str = ""
    seconds: float = 0.0
    evidence: str = ""
    evidence_digest: str = ""
    checks: tuple[dict[str, Any], ...] = ()

    @property
    def words(self) -> str:
        """How it ended, in a sentence."""
        if self.then is None:
            return f"The bake ended without a say: {self.reason}."
        by = f" by {self.source}" * bool(self.source)
        return f"Bake: {self.verdict} after {self.seconds:.0f} s{by}: {self.reason}."

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "verdict": None if self.verdict is None else self.verdict.value,
            "then": None if self.then is None else self.then.value,
            "reason": self.reason,
            "source": self.source,
            "seconds": self.seconds,
            "evidence": self.evidence,
            "evidence_digest": self.evidence_digest,
            "checks": list(self.checks),
        }


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
            path, digest = str(body["evidence"]), str(body["evidence_digest"])
            verdict, then = Verdict(body["verdict"]), Then(body["then"])
            return Baked(verdict, then, body["reason"], evidence=path, evidence_digest=digest)
    return None
