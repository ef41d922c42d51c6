"""Where a metric changed for good, over the kept results of one model on one machine.

PELT (of the library ruptures) proposes the places, on the logarithm of the
metric, so that twice as slow counts as much as twice as quick; an exact rank
test then has to find the results on both sides of each place different. Single
slow runs are no change, and with too few results on either side nothing is said.

Source:
    Killick, Fearnhead & Eckley (2012), Optimal detection of changepoints with a
    linear computational cost. Mann & Whitney (1947).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from policyctl.errors import UnsupportedError

LEAST_EACH_SIDE: Final = 5
"""With five on each side the rank test can just reach `ALPHA`; with four it never does."""

ALPHA: Final = 0.01
_LEAST_NOISE: Final = 0.01
"""A hundredth: results that happen to agree better than that do not make a change out of nothing."""


@dataclass(frozen=True, slots=True)
class Change:
    """One place where a metric changed.

    Attributes:
        index: The first result after it.
        before: Median of the results since the change before.
        after: Median of the results up to the next one.
        ratio: `after` over `before`.
        p_value: Of the rank test, times the number of places proposed.
    """

    index: int
    before: float
    after: float
    ratio: float
    p_value: float


def change_points(values: Sequence[float]) -> tuple[Change, ...]:
    """Where `values` changed for good.

    Args:
        values: A metric, oldest first; positive and finite.

    Raises:
        ValueError: One is not positive and finite.
        UnsupportedError: ruptures is not installed.
    """
    series = np.asarray(values, dtype=np.float64)
    if not (np.isfinite(series) & (series > 0)).all():
        raise ValueError("expected positive, finite values")
    if len(series) < 2 * LEAST_EACH_SIDE:
        return ()
    places = _proposed(np.log(series))
    while places:
        changes = _tested(series, places)
        weakest = max(changes, key=lambda change: change.p_value)
        if weakest.p_value <= ALPHA:
            return changes
        # Its two sides become one, which is compared with its neighbours again.
        places.remove(weakest.index)
    return ()


def _tested(series: NDArray[np.float64], places: list[int]) -> tuple[Change, ...]:
    ends = [0, *places, len(series)]
    changes = []
    for before, at, after in zip(ends, ends[1:], ends[2:], strict=False):
        p_value = min(1.0, len(places) * _rank_test(series[before:at], series[at:after]))
        medians = float(np.median(series[before:at])), float(np.median(series[at:after]))
        changes.append(Change(at, *medians, medians[1] / medians[0], p_value))
    return tuple(changes)


def _proposed(logs: NDArray[np.float64]) -> list[int]:
    try:
        import ruptures
    except ImportError as error:
        raise UnsupportedError(
            "change points need ruptures, which is not installed", remedy="pip install 'policyctl[report]'"
        ) from error
    # The noise, robustly and without the changes themselves: from one result to the next.
    noise = max(float(np.median(np.abs(np.diff(logs)))) / (0.6745 * np.sqrt(2)), _LEAST_NOISE)
    search = ruptures.Pelt(model="l2", min_size=LEAST_EACH_SIDE, jump=1).fit((logs / noise)[:, None])
    ends: list[int] = search.predict(pen=4.0 * np.log(len(logs)))
    return ends[:-1]


def _rank_test(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(before, after, alternative="two-sided").pvalue)
