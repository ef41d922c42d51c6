"""Keep what a gate said, or what was measured: the evidence as a file, its digest in the journal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from policyctl.adapters import evidence
from policyctl.domain.journal import RecordKind
from policyctl.domain.state import PublishedRelease
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.services.control import Control


def record_gate(control: Control, published: PublishedRelease, result: GateResult) -> str:
    """Keep a gate's evidence and its verdict; the caller holds the writer lock.

    Returns:
        The digest of the evidence.
    """
    return record_verdict(control, published, result, {})[1]


def record_verdict(
    control: Control, published: PublishedRelease, result: GateResult, more: Mapping[str, str]
) -> tuple[Path, str]:
    """`record_gate`, of a gate whose record tells more than its verdict.

    Args:
        control: The control plane.
        published: What was judged.
        result: What the gate said.
        more: What the record tells beside it.

    Returns:
        The evidence, and its digest.
    """
    body = {"gate": result.gate, "verdict": result.verdict.value, "reason": result.reason, **more}
    return _record(control, published, result, RecordKind.GATE, body)


def record_measured(
    control: Control, published: PublishedRelease, what: str, seen: Mapping[str, Any]
) -> tuple[Path, str]:
    """Keep what was measured and is judged by nobody; the caller holds the writer lock.

    Args:
        control: The control plane.
        published: What was measured.
        what: Names the measurement.
        seen: What was found, plain JSON.

    Returns:
        The evidence, and its digest.
    """
    result = GateResult(what, Verdict.INCONCLUSIVE, "measured, not judged", seen)
    return _record(control, published, result, RecordKind.MEASURED, {"what": what})


def _record(
    control: Control, published: PublishedRelease, result: GateResult, kind: RecordKind, body: Mapping[str, str]
) -> tuple[Path, str]:
    stamp = datetime.now(UTC).isoformat(timespec="microseconds")
    path, digest = evidence.write(
        control.repository,
        result,
        model=published.model,
        release=published.release,
        stamp=stamp,
    )
    control.repository.journal.append(
        kind,
        {
            "model": published.model,
            "release": published.release,
            "manifest_digest": published.manifest_digest,
            **body,
            "evidence": str(path.relative_to(control.repository.control)),
            "evidence_digest": digest,
        },
    )
    return path, digest
