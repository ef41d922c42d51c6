"""Gate `integrity`: every file of the release is the one that was published."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import IntegrityError
from policyctl.integrity import read_release

NAME: Final = "integrity"


def run(folder: Path, *, manifest_digest: str) -> GateResult:
    """Read every file of the slot `folder` and hold it against the journal's digest."""
    try:
        verified = read_release(folder, expected_digest=manifest_digest)
    except IntegrityError as error:
        return GateResult(NAME, Verdict.FAILED, error.problem, {"manifest_digest": manifest_digest})
    files = verified.manifest.files
    return GateResult(
        NAME,
        Verdict.PASSED,
        f"{len(files)} files, {sum(f.size_bytes for f in files)} bytes, as published",
        {
            "manifest_digest": manifest_digest,
            "files": [{"path": f.path, "size_bytes": f.size_bytes, "digest": f.digest} for f in files],
        },
    )
