"""What paired measurements prove: exact intervals of a median, looks that are paid for, several metrics at once.

Nothing here assumes a normal distribution or a large sample: latencies have
neither. The interval is Wilcoxon's, whose coverage is exact for every sample
size as long as the paired differences are symmetric about their median, as
they are where a coin decides which side of a pair goes first. Two others were
tried on known distributions (``docs/decisions/what-the-gates-find.md``): the bootstrap
of the median misses twice as often as it says at 12 pairs, and the
order-statistic interval finds the same shift less often everywhere. What no
coin removes (two processes of one release are not equally fast) is measured:
`services.experiments.calibrate`.

Looking more than once costs error probability. Each look is given a part of it
beforehand (`spent`), and the parts are added up as if looks were unrelated,
which makes the sum a bound whatever the dependence between looks is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policyctl.domain.json_values import fields_to_json

MOST_VALUES: Final = 1000
"""Beyond this the exact distribution is not worth its time."""

MOST_HITS: Final = 200
"""Beyond this the exact bounds of a rate are not worth their time."""

_SPENDING_POWER: Final = 2.0


@dataclass(frozen=True, slots=True)
class MedianInterval:
    """A median and where the true one lies.

    Attributes:
        median: Hodges and Lehmann's estimate.
        low: The true median is below this with probability `alpha_low` at most; -inf for too few values.
        high: The true median is above this with probability `alpha_high` at most; inf for too few values.
        alpha_low: See `low`.
        alpha_high: See `high`.
        count: Size of the sample.
    """

    median: float
    low: float
    high: float
    alpha_low: float
    alpha_high: float
    count: int

    def to_json(self) -> dict[str, Any]:
        """A JSON object; an end that is not finite is null."""
        fields = fields_to_json(self)
        return {key: None if math.isinf(value) else value for key, value in fields.items()}


def median_interval(values: ArrayLike, *, alpha_low: float, alpha_high: float) -> MedianInterval:
    """Exact interval of the median of a symmetric distribution.

    Args:
        values: Independent, shape (n,), 1 <= n <= `MOST_VALUES`, finite.
        alpha_low: How often the lower end may lie above the median, in (0, 0.5].
        alpha_high: How often the upper end may lie below it, in (0, 0.5].

    Raises:
        ValueError: Too few or too many values, one that is not finite, or an alpha outside its range.

    Source:
        Wilcoxon signed-rank interval: Hollander, Wolfe & Chicken,
        Nonparametric Statistical Methods (2014), sections 3.1 to 3.3.
    """
    sample = _checked(values)
    for name, alpha in (("alpha_low", alpha_low), ("alpha_high", alpha_high)):
        if not 0.0 < alpha <= 0.5:
            raise ValueError(f"{name} is {alpha}, expected above 0 and at most 0.5")
    averages = np.sort(_walsh_averages(sample))
    below, above = (_rank(len(sample), alpha) for alpha in (alpha_low, alpha_high))
    return MedianInterval(
        median=float(np.median(averages)),
        low=float(averages[below - 1]) if below else -math.inf,
        high=float(averages[-above]) if above else math.inf,
        alpha_low=alpha_low,
        alpha_high=alpha_high,
        count=len(sample),
    )


def p_value_above(values: ArrayLike, *, limit: float) -> float:
    """How likely values this far above `limit` are, if their median is `limit` or less.

    It is at most alpha exactly where `median_interval(..., alpha_low=alpha)`
    has its lower end above `limit`.

    Args:
        values: As `median_interval` takes them.
        limit: What the median is held against.

    Raises:
        ValueError: As `median_interval`.
    """
    sample = _checked(values)
    averages = _walsh_averages(sample)
    not_above = int((averages <= limit).sum())
    return float(_signed_rank_cdf(len(sample))[not_above])


def spent(fraction: float, *, alpha: float) -> float:
    """How much of the error probability may be used up by looks until `fraction` of the time has gone.

    Quadratic: early looks get little, so the last one keeps most of its power,
    yet a plain case ends early.

    Args:
        fraction: Of the time cap, in [0, 1]; more counts as 1.
        alpha: The whole probability.

    Raises:
        ValueError: `fraction` is negative or not a number.

    Source:
        Power family of Kim & DeMets (1987), Biometrika 74, 149-154; spending by
        calendar time: Lan & DeMets (1989), Biometrics 45, 1017-1020.
    """
    if not fraction >= 0.0:
        raise ValueError(f"fraction is {fraction}, expected 0 or more")
    return float(alpha * min(1.0, fraction) ** _SPENDING_POWER)


def holm(p_values: Mapping[str, float], *, alpha: float) -> tuple[str, ...]:
    """The hypotheses that are rejected, with probability `alpha` at most of rejecting any true one.

    Args:
        p_values: By name; the order does not matter.
        alpha: Family-wise.

    Returns:
        Names, the smallest p-value first.

    Source:
        Holm (1979), Scandinavian Journal of Statistics 6, 65-70.
    """
    rejected: list[str] = []
    for name, p_value in sorted(p_values.items(), key=lambda item: item[1]):
        if p_value > alpha / (len(p_values) - len(rejected)):
            break
        rejected.append(name)
    return tuple(rejected)


def binomial_interval(hits: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a rate that was seen as `hits` of `trials`, between both bounds below.

    Raises:
        ValueError: Counts that cannot be, or a confidence outside (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}, expected between 0 and 1")
    tail = (1.0 - confidence) / 2.0
    return rate_bound_below(hits, trials, alpha=tail), rate_bound_above(hits, trials, alpha=tail)


def rate_bound_below(hits: int, trials: int, *, alpha: float) -> float:
    """The true rate is below this with probability `alpha` at most.

    Exact for up to `MOST_HITS` hits; beyond, where adding up the distribution
    takes long, the bound of Hoeffding, which is a little further off and never
    wrong more often.

    Args:
        hits: How often it was seen.
        trials: Of how many; at least 1.
        alpha: In (0, 0.5].

    Raises:
        ValueError: Counts that cannot be, or an alpha outside its range.

    Source:
        Clopper & Pearson (1934), Biometrika 26, 404-413; Hoeffding (1963),
        Journal of the American Statistical Association 58, 13-30, theorem 1.
    """
    if not 0 <= hits <= trials or trials < 1:
        raise ValueError(f"{hits} of {trials} cannot be")
    if not 0.0 < alpha <= 0.5:
        raise ValueError(f"alpha is {alpha}, expected above 0 and at most 0.5")
    if hits == 0:
        return 0.0
    if hits <= MOST_HITS:
        return _bisect(lambda rate: 1.0 - _binomial_cdf(hits - 1, trials, rate) - alpha)
    seen, limit = hits / trials, -math.log(alpha) / trials
    # The divergence falls towards `seen`: below the bound it is more than the limit allows.
    return seen * _bisect(lambda part: limit - _divergence(seen, seen * part))


def rate_bound_above(hits: int, trials: int, *, alpha: float) -> float:
    """The true rate is above this with probability `alpha` at most; see `rate_bound_below`.

    Raises:
        ValueError: As `rate_bound_below`.
    """
    if not 0 <= hits < trials or hits > MOST_HITS or not 0.0 < alpha <= 0.5:
        return 1.0 - rate_bound_below(trials - hits, trials, alpha=alpha)
    return _bisect(lambda rate: alpha - _binomial_cdf(hits, trials, rate))


def _divergence(seen: float, rate: float) -> float:
    """Kullback and Leibler's, of a coin that shows `seen` from one that shows `rate`."""
    if rate <= 0.0 or rate >= 1.0:
        return 0.0 if seen == rate else math.inf
    one = seen * math.log(seen / rate) if seen else 0.0
    other = (1.0 - seen) * math.log((1.0 - seen) / (1.0 - rate)) if seen < 1.0 else 0.0
    return one + other


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not 1 <= len(sample) <= MOST_VALUES:
        raise ValueError(f"expected 1 to {MOST_VALUES} values, found shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise ValueError("expected finite values")
    return sample


def _walsh_averages(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of all pairs of values, each with itself as well, shape (n (n + 1) / 2,)."""
    one, other = np.triu_indices(len(sample))
    averages: NDArray[np.float64] = (sample[one] + sample[other]) / 2.0
    return averages


def _rank(count: int, alpha: float) -> int:
    """How many of the outermost Walsh averages may lie outside a bound with error `alpha`."""
    return int(np.searchsorted(_signed_rank_cdf(count), alpha, side="right"))


@functools.lru_cache(maxsize=256)
def _signed_rank_cdf(count: int) -> NDArray[np.float64]:
    """Distribution function of Wilcoxon's signed-rank statistic, shape (n (n + 1) / 2 + 1,)."""
    mass = np.zeros(count * (count + 1) // 2 + 1)
    mass[0] = 1.0
    for rank in range(1, count + 1):
        shifted = np.zeros_like(mass)
        shifted[rank:] = mass[:-rank]
        mass = (mass + shifted) / 2.0
    return np.minimum(1.0, np.cumsum(mass))


def _binomial_cdf(hits: int, trials: int, rate: float) -> float:
    if rate <= 0.0 or rate >= 1.0:
        return float(rate <= 0.0 or hits >= trials)
    terms = (
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(rate)
        + (trials - k) * math.log1p(-rate)
        for k in range(hits + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def _bisect(rising: Any) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (low, middle) if rising(middle) > 0.0 else (middle, high)
    return (low + high) / 2.0
