"""Gate `superiority`: a configuration is better than the one that serves, and keeps a limit on P99.

A search looks at many configurations, and the best of many is lucky as often
as it is good. So a winner counts only if it wins again, in rounds that the
search never saw:

- *passed*: it is surely better by more than the gain that was declared, and
  its P99 is surely within the limit;
- *failed*: it surely is not better by that much, or its P99 surely is beyond the limit;
- *inconclusive*: the time is up and neither is proved. The incumbent stays.

Looks and their error probability are those of `non_inferiority`. Several
winners that are tried one after the other share the probability of *passed*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from policyctl.domain.json_values import fields_to_json, to_json
from policyctl.domain.paired import Metric, Round
from policyctl.domain.statistics import MOST_VALUES, MedianInterval, median_interval, spent
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.gates.non_inferiority import FEWEST_ROUNDS, LOOKS, is_time_up, looks_due

NAME: Final = "superiority"


@dataclass(frozen=True, slots=True)
class GainPlan:
    """What is declared before the first burst.

    Attributes:
        gain: By how much: 0.02 is 2 % more throughput, or 2 % less latency.
        p99_limit_us: What the candidate's P99 must stay below.
        alpha: How often a candidate that is not better may pass, at most.
    """

    metric: Metric
    gain: float
    p99_limit_us: float
    time_cap_s: float
    alpha: float = 0.05

    @property
    def limit(self) -> float:
        """The log slow-down that the gain stands for; below 0."""
        return -math.log1p(self.gain) if self.metric is Metric.THROUGHPUT else math.log1p(-self.gain)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**fields_to_json(self), "looks": list(LOOKS)}


def judge(rounds: Sequence[Round], plan: GainPlan, *, is_over: bool = False) -> GateResult | None:
    """What the rounds so far say; None while more of them are needed. It takes them as `non_inferiority.judge` does."""
    looks: list[dict[str, Any]] = []
    for since, fraction, measured in looks_due(rounds, plan.time_cap_s, is_over=is_over):
        alpha = spent(fraction, alpha=plan.alpha) - spent(since, alpha=plan.alpha)
        verdict, change, p99 = _look(measured, plan, alpha)
        look = {"fraction": fraction, "rounds": len(measured), "verdict": verdict, "change": change}
        looks.append(to_json(look))
        if verdict is not Verdict.INCONCLUSIVE or fraction == LOOKS[-1]:
            return _result(verdict, plan, looks, measured, change, p99)
    if not is_over and not is_time_up(rounds, plan.time_cap_s):
        return None
    return GateResult(
        NAME,
        Verdict.INCONCLUSIVE,
        f"{len(rounds)} rounds are too few to judge, {FEWEST_ROUNDS} are needed",
        {"plan": plan.to_json(), "looks": looks, "rounds": to_json(rounds)},
    )


def candidate_p99_us(rounds: Sequence[Round]) -> list[float]:
    """The candidate's P99 of each round, microseconds."""
    return [math.sqrt(r.candidate[0].p99_us * r.candidate[1].p99_us) for r in rounds]


def _look(seen: Sequence[Round], plan: GainPlan, alpha: float) -> tuple[Verdict, MedianInterval, MedianInterval]:
    kept = seen[-MOST_VALUES:]
    change = median_interval([r.log_slow_down(plan.metric) for r in kept], alpha_low=alpha, alpha_high=alpha)
    p99 = median_interval([math.log(v) for v in candidate_p99_us(kept)], alpha_low=alpha, alpha_high=alpha)
    most = math.log(plan.p99_limit_us)
    if change.low > plan.limit or p99.low > most:
        return Verdict.FAILED, change, p99
    # Both have to be proved, so nothing need be corrected.
    better = change.high < plan.limit and p99.high < most
    return (Verdict.PASSED if better else Verdict.INCONCLUSIVE), change, p99


def _result(
    verdict: Verdict,
    plan: GainPlan,
    looks: list[dict[str, Any]],
    rounds: Sequence[Round],
    change: MedianInterval,
    p99: MedianInterval,
) -> GateResult:
    low, middle, high = (100 * plan.metric.change(v) for v in (change.low, change.median, change.high))
    less = "lower" if plan.metric is Metric.THROUGHPUT else "longer"
    upper = f"{math.exp(p99.high) / 1e3:.2f}" if math.isfinite(p99.high) else "?"
    words = (
        f"{plan.metric} {middle:+.1f} % {less} ({low:+.1f} to {high:+.1f}), a gain of {100 * plan.gain:g} % is asked;"
        f" P99 {math.exp(p99.median) / 1e3:.2f} ms (below {upper}), limit {plan.p99_limit_us / 1e3:g} ms;"
        f" {len(rounds)} rounds in {rounds[-1].ended_s:.0f} s"
    )
    said = {Verdict.PASSED: "better", Verdict.FAILED: "not better"}.get(verdict, "cannot tell")
    evidence = {
        "plan": plan.to_json(),
        "looks": looks,
        "log_p99_us": p99.to_json(),
        "rounds": to_json(rounds),
    }
    return GateResult(NAME, verdict, f"{said}: {words}", evidence)
