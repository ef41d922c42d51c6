"""Gate `integrity`: every file of the release is the one that was published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from policyctl.domain.json_values import to_json
from policyctl.domain.manifest import FileEntry
from policyctl.domain.verdict import GateResult, Verdict

NAME: Final = "integrity"


def passed(files: Sequence[FileEntry], *, manifest_digest: str) -> GateResult:
    """The verdict on a release whose every file was read and held against the journal's digest."""
    return GateResult(
        NAME,
        Verdict.PASSED,
        f"{len(files)} files, {sum(f.size_bytes for f in files)} bytes, as published",
        {
            "manifest_digest": manifest_digest,
            "files": to_json(files),
        },
    )


def failed(problem: str, *, manifest_digest: str) -> GateResult:
    """The verdict on a release that is not what was published."""
    return GateResult(NAME, Verdict.FAILED, problem, {"manifest_digest": manifest_digest})
