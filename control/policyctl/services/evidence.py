"""Keep what a gate said, or what was measured: the evidence as a file, its digest in the journal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from policyctl.domain.journal import RecordKind
from policyctl.domain.json_values import OMIT, to_json
from policyctl.domain.manifest import digest_of
from policyctl.domain.state import PublishedRelease
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import IntegrityError, UsageError
from policyctl.services.control import Control


@dataclass(frozen=True, slots=True)
class EvidenceEntry:
    """A piece of evidence that the journal names.

    Attributes:
        what: The gate, or what was measured.
        verdict: What the gate said; empty for what was measured and judged by nobody.
        reason: Why.
        time: When.
        actor: By whose doing.
        digest: Of its content.
        file: Where it is, under ``.policyctl``.
    """

    what: str
    verdict: str
    reason: str
    time: str
    actor: str
    digest: str
    file: str = field(metadata=OMIT)


def kept(control: Control, model: str, release: str) -> tuple[EvidenceEntry, ...]:
    """Every piece of evidence of one release, oldest first.

    Raises:
        IntegrityError: The journal was tampered with.
    """
    return tuple(
        EvidenceEntry(
            what=str(record.body.get("gate") or record.body.get("what") or ""),
            verdict=str(record.body.get("verdict", "")),
            reason=str(record.body.get("reason", "")),
            time=record.time,
            actor=record.actor,
            digest=str(record.body["evidence_digest"]),
            file=str(record.body.get("evidence", "")),
        )
        for record in control.repository.journal.records()
        if record.kind in {RecordKind.GATE, RecordKind.MEASURED}
        and (record.body["model"], record.body["release"]) == (model, release)
    )


def content(control: Control, model: str, release: str, digest: str) -> bytes:
    """One piece of evidence, exactly as the journal pins it.

    Raises:
        UsageError: The journal names no such evidence of that release.
        IntegrityError: Its file is gone, or not what was written.
    """
    for found in kept(control, model, release):
        # The journal names the files; a name that leads elsewhere is not evidence.
        if found.digest == digest and found.file.startswith("evidence/") and ".." not in found.file:
            body = control.repository.read(found.file)
            if body is None or digest_of(body) != digest:
                raise IntegrityError(
                    f"the evidence {digest} of {model} {release} is {'gone' if body is None else 'not as recorded'}",
                    remedy="Restore .policyctl/evidence from a copy, or let the gate run again: policyctl validate",
                )
            return body
    raise UsageError(f"{model} {release} has no evidence {digest}", remedy="List what there is first.")


def record_gate(control: Control, published: PublishedRelease, result: GateResult) -> str:
    """Keep a gate's evidence and its verdict; the caller holds the writer lock.

    Returns:
        The digest of the evidence.
    """
    return record_verdict(control, published, result, {})[1]


def record_verdict(
    control: Control, published: PublishedRelease, result: GateResult, more: Mapping[str, str]
) -> tuple[Path, str]:
    """`record_gate`, of a gate whose record says more than its verdict.

    Args:
        control: The control plane.
        published: What was judged.
        result: What the gate said.
        more: What else the record says.

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
    repository, stamp = control.repository, datetime.now(UTC).isoformat(timespec="microseconds")
    document = {"model": published.model, "release": published.release, "time": stamp, **to_json(result)}
    content = json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
    name = f"evidence/{published.model}/{published.release}/{stamp.replace(':', '')}-{result.gate}.json"
    path, digest = repository.control / name, digest_of(content)
    repository.write(path, content)
    repository.journal.append(
        kind,
        {
            "model": published.model,
            "release": published.release,
            "manifest_digest": published.manifest_digest,
            **body,
            "evidence": name,
            "evidence_digest": digest,
        },
    )
    return path, digest
