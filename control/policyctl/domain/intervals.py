"""Intervals of a mean and of a paired difference, by resampling.

Returns of episodes are few, skewed and bounded, so nothing here assumes a
normal distribution.

Source:
    Percentile bootstrap: Efron & Tibshirani, An Introduction to the Bootstrap
    (1993), chapter 13.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_RESAMPLES = 10_000
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where the true one lies.

    Attributes:
        confidence: How often such an interval covers the true mean.
    """

    mean: float
    low: float
    high: float
    confidence: float
    count: int


def mean_with_interval(values: ArrayLike, *, confidence: float = 0.95, rng: np.random.Generator) -> Interval:
    """Bootstrap interval of the mean of `values`.

    Args:
        values: Shape (n,), n >= 2, finite.
        rng: Source of the resamples; pass a seeded one to reproduce the interval.

    Raises:
        ValueError: Fewer than two values, one that is not finite, or a
            confidence outside (0, 1).
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < 2:
        raise ValueError(f"expected at least two values, found shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise ValueError("expected finite values")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}, expected between 0 and 1")
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(_resampled_means(sample, rng), (tail, 100.0 - tail))
    return Interval(float(sample.mean()), float(low), float(high), confidence, len(sample))


def paired_difference(
    incumbent: ArrayLike, candidate: ArrayLike, *, confidence: float = 0.95, rng: np.random.Generator
) -> Interval:
    """Bootstrap interval of the mean of candidate minus incumbent, pair by pair.

    Args:
        incumbent: Shape (n,), n >= 2: one value for each seed.
        candidate: The same seeds in the same order, shape (n,).

    Raises:
        ValueError: Shapes differ, or as `mean_with_interval`.
    """
    before, after = np.asarray(incumbent, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if before.shape != after.shape:
        raise ValueError(f"shapes differ: {before.shape} and {after.shape}")
    return mean_with_interval(after - before, confidence=confidence, rng=rng)


def _resampled_means(sample: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """In pieces, so that a large sample does not take gigabytes."""
    rows = max(1, _CHUNK_BYTES // (8 * len(sample)))
    means = [
        sample[rng.integers(0, len(sample), size=(min(rows, _RESAMPLES - done), len(sample)))].mean(axis=1)
        for done in range(0, _RESAMPLES, rows)
    ]
    return np.concatenate(means)
