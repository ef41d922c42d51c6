"""Observation statistics as `VecNormalize` keeps them, without its environment.

The formula is ``clip((x - mean) / sqrt(var + epsilon), -clip_obs, clip_obs)``
in float64, then a cast to float32: what a policy was fed while it was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.manifest import digest_of
from policyctl.errors import UsageError
from policyctl.plain_files import open_named
from policyctl_exporters.inert_pickle import MOST_BYTES, read_inert
from policyctl_exporters.pickled_arrays import PickledArray, numbers
from policyctl_exporters.pickles import require_trust

FLAT = ""
"""Key of the observation of a space that is not a Dict."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and variance of one observation, each of the observation's shape.

    Attributes:
        count: How many observations they were computed from; None where nobody knows.
    """

    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    count: float | None = None

    @property
    def fresh(self) -> bool:
        """Whether they are what a new VecNormalize begins with."""
        return self.count is not None and self.count < 1 and not self.mean.any() and bool((self.var == 1).all())

    def without(self, batch: NDArray[Any]) -> Statistics | None:
        """What they were before they took in a batch, shape (n, *shape); None where that is unknown.

        Source:
            ``RunningMeanStd.update_from_moments``, solved for what it updates.
        """
        rows = len(batch)
        if self.count is None or self.count <= rows or batch.shape[1:] != self.mean.shape:
            return None
        count = self.count - rows
        mean = (self.mean * self.count - batch.sum(axis=0, dtype=np.float64)) / count
        shift = (batch.mean(axis=0, dtype=np.float64) - mean) ** 2 * count * rows / self.count
        var = (self.var * self.count - batch.var(axis=0, dtype=np.float64) * rows - shift) / count
        return Statistics(mean, np.maximum(var, 0.0), count)


@dataclass(frozen=True, slots=True)
class Normalizer:
    """What is done to an observation before the policy sees it.

    Attributes:
        statistics: By key of the Dict space, `FLAT` for any other space; a key
            that is absent passes unchanged.
        last: Raw observations that the statistics took in last, by key, each (environments, *shape), where known.
    """

    statistics: Mapping[str, Statistics]
    clip_obs: float
    epsilon: float
    last: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def one_step_before(self) -> Normalizer | None:
        """With the statistics before the last step; None where they are unknown."""
        before = {key: self.statistics[key].without(self.last[key]) for key in self.statistics if key in self.last}
        known = {key: statistics for key, statistics in before.items() if statistics is not None}
        return replace(self, statistics=known, last={}) if known.keys() == self.statistics.keys() else None

    def std(self, key: str) -> NDArray[np.float64]:
        """What the centred observation `key` is divided by."""
        return np.asarray(np.sqrt(self.statistics[key].var + self.epsilon), dtype=np.float64)

    def apply(self, key: str, values: NDArray[Any]) -> NDArray[Any]:
        """Normalise a batch of raw observations; unchanged where `key` has no statistics."""
        if key not in self.statistics:
            return values
        scaled = (values - self.statistics[key].mean) / self.std(key)
        return np.clip(scaled, -self.clip_obs, self.clip_obs).astype(np.float32)


def read_normalizer(source: Any, *, trust_pickle: bool) -> tuple[Normalizer | None, tuple[str, str] | None]:
    """Statistics of a `VecNormalize`, live or pickled, and its file name and digest; None if ``norm_obs=False``.

    Args:
        source: A `VecNormalize` (or anything with its attributes), the path of
            one that was saved, a `Normalizer`, or None.
        trust_pickle: A path is read only if this is True.

    Raises:
        UsageError: Not such an object, not readable, or not trusted.
    """
    if source is None or source is False:
        return None, None
    if isinstance(source, Normalizer):
        return source, None
    if not isinstance(source, str | Path):
        return normalizer_of(source, type(source).__name__), None
    path = Path(source)
    require_trust(path.name, trusted=trust_pickle)
    with open_named(path, most_bytes=MOST_BYTES) as file:
        content = file.read()
    return normalizer_of(read_inert(content, what=path.name), path.name), (path.name, digest_of(content))


def normalizer_of(source: Any, what: str) -> Normalizer | None:
    """Statistics of anything with the attributes of a `VecNormalize`; None where it leaves observations alone."""
    if getattr(source, "norm_obs", None) is False:
        return None
    try:
        rms, clip_obs, epsilon = source.obs_rms, float(source.clip_obs), float(source.epsilon)
        if isinstance(rms, Mapping):
            keys = getattr(source, "norm_obs_keys", None) or list(rms)
            statistics = {str(key): _statistics(rms[key]) for key in keys}
        else:
            statistics = {FLAT: _statistics(rms)}
        last = arrays_of(getattr(source, "old_obs", None))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{what} is not a VecNormalize: {error}",
            remedy="Pass what VecNormalize.save() wrote, or the VecNormalize object itself.",
        ) from error
    return Normalizer(statistics, clip_obs=clip_obs, epsilon=epsilon, last=last)


def _statistics(rms: Any) -> Statistics:
    mean = np.array(numbers(rms.mean), dtype=np.float64)
    var = np.array(numbers(rms.var), dtype=np.float64)
    if mean.shape != var.shape:
        raise ValueError(f"its mean has shape {mean.shape}, its variance {var.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()):
        raise ValueError("its mean or variance is not finite, or the variance is negative")
    count = getattr(rms, "count", None)
    return Statistics(mean, var, None if count is None else float(count))


def arrays_of(value: Any) -> dict[str, NDArray[Any]]:
    """A batch of observations by key, `FLAT` where it is one array; empty for None."""
    if value is None:
        return {}
    parts = value if isinstance(value, Mapping) else {FLAT: value}
    if not all(isinstance(part, np.ndarray | PickledArray) for part in parts.values()):
        raise ValueError("observations are no arrays")
    found = {str(key): np.asarray(part) for key, part in parts.items()}
    if any(part.dtype.kind not in "biuf" or not part.ndim for part in found.values()):
        raise ValueError("observations are no batch of numbers")
    return found
