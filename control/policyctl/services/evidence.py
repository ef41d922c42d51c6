"""Keep what a gate said: the evidence as a file, its digest and verdict in the journal."""

from __future__ import annotations

from datetime import UTC, datetime

from policyctl.adapters import evidence
from policyctl.domain.journal import RecordKind
from policyctl.domain.state import PublishedRelease
from policyctl.domain.verdict import GateResult
from policyctl.services.control import Control


def record_gate(control: Control, published: PublishedRelease, result: GateResult) -> str:
    """Keep a gate's evidence and its verdict; the caller holds the writer lock.

    Returns:
        The digest of the evidence.
    """
    stamp = datetime.now(UTC).isoformat(timespec="microseconds")
    path, digest = evidence.write(
        control.repository,
        result,
        model=published.model,
        release=published.release,
        stamp=stamp,
    )
    control.repository.journal.append(
        RecordKind.GATE,
        {
            "model": published.model,
            "release": published.release,
            "manifest_digest": published.manifest_digest,
            "gate": result.gate,
            "verdict": result.verdict.value,
            "reason": result.reason,
            "evidence": str(path.relative_to(control.repository.control)),
            "evidence_digest": digest,
        },
    )
    return digest
