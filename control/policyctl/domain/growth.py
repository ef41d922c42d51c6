"""How fast something grows, and how sure that is: memory, file descriptors, anything that should stay where it is.

Memory over time is more than a line with noise around it. It rises while everything
warms up, jumps by whole arenas, falls when garbage is collected, and each value
lies near the one before. So:

- the first part is dropped (warm-up);
- the rest is cut into blocks, and of each only its lowest value counts, which
  is what remains after a collection, and what a leak raises;
- the slope is Theil and Sen's median of the slopes of all pairs of blocks,
  which a few jumps do not move;
- its interval comes from resampling neighbouring steps from block to block, not
  from residuals: steps may add up as in a random walk, and an interval that
  takes them for independent noise would be far too narrow.

A staircase has a limit to what can be seen of it: where memory grows by a
quantum at a time, a run in which no step was seen still allows for three (the
95 % limit of a Poisson count of none). No bound is given that is below that.

Source: Sen (1968), Journal of the American Statistical Association 63, 1379;
block resampling: Künsch (1989), Annals of Statistics 17, 1217.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCKS: Final = 24
FEWEST_BLOCKS: Final = 12
WARM_UP: Final = 0.25
CONFIDENCE: Final = 0.95

_NEIGHBOURS: Final = 3
_RESAMPLES: Final = 2000
_UNSEEN_STEPS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Growth:
    """Growth per unit of `x`.

    Attributes:
        slope: The best estimate.
        low: The true one is above this.
        high: The true one is below this; not less than what the quantum allows to be seen.
        halves: The slope in each half by itself. What only warms up, or jumps once, has one that is near 0.
        span: How much of `x` was looked at, after the warm-up.
        blocks: How many.
        first: The first block's value.
        last: The last block's value.
    """

    slope: float
    low: float
    high: float
    halves: tuple[float, float]
    span: float
    blocks: int
    first: float
    last: float


def growth(x: ArrayLike, y: ArrayLike, *, quantum: float, seed: int = 0) -> Growth | None:
    """How `y` grows with `x`.

    Args:
        x: Increasing, for example requests answered so far, shape (n,).
        y: At the same times, shape (n,).
        quantum: The smallest step in which `y` grows.
        seed: Of the resampling; the same values always give the same answer.

    Returns:
        None where there are too few values to tell anything.

    Raises:
        ValueError: Shapes differ, or a value is not finite.
    """
    at, value = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if at.ndim != 1 or at.shape != value.shape or not (np.isfinite(at).all() and np.isfinite(value).all()):
        raise ValueError(f"expected two finite series of one length, found shapes {at.shape} and {value.shape}")
    if len(at) == 0 or at[-1] <= at[0]:
        return None
    kept = at >= at[0] + WARM_UP * (at[-1] - at[0])
    centres, floors = _floors(at[kept], value[kept])
    if len(centres) < FEWEST_BLOCKS:
        return None
    half = len(centres) // 2
    slopes = _resampled(centres, floors, np.random.default_rng(seed))
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = (float(v) for v in np.quantile(slopes, (tail, 1.0 - tail)))
    span = float(centres[-1] - centres[0])
    slope = theil_sen(centres, floors)
    return Growth(
        slope=slope,
        low=min(low, slope),
        high=max(high, slope, _UNSEEN_STEPS * quantum / span),
        halves=(theil_sen(centres[:half], floors[:half]), theil_sen(centres[half:], floors[half:])),
        span=span,
        blocks=len(centres),
        first=float(floors[0]),
        last=float(floors[-1]),
    )


def theil_sen(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Median of the slopes of all pairs; `x` has no two equal values."""
    one, other = np.triu_indices(len(x), k=1)
    return float(np.median((y[other] - y[one]) / (x[other] - x[one])))


def _floors(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The middle and the lowest value of each block; blocks are of equal width, those without a value are left out."""
    edges = np.linspace(x[0], x[-1], BLOCKS + 1)
    block = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, BLOCKS - 1)
    there = np.unique(block)
    middles = (edges[:-1] + edges[1:]) / 2.0
    return middles[there], np.array([y[block == b].min() for b in there])


def _resampled(x: NDArray[np.float64], y: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Slopes of series that are made of this one's own steps, shape (`_RESAMPLES`,)."""
    steps = np.diff(y) / np.diff(x)
    pieces = -(-len(steps) // _NEIGHBOURS)
    starts = rng.integers(0, len(steps), size=(_RESAMPLES, pieces))
    chosen = (starts[:, :, None] + np.arange(_NEIGHBOURS)) % len(steps)
    drawn = steps[chosen.reshape(_RESAMPLES, -1)[:, : len(steps)]] * np.diff(x)
    series = np.concatenate([np.zeros((_RESAMPLES, 1)), np.cumsum(drawn, axis=1)], axis=1)
    one, other = np.triu_indices(len(x), k=1)
    return np.asarray(np.median((series[:, other] - series[:, one]) / (x[other] - x[one]), axis=1), dtype=np.float64)
