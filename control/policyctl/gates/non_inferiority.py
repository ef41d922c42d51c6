"""Gate `non_inferiority`: the candidate is not slower than what it would replace, beyond a margin.

The margin is declared beforehand, for each metric. Rounds are added until one
of two things is proved, or the time is up:

- *failed*: some metric is worse by more than its margin (Holm over the metrics);
- *passed*: no metric is worse by more than its margin (each must be proved by
  itself, so nothing need be corrected);
- *inconclusive*: the time is up and neither is proved. This is an answer too:
  the machine is too noisy for this margin in this time.

The caller turns a measurement that broke into *error*; it is not judged
here. The four looks have their time and their share of the error probability
before the first burst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from policyctl.domain.json_values import fields_to_json, to_json
from policyctl.domain.paired import Metric, Round
from policyctl.domain.statistics import MOST_VALUES, MedianInterval, holm, median_interval, p_value_above, spent
from policyctl.domain.verdict import GateResult, Verdict

NAME: Final = "non_inferiority"

LOOKS: Final = (0.3, 0.5, 0.75, 1.0)
"""When the rounds are judged, as fractions of the time cap; at the first of a minute's cap there are ten of them."""

FEWEST_ROUNDS: Final = 6
"""With fewer no sample of any kind proves anything at these error probabilities."""


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """What is declared before the first burst.

    Attributes:
        margins: How much worse is still good enough, by metric: 0.05 is 5 %.
        alpha_failed: How often a release that is exactly at a margin may be called failed, at most.
        alpha_passed: How often such a release may be called passed, at most.
    """

    margins: Mapping[Metric, float] = field(
        default_factory=lambda: {Metric.P50: 0.05, Metric.P99: 0.10, Metric.THROUGHPUT: 0.05}
    )
    time_cap_s: float = 60.0
    alpha_failed: float = 0.05
    alpha_passed: float = 0.05

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            **fields_to_json(self),
            "looks": list(LOOKS),
            "interval": "Wilcoxon signed-rank, exact, one-sided at each end",
            "metrics": "failed: Holm; passed: every one",
        }


@dataclass(frozen=True, slots=True)
class Look:
    """What the rounds said at one look.

    Attributes:
        worse: Metrics proved to be worse than their margin.
        unproved: Metrics not proved to be within it.
        log_slow_down: Its interval, by metric.
        p_values: That the slow-down is within the margin, by metric.
    """

    fraction: float
    rounds: int
    verdict: Verdict
    worse: tuple[Metric, ...]
    unproved: tuple[Metric, ...]
    log_slow_down: Mapping[Metric, MedianInterval]
    p_values: Mapping[Metric, float]


def judge(rounds: Sequence[Round], plan: ComparisonPlan, *, is_over: bool = False) -> GateResult | None:
    """What the rounds so far say; None while more of them are needed.

    The same rounds always give the same answer, so a verdict can be repeated
    from its evidence.

    Args:
        rounds: In the order in which they were measured, from the first.
        is_over: No more will come: the last look is due whatever the time is.
    """
    looks: list[Look] = []
    for since, fraction, measured in looks_due(rounds, plan.time_cap_s, is_over=is_over):
        look = _look(measured, plan, since=since, fraction=fraction)
        looks.append(look)
        if look.verdict is not Verdict.INCONCLUSIVE:
            return _result(look.verdict, looks, measured, plan)
    if is_over or is_time_up(rounds, plan.time_cap_s):
        return _result(Verdict.INCONCLUSIVE, looks, rounds, plan)
    return None


def is_time_up(rounds: Sequence[Round], time_cap_s: float) -> bool:
    """Whether a round ended after the time cap."""
    return any(each.ended_s >= LOOKS[-1] * time_cap_s for each in rounds)


def looks_due(
    rounds: Sequence[Round], time_cap_s: float, *, is_over: bool
) -> Iterator[tuple[float, float, Sequence[Round]]]:
    """The looks that can be taken by now (see `judge`), each at the rounds up to the first that ended by its time.

    Yields:
        Fraction of the time at the look before and at this one, and the rounds.
        A look at fewer than `FEWEST_ROUNDS` is left out.
    """
    before = 0.0
    for fraction in LOOKS:
        end = next((i + 1 for i, each in enumerate(rounds) if each.ended_s >= fraction * time_cap_s), None)
        if end is None and not is_over:
            return
        now = fraction if end is not None else LOOKS[-1]
        measured = rounds[:end]
        if len(measured) >= FEWEST_ROUNDS:
            yield before, now, measured
            before = now
        if now == LOOKS[-1]:
            return


def _look(rounds: Sequence[Round], plan: ComparisonPlan, *, since: float, fraction: float) -> Look:
    failed, passed = (
        spent(fraction, alpha=alpha) - spent(since, alpha=alpha) for alpha in (plan.alpha_failed, plan.alpha_passed)
    )
    # The newest are kept where there are more than the exact distribution is made for.
    values = {m: [r.log_slow_down(m) for r in rounds[-MOST_VALUES:]] for m in plan.margins}
    limits = {m: m.limit(margin) for m, margin in plan.margins.items()}
    intervals = {m: median_interval(v, alpha_low=failed / len(values), alpha_high=passed) for m, v in values.items()}
    p_values = {m: p_value_above(v, limit=limits[m]) for m, v in values.items()}
    worse = tuple(Metric(name) for name in holm({m.value: p for m, p in p_values.items()}, alpha=failed))
    unproved = tuple(m for m, interval in intervals.items() if not interval.high < limits[m])
    verdict = Verdict.FAILED if worse else Verdict.INCONCLUSIVE if unproved else Verdict.PASSED
    return Look(fraction, len(rounds), verdict, worse, unproved, intervals, p_values)


def _result(verdict: Verdict, looks: Sequence[Look], rounds: Sequence[Round], plan: ComparisonPlan) -> GateResult:
    evidence = {
        "plan": plan.to_json(),
        "looks": to_json(looks),
        "rounds": to_json(rounds),
    }
    if not looks:
        return GateResult(
            NAME,
            Verdict.INCONCLUSIVE,
            f"{len(rounds)} rounds in {_seconds(rounds):.0f} s are too few to judge, {FEWEST_ROUNDS} are needed",
            {**evidence, "remedy": "Give it more time: POLICYCTL_GATES__NON_INFERIORITY__TIME_CAP_S."},
        )
    last = looks[-1]
    named = {Verdict.FAILED: last.worse, Verdict.INCONCLUSIVE: last.unproved}.get(verdict, tuple(plan.margins))
    found = "; ".join(_words(metric, last.log_slow_down[metric], plan.margins[metric]) for metric in named)
    count = f"{last.rounds} rounds in {_seconds(rounds):.0f} s"
    match verdict:
        case Verdict.FAILED:
            return GateResult(NAME, verdict, f"worse than the incumbent: {found}; {count}", evidence)
        case Verdict.PASSED:
            return GateResult(NAME, verdict, f"within the margins: {found}; {count}", evidence)
        case _:
            remedy = (
                "The machine is too noisy for these margins in this time: try again when it is quieter, give it"
                " more time (POLICYCTL_GATES__NON_INFERIORITY__TIME_CAP_S), or see: policyctl calibrate"
            )
            return GateResult(NAME, verdict, f"cannot tell: {found}; {count}", {**evidence, "remedy": remedy})


def _seconds(rounds: Sequence[Round]) -> float:
    return rounds[-1].ended_s if rounds else 0.0


def _words(metric: Metric, interval: MedianInterval, margin: float) -> str:
    less = "lower" if metric is Metric.THROUGHPUT else "longer"
    low, middle, high = (100 * metric.change(v) for v in (interval.low, interval.median, interval.high))
    return f"{metric} {middle:+.1f} % {less} ({low:+.1f} to {high:+.1f}), margin {100 * margin:g} %"
