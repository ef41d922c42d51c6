"""An integrity report: every release, every file, what was expected and what is there.

It names who published each release and when, who signed it, and what the chain
of the journal shows. It is a plain value; the functions below print it as a
page, as Markdown or as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from policyctl import pages
from policyctl.adapters import files
from policyctl.domain.instants import utc_text
from policyctl.domain.json_values import to_json
from policyctl.errors import UsageError
from policyctl.services.control import Control
from policyctl.services.integrity.journal import Proof, prove
from policyctl.services.integrity.verify import Examination, Finding, ReleaseCheck, examine
from policyctl.services.trust.signatures import Signed, of_release

COLUMNS: Final = ("release", "file", "verdict", "expected", "found", "published", "by", "signed by")
KINDS: Final = (".html", ".json", ".md")


@dataclass(frozen=True, slots=True)
class IntegrityReport:
    """What was found, and when.

    Attributes:
        time: UTC.
        repository: Which.
        model: The one that was looked at; None for all.
        proof: What the journal's chain showed.
        examination: What lies on disk.
        signed: The signatures that the journal records, and what each is worth now, by model and release.
    """

    time: str
    repository: str
    model: str | None
    proof: Proof
    examination: Examination
    signed: dict[tuple[str, str], tuple[Signed, ...]]

    @property
    def intact(self) -> bool:
        """Whether everything is as published."""
        return self.proof.intact and all(f.intact for f in self.examination.findings)

    @property
    def others(self) -> tuple[Finding, ...]:
        """What was held against the journal, except the slots of the releases."""
        slots = {f"{r.published.model} {r.published.release} (slot {r.published.slot})" for r in self.releases}
        return tuple(f for f in self.examination.findings if f.what not in slots)

    @property
    def releases(self) -> tuple[ReleaseCheck, ...]:
        """Every release whose files should be there."""
        return self.examination.releases

    def rows(self) -> list[tuple[str, ...]]:
        """A row a file, under `COLUMNS`."""
        return [row for release in self.releases for row in self._rows(release)]

    def _rows(self, release: ReleaseCheck) -> list[tuple[str, ...]]:
        published, checked = release.published, release.checked
        name = f"{published.model} {published.release} (slot {published.slot})"
        signatures = self.signed.get((published.model, published.release), ())
        signed = ", ".join(f"{s.record.name} ({s.standing}, {utc_text(s.record.time)})" for s in signatures) or "nobody"
        whole = (utc_text(published.time), published.actor, signed)
        verdict = "intact" if checked.manifest is not None else "NOT INTACT"
        rows: list[tuple[str, ...]] = [
            (name, "manifest.json", verdict, published.manifest_digest, checked.manifest_digest or "missing", *whole)
        ]
        for file in checked.files:
            verdict = "NOT INTACT" if file.problem else "intact"
            expected = "nothing" if file.expected is None else f"{file.expected.digest} {file.expected.size_bytes} B"
            there = f"{file.found.digest} {file.found.size_bytes} B" if file.found else file.problem
            rows.append((name, file.path or ".", verdict, expected, there, *whole))
        return rows

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "schema": 1,
            "time": self.time,
            "repository": self.repository,
            "model": self.model,
            "intact": self.intact,
            "journal": self.proof.to_json(),
            "releases": [self._release_json(r) for r in self.releases],
            "findings": to_json(self.examination.findings),
        }

    def _release_json(self, release: ReleaseCheck) -> dict[str, Any]:
        published, checked = release.published, release.checked
        return {
            "model": published.model,
            "release": published.release,
            "slot": published.slot,
            "published": published.time,
            "by": published.actor,
            "signatures": [s.to_json() for s in self.signed.get((published.model, published.release), ())],
            "intact": checked.intact,
            "problem": None if checked.problem is None else checked.problem.problem,
            "manifest": {"expected": published.manifest_digest, "found": checked.manifest_digest},
            "files": [
                {
                    "path": f.path,
                    "intact": not f.problem,
                    "problem": f.problem or None,
                    "expected": None if f.expected is None else _entry(f.expected.size_bytes, f.expected.digest),
                    "found": None if f.found is None else _entry(f.found.size_bytes, f.found.digest),
                }
                for f in checked.files
            ],
        }


def report(control: Control, *, model: str | None = None) -> IntegrityReport:
    """Check everything, or everything of one model.

    Raises:
        IntegrityError: The journal itself was tampered with.
        UsageError: No such model, or nothing published at all.
    """
    examination = examine(control, model=model)
    state = control.repository.journal.state()
    return IntegrityReport(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        repository=str(control.repository.root),
        model=model,
        proof=prove(control),
        examination=examination,
        signed={key: of_release(control, state, published) for key, published in state.releases.items()},
    )


def check_kind(path: Path) -> Path:
    """Return `path` if its name says which report to write.

    Raises:
        UsageError: It ends in something else.
    """
    if path.suffix not in KINDS:
        raise UsageError(f"{path} names an unknown kind of report", remedy=f"End its name in {', '.join(KINDS)}.")
    return path


def write(report: IntegrityReport, path: Path) -> None:
    """Write the report that the name of `path` asks for.

    Raises:
        UsageError: The name asks for none, or the disk refuses.
    """
    text = {
        ".html": lambda: page(report),
        ".md": lambda: markdown(report),
        ".json": lambda: json.dumps(report.to_json(), indent=1) + "\n",
    }[check_kind(path).suffix]()
    files.write_atomically(path, text.encode("utf-8", "backslashreplace"))


def page(report: IntegrityReport) -> str:
    """The report as one HTML page that loads and runs nothing."""
    return pages.render(
        "integrity.html",
        title=f"Integrity of {report.repository}",
        intact=report.intact,
        verdict=_verdict(report),
        facts=_facts(report),
        columns=COLUMNS,
        files=report.rows(),
        others=_other_rows(report),
    )


def markdown(report: IntegrityReport) -> str:
    """The report as Markdown."""
    parts = [
        f"# Integrity of {pages.markdown_safe(report.repository)}",
        f"**{pages.markdown_safe(_verdict(report))}**",
        pages.markdown_table(("fact", "value"), _facts(report)),
        "## Releases",
        pages.markdown_table(COLUMNS, report.rows()),
        "## Aliases, configurations, evidence, and what belongs to nothing",
        pages.markdown_table(("what", "verdict", "found"), _other_rows(report)),
    ]
    return "\n\n".join(parts) + "\n"


def _other_rows(report: IntegrityReport) -> list[tuple[str, str, str]]:
    return [(f.what, "intact" if f.intact else "NOT INTACT", f.detail) for f in report.others]


def _verdict(report: IntegrityReport) -> str:
    findings = report.examination.findings
    bad = [f for f in findings if not f.intact]
    if not bad:
        return f"Intact: all of {len(findings)} are as published."
    return f"NOT INTACT: {len(bad)} of {len(findings)}, first {bad[0].what}: {bad[0].detail}"


def _facts(report: IntegrityReport) -> list[tuple[str, str]]:
    return [
        ("time", report.time),
        ("repository", report.repository),
        ("model", report.model or "all"),
        ("journal", report.proof.words),
    ]


def _entry(size_bytes: int, digest: str) -> dict[str, Any]:
    return {"size_bytes": size_bytes, "digest": digest}
