"""Gate `behaviour`: in its environment the candidate earns no less than the incumbent, but for a margin.

Both play the same episodes, each from the same seed, so luck that comes with a
seed cancels in the difference. The margin is in the environment's own return
and declared beforehand. *Passed* means that the interval of the mean difference
lies above minus the margin, *failed* that it lies below; anything else, and too
few episodes, is *inconclusive*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from policyctl.domain.criterion import Criterion, judge
from policyctl.domain.intervals import paired_difference
from policyctl.domain.json_values import to_json
from policyctl.domain.verdict import GateResult, Verdict

NAME: Final = "behaviour"

FEWEST_EPISODES: Final = 20
"""Below this the interval of a skewed return promises more than it keeps."""


def run(
    env: str, seeds: Sequence[int], *, incumbent: Sequence[float], candidate: Sequence[float], margin: float
) -> GateResult:
    """Judge what both earned.

    Args:
        incumbent: Return of each episode.
        candidate: Of the same episodes, in the same order.
        margin: How much less the candidate may earn on average, in the environment's return, 0 or more.
    """
    episodes = len(incumbent)
    found = None
    if len(candidate) == episodes >= 2:
        found = paired_difference(incumbent, candidate, rng=np.random.default_rng(0))
    evidence = {
        "env": env,
        "seeds": list(seeds),
        "returns": {"incumbent": list(incumbent), "candidate": list(candidate)},
        "difference": to_json(found),
        "margin": margin,
    }
    if found is None or episodes < FEWEST_EPISODES:
        reason = f"{episodes} paired episodes of {env}, at least {FEWEST_EPISODES} are needed"
        return GateResult(NAME, Verdict.INCONCLUSIVE, reason, evidence)
    name = f"return in {env} over {episodes} seeds, candidate minus incumbent"
    criterion = Criterion(name, found.mean, found.low, found.high, -margin, at_least=True)
    return judge(NAME, [criterion], evidence)
