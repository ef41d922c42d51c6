"""Keep what a gate said, or what was measured: the evidence as a file, its digest in the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from policyctl.adapters import evidence
from policyctl.domain.journal import RecordKind
from policyctl.domain.manifest import digest_of
from policyctl.domain.state import PublishedRelease
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import IntegrityError, UsageError
from policyctl.services.control import Control


@dataclass(frozen=True, slots=True)
class Kept:
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
    file: str

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "file"}


def kept(control: Control, model: str, release: str) -> tuple[Kept, ...]:
    """Every piece of evidence of one release, oldest first.

    Raises:
        IntegrityError: The journal was tampered with.
    """
    return tuple(
        Kept(
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
        # The journal names the files; a name that leads elsewhere is none of them.
        if found.digest == digest and found.file.startswith("evidence/") and ".." not in found.file:
            body = evidence.read(control.repository, found.file)
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
