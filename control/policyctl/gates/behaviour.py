"""Gate `behaviour`: in its environment the candidate earns no less than the incumbent, but for a margin.

Both play the same episodes, each from the same seed, so luck that comes with a
seed cancels in the difference. The margin is in the environment's own return
and declared beforehand. *Passed* means that the interval of the mean difference
lies above minus the margin, *failed* that it lies below; anything else, and too
few episodes, is *inconclusive*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from policyctl.domain.criterion import Criterion, judge
from policyctl.domain.verdict import GateResult, Verdict

NAME: Final = "behaviour"

FEWEST_EPISODES: Final = 20
"""Below this the interval of a skewed return promises more than it keeps."""


@dataclass(frozen=True, slots=True)
class Played:
    """What both earned on common seeds.

    Attributes:
        incumbent: Return of each episode.
        candidate: The same episodes, in the same order.
        low: Lower end of the interval of the mean difference, candidate minus incumbent.
    """

    env: str
    seeds: Sequence[int]
    incumbent: Sequence[float]
    candidate: Sequence[float]
    low: float
    high: float
    confidence: float

    @property
    def difference(self) -> float | None:
        """Mean of candidate minus incumbent; None where nothing was played in pairs."""
        if not self.incumbent or len(self.incumbent) != len(self.candidate):
            return None
        return sum(c - i for i, c in zip(self.incumbent, self.candidate, strict=True)) / len(self.incumbent)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "env": self.env,
            "seeds": list(self.seeds),
            "returns": {"incumbent": list(self.incumbent), "candidate": list(self.candidate)},
            "difference": {
                "mean": self.difference,
                "low": self.low,
                "high": self.high,
                "confidence": self.confidence,
            },
        }


def run(played: Played, *, margin: float) -> GateResult:
    """Judge what both earned.

    Args:
        margin: How much less the candidate may earn on average, in the environment's return, 0 or more.
    """
    episodes = len(played.incumbent)
    if episodes < FEWEST_EPISODES or played.difference is None:
        reason = f"{episodes} paired episodes of {played.env}, at least {FEWEST_EPISODES} are needed"
        return GateResult(NAME, Verdict.INCONCLUSIVE, reason, {**played.to_json(), "margin": margin})
    criterion = Criterion(
        f"return in {played.env} over {episodes} seeds, candidate minus incumbent",
        played.difference,
        played.low,
        played.high,
        -margin,
        at_least=True,
    )
    return judge(NAME, [criterion], {**played.to_json(), "margin": margin})
