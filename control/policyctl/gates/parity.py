"""Gate `parity`: at export every artifact was compared with the policy, and agreed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from policyctl.domain.artifacts import Format
from policyctl.domain.verdict import GateResult, Verdict

NAME: Final = "parity"


def run(content: bytes, *, formats: Sequence[Format]) -> GateResult:
    """Judge the parity report of a release.

    Args:
        content: The release's parity.json, verified.
        formats: Artifacts that the release holds; each needs a comparison.
    """
    try:
        reports: dict[str, dict[str, Any]] = json.loads(content)["formats"]
        missing = [f.value for f in formats if f.value not in reports]
        mine = {f.value: reports[f.value]["comparisons"] for f in formats if f.value in reports}
        disagree = [name for name, seen in mine.items() if any(c["agrees"] is not True for c in seen)]
        rows = {name: sum(int(c["rows"]) for c in seen) for name, seen in mine.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return GateResult(NAME, Verdict.ERROR, f"the parity report cannot be read ({type(error).__name__}: {error})")
    evidence = {"formats": reports}
    if disagree:
        return GateResult(NAME, Verdict.FAILED, f"{', '.join(disagree)} did not agree with the policy", evidence)
    unseen = missing + [name for name, count in rows.items() if count < 1]
    if unseen or not rows:
        return GateResult(NAME, Verdict.INCONCLUSIVE, f"{', '.join(unseen) or 'nothing'} was not compared", evidence)
    compared = ", ".join(f"{name} on {count} observations" for name, count in rows.items())
    return GateResult(NAME, Verdict.PASSED, f"agreed with the policy: {compared}", evidence)
