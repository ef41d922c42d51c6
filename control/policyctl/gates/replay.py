"""Gate `replay`: on recorded observations the candidate acts within limits.

A better policy acts otherwise, so agreement alone proves nothing about worth;
the limits say how far off is a surprise. What the recording cannot show (no
actions, no known order, no bounds) is *inconclusive* if a limit was declared
for it, and a recording that the very release that answered cannot reproduce is
an *error*: then nothing in it can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from policyctl.domain.criterion import Criterion, judge
from policyctl.domain.verdict import GateResult, Verdict

NAME: Final = "replay"

FEWEST_REQUESTS: Final = 100
REPRODUCES: Final = 0.99
"""Share of the recorded answers that the release that gave them must give again."""


def run(
    criteria: Sequence[Criterion], evidence: dict[str, Any], *, requests: int, reproduced: float | None
) -> GateResult:
    """Judge a replay.

    Args:
        criteria: Figures against the declared limits.
        requests: How many requests the recording holds.
        reproduced: Share of recorded answers that the release that gave them
            gives again; None where it does not serve any more.
    """
    if reproduced is not None and reproduced < REPRODUCES:
        reason = f"the release that answered then gives only {reproduced:.1%} of its recorded answers again"
        return GateResult(NAME, Verdict.ERROR, reason, evidence)
    if requests < FEWEST_REQUESTS:
        reason = f"{requests} recorded requests, at least {FEWEST_REQUESTS} are needed"
        return GateResult(NAME, Verdict.INCONCLUSIVE, reason, evidence)
    return judge(NAME, criteria, evidence)
