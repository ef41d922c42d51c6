"""One figure, known to within an interval, against one limit that was declared beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from policyctl.domain.json_values import fields_to_json
from policyctl.domain.verdict import GateResult, Verdict, worst


@dataclass(frozen=True, slots=True)
class Criterion:
    """A figure with its interval and its limit.

    Attributes:
        name: What it is, for people.
        estimate: None where nothing was measured.
        low: Lower end of the interval; None with `estimate`.
        high: Upper end of it.
        limit: What it is held against.
        at_least: The figure must not be below the limit; else not above it.
    """

    name: str
    estimate: float | None
    low: float | None
    high: float | None
    limit: float
    at_least: bool

    @property
    def verdict(self) -> Verdict:
        """Passed or failed where the whole interval says so, else inconclusive; never passed without a figure."""
        ends = (self.estimate, self.low, self.high, self.limit)
        if any(end is None or not math.isfinite(end) for end in ends):
            return Verdict.INCONCLUSIVE
        low, high = float(self.low or 0.0), float(self.high or 0.0)
        inside, outside = (
            (low >= self.limit, high < self.limit)
            if self.at_least
            else (
                high <= self.limit,
                low > self.limit,
            )
        )
        return Verdict.PASSED if inside else Verdict.FAILED if outside else Verdict.INCONCLUSIVE

    @property
    def words(self) -> str:
        """The figure, its interval and its limit."""
        sense = "at least" if self.at_least else "at most"
        if self.estimate is None or self.low is None or self.high is None:
            return f"{self.name} is unknown, {sense} {self.limit:g} is asked"
        return f"{self.name} {self.estimate:.4g} ({self.low:.4g} .. {self.high:.4g}), {sense} {self.limit:g} is asked"

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**fields_to_json(self), "verdict": self.verdict.value}


def judge(gate: str, criteria: Sequence[Criterion], evidence: dict[str, Any]) -> GateResult:
    """The verdict of all criteria together; without any, inconclusive."""
    verdict = worst(tuple(c.verdict for c in criteria))
    decisive = [c for c in criteria if c.verdict is verdict]
    reason = "; ".join(c.words for c in decisive) if decisive else "no limit was declared"
    return GateResult(gate, verdict, reason, {**evidence, "criteria": [c.to_json() for c in criteria]})
