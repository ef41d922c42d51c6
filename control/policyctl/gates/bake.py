"""Gate `bake`: what a release does under real traffic, against what its incumbent did.

Five things are judged: the share of requests that fail, the mean latency, the
slowest answers, golden probes, and whether the server died. A release *fails* where it is proved to be
beyond a limit, at any of the looks that are taken on the way; the probability
of failing one that is at a limit is spent over looks and checks beforehand
(`statistics.spent`). It *passes* at the end where every check has proved enough:
no failure among three requests proves nothing about one in a hundred. What is
neither is inconclusive.

What that rests on: requests are taken to fail independently of one another,
which they do not in an outage; then the proof is of that outage. Latencies are
means of windows within the server. They are compared at about the same load
alone, for a server that is asked twice as much is slower whatever it serves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from policyctl.domain.bake import NAME, BakePlan, Figures, TailQuantiles, Window
from policyctl.domain.json_values import to_json
from policyctl.domain.statistics import MOST_VALUES, median_interval, rate_bound_above, rate_bound_below
from policyctl.domain.verdict import GateResult, Verdict, worst

ALPHA: Final = 0.05
CHECKS: Final = 4
"""That can fail by chance; each gets its share of `ALPHA`."""
FEWEST_REQUESTS: Final = 100
"""Of the incumbent, for its own errors to excuse those of its successor."""
FEWEST_WINDOWS: Final = 5
"""Of which a median has bounds at all at 5 %."""
FEWEST_PROBES: Final = 20
TAIL: Final = 0.03
"""Share of answers that may take longer than one in a hundred of the incumbent's may; 300 answers can prove it."""
RATE_RISE: Final = 2.0
"""Windows with more requests a second than this many times the incumbent's are not compared."""
_LEAST_ALPHA: Final = 1e-12


@dataclass(frozen=True, slots=True)
class BakeCheck:
    """One of the things that are judged.

    Attributes:
        verdict: Inconclusive as long as nothing is proved.
    """

    name: str
    verdict: Verdict
    reason: str
    figures: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"check": self.name, "verdict": self.verdict.value, "reason": self.reason, **self.figures}


def judge(
    plan: BakePlan, incumbent: Figures | None, seen: Figures, *, alpha: float, is_over: bool
) -> GateResult | None:
    """Look once.

    Args:
        incumbent: Before the switch; None where nothing is known.
        alpha: How often this look may fail a release that is at a limit; the looks of a bake add up to `ALPHA`.

    Returns:
        The verdict; None where nothing is proved and there is time left.
    """
    share = max(alpha / CHECKS, _LEAST_ALPHA)
    checks = (
        _errors(plan, incumbent, seen, share),
        _latency(plan, incumbent, seen, share),
        *_tail(plan, incumbent, seen, share),
        _probes(plan, incumbent, seen, share),
        _crashes(seen),
    )
    verdict = worst(tuple(c.verdict for c in checks))
    if verdict is not Verdict.FAILED and not is_over:
        return None
    said = [c.reason for c in checks if c.verdict is verdict]
    evidence = {
        "source": seen.source,
        "plan": plan,
        "checks": checks,
        "incumbent": incumbent,
        "seen": seen,
    }
    return GateResult(NAME, verdict, "; ".join(said), to_json(evidence))


def foresees_too_little(plan: BakePlan, incumbent: Figures) -> bool:
    """Whether a release that is asked as often as its incumbent was proves nothing, though none of it fails."""
    span_s = sum(window.span_s for window in incumbent.windows)
    expected = int(incumbent.requests * plan.for_s / span_s) if span_s else 0
    likely = Figures(incumbent.source, (Window(plan.for_s, expected, 0, 0.0),))
    errors = _errors(plan, incumbent, likely, ALPHA)
    return errors.verdict is not Verdict.PASSED or len(incumbent.latencies) < FEWEST_WINDOWS


def _errors(plan: BakePlan, incumbent: Figures | None, seen: Figures, alpha: float) -> BakeCheck:
    allowed = _allowed(plan, 0, 0) if incumbent is None else _allowed(plan, incumbent.failed, incumbent.requests)
    failed, requests = seen.failed, seen.requests
    figures: dict[str, Any] = {"failed": failed, "requests": requests, "allowed": allowed}
    if not requests:
        return BakeCheck("errors", Verdict.INCONCLUSIVE, "no client asked", figures)
    low = rate_bound_below(failed, requests, alpha=alpha)
    high = rate_bound_above(failed, requests, alpha=ALPHA)
    figures |= {"low": low, "high": high}
    said = f"{failed} of {requests} requests failed"
    if low > allowed:
        return BakeCheck("errors", Verdict.FAILED, f"{said}, at most {_percent(allowed)} may", figures)
    if high <= allowed:
        return BakeCheck("errors", Verdict.PASSED, said, figures)
    words = f"{said}, which does not prove less than {_percent(allowed)} (it may be {_percent(high)})"
    return BakeCheck("errors", Verdict.INCONCLUSIVE, words, figures)


def _allowed(plan: BakePlan, failed: int, requests: int) -> float:
    """What share of requests may fail: the limit, or what the incumbent's may have been if it was seen failing."""
    if not failed or requests < FEWEST_REQUESTS:
        return plan.error_ratio
    return max(plan.error_ratio, rate_bound_above(failed, requests, alpha=ALPHA))


def _latency(plan: BakePlan, incumbent: Figures | None, seen: Figures, alpha: float) -> BakeCheck:
    before = () if incumbent is None else incumbent.latencies
    if len(before) < FEWEST_WINDOWS:
        words = "the incumbent was asked too little before the switch to compare latencies"
        return BakeCheck("latency", Verdict.INCONCLUSIVE, words, {"incumbent_windows": len(before)})
    reference_us = math.exp(_log_median([w.mean_us for w in before], ALPHA)[1])
    allowed_us, most_per_s = _slowest(plan, reference_us), _busiest(before)
    after = [w.mean_us for w in seen.latencies if w.rate_per_s <= most_per_s]
    figures: dict[str, Any] = {
        "incumbent_us": reference_us,
        "allowed_us": allowed_us,
        "windows": len(after),
        "set_aside": len(seen.latencies) - len(after),
    }
    if not after:
        words = "no window to compare latencies by"
        if figures["set_aside"]:
            words += f": in {figures['set_aside']} there was more than {RATE_RISE:g} times the incumbent's traffic"
        return BakeCheck("latency", Verdict.INCONCLUSIVE, words, figures)
    figures["median_us"] = float(np.median(after))
    said = f"latency {figures['median_us']:.0f} us against the incumbent's {reference_us:.0f} us"
    low, _ = _log_median(after, alpha)
    if low > math.log(allowed_us):
        return BakeCheck("latency", Verdict.FAILED, f"{said}, at most {allowed_us:.0f} us are allowed", figures)
    if len(after) >= FEWEST_WINDOWS and _log_median(after, ALPHA)[1] <= math.log(allowed_us):
        return BakeCheck("latency", Verdict.PASSED, said, figures)
    words = f"{said} in {len(after)} windows, which does not prove less than {allowed_us:.0f} us"
    return BakeCheck("latency", Verdict.INCONCLUSIVE, words, figures)


def _tail(plan: BakePlan, incumbent: Figures | None, seen: Figures, alpha: float) -> tuple[BakeCheck, ...]:
    """Nothing where the server keeps no quantiles: the evidence then holds ``null`` for them."""
    if seen.tails is None or (incumbent is not None and incumbent.tails is None):
        return ()
    before = () if incumbent is None else incumbent.tails or ()
    if incumbent is None or not before or incumbent.requests < FEWEST_REQUESTS or not incumbent.latencies:
        words = "the incumbent was asked too little before the switch to compare its slowest answers"
        return (BakeCheck("tail", Verdict.INCONCLUSIVE, words, {}),)
    allowed_us, most_per_s = _slowest(plan, before[-1].p99_us), _busiest(incumbent.latencies)
    after = [tail for tail in seen.tails if tail.rate_per_s <= most_per_s]
    answered = sum(tail.answered for tail in after)
    figures: dict[str, Any] = {
        "incumbent_p99_us": before[-1].p99_us,
        "allowed_us": allowed_us,
        "answered": answered,
        "set_aside": len(seen.tails) - len(after),
    }
    if not answered:
        return (BakeCheck("tail", Verdict.INCONCLUSIVE, "no answers to compare the slowest of", figures),)
    bounds = [(tail.answered, *_share_beyond(tail, allowed_us)) for tail in after]
    least, most = (sum(part[0] * part[side] for part in bounds) for side in (1, 2))
    figures |= {"p99_us": after[-1].p99_us, "least_beyond": least / answered, "most_beyond": most / answered}
    said = f"one answer in a hundred takes {after[-1].p99_us:.0f} us against the incumbent's {before[-1].p99_us:.0f} us"
    if rate_bound_below(int(least), answered, alpha=alpha) > TAIL:
        words = f"{said}: more than {_percent(TAIL)} take longer than {allowed_us:.0f} us"
        return (BakeCheck("tail", Verdict.FAILED, words, figures),)
    if rate_bound_above(math.ceil(most), answered, alpha=ALPHA) <= TAIL:
        return (BakeCheck("tail", Verdict.PASSED, said, figures),)
    words = f"{said}, which does not prove that at most {_percent(TAIL)} take longer than {allowed_us:.0f} us"
    return (BakeCheck("tail", Verdict.INCONCLUSIVE, words, figures),)


def _share_beyond(tail: TailQuantiles, limit_us: float) -> tuple[float, float]:
    """The least and the largest share of answers that took longer, as two quantiles tell."""
    if tail.p99_us <= limit_us:
        return 0.0, 0.01
    return (0.01, 0.05) if tail.p95_us <= limit_us else (0.05, 1.0)


def _slowest(plan: BakePlan, reference_us: float) -> float:
    """How long it may take what took the incumbent so long."""
    return max(reference_us * plan.latency_ratio, reference_us + plan.latency_floor_us)


def _busiest(before: Sequence[Window]) -> float:
    """How many requests a second still compare with the incumbent's."""
    return RATE_RISE * float(np.median([w.rate_per_s for w in before]))


def _log_median(values_us: Sequence[float], alpha: float) -> tuple[float, float]:
    """Bounds of the median of the logarithms, each with error `alpha`."""
    logs = np.log(np.maximum(values_us, 1e-3))[-MOST_VALUES:]
    found = median_interval(logs, alpha_low=alpha, alpha_high=alpha)
    return found.low, found.high


def _probes(plan: BakePlan, incumbent: Figures | None, seen: Figures, alpha: float) -> BakeCheck:
    probes = seen.probes
    before = None if incumbent is None else incumbent.probes
    allowed = _allowed(plan, 0, 0) if before is None else _allowed(plan, before.failed, before.asked)
    figures: dict[str, Any] = {"answered": probes.answered, "wrong": probes.wrong, "failed": probes.failed}
    said = f"{probes.answered} of {probes.asked} golden probes were answered rightly"
    if probes.wrong > plan.wrong_probes:
        words = f"{probes.wrong} of {probes.asked} golden probes were answered wrongly"
        return BakeCheck("probes", Verdict.FAILED, words, figures)
    if probes.asked and rate_bound_below(probes.failed, probes.asked, alpha=alpha) > allowed:
        words = f"{probes.failed} of {probes.asked} golden probes were not answered"
        return BakeCheck("probes", Verdict.FAILED, words, figures)
    if probes.answered >= FEWEST_PROBES and probes.failed <= allowed * probes.asked:
        return BakeCheck("probes", Verdict.PASSED, said, figures)
    return BakeCheck("probes", Verdict.INCONCLUSIVE, said, figures)


def _crashes(seen: Figures) -> BakeCheck:
    figures = {"crashes": seen.crashes}
    if seen.crashes:
        return BakeCheck("server", Verdict.FAILED, f"the server died {seen.crashes} times", figures)
    return BakeCheck("server", Verdict.PASSED, "the server lived", figures)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"
