"""Gate `parity`: at export every artifact was compared with the policy, and agreed.

The report names the digest of each file that was compared, so it speaks of the
very bytes that the release holds and of no others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from policyctl.domain.artifacts import FILES, Format
from policyctl.domain.verdict import GateResult, Verdict

NAME: Final = "parity"


def run(content: bytes, *, formats: Sequence[Format], digests: Mapping[str, str]) -> GateResult:
    """Judge the parity report of a release.

    Args:
        content: The release's parity.json, verified.
        formats: Artifacts that the release holds; each needs a comparison.
        digests: Of the release's files, by path.
    """
    try:
        reports: dict[str, dict[str, Any]] = json.loads(content)["formats"]
        missing = [f.value for f in formats if f.value not in reports]
        mine = {f.value: reports[f.value]["comparisons"] for f in formats if f.value in reports}
        disagree = [name for name, seen in mine.items() if any(c["agrees"] is not True for c in seen)]
        compared = {path: reports[f.value]["files"][path] for f in formats if f.value in mine for path in FILES[f]}
        others = [path for path, digest in compared.items() if digests.get(path) != digest]
        rows = {name: sum(int(c["rows"]) for c in seen) for name, seen in mine.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return GateResult(NAME, Verdict.ERROR, f"the parity report cannot be read ({type(error).__name__}: {error})")
    evidence = {"formats": reports}
    if disagree:
        return GateResult(NAME, Verdict.FAILED, f"{', '.join(disagree)} did not agree with the policy", evidence)
    if others:
        words = f"{', '.join(others)} is not the file that was compared with the policy at export"
        return GateResult(NAME, Verdict.FAILED, words, evidence)
    unseen = missing + [name for name, count in rows.items() if count < 1]
    if unseen or not rows:
        return GateResult(NAME, Verdict.INCONCLUSIVE, f"{', '.join(unseen) or 'nothing'} was not compared", evidence)
    words = ", ".join(f"{name} on {count} observations" for name, count in rows.items())
    return GateResult(NAME, Verdict.PASSED, f"agreed with the policy: {words}", evidence)
