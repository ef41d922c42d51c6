"""Observation statistics as `VecNormalize` keeps them, without its environment.

The formula is ``clip((x - mean) / sqrt(var + epsilon), -clip_obs, clip_obs)``
in float64, then a cast to float32: what a policy was fed while it was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.errors import UsageError
from policyctl_exporters.pickles import read_inert, require_trust

FLAT = ""
"""Key of the observation of a space that is not a Dict."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and variance of one observation, each of the observation's shape."""

    mean: NDArray[np.float64]
    var: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Normalizer:
    """What is done to an observation before the policy sees it.

    Attributes:
        statistics: By key of the Dict space, `FLAT` for any other space; a key
            that is absent passes unchanged.
        clip_obs: Normalised values are cut off here.
        epsilon: Added to the variance.
    """

    statistics: Mapping[str, Statistics]
    clip_obs: float
    epsilon: float

    def std(self, key: str) -> NDArray[np.float64]:
        """What the centred observation `key` is divided by."""
        return np.asarray(np.sqrt(self.statistics[key].var + self.epsilon), dtype=np.float64)

    def apply(self, key: str, values: NDArray[Any]) -> NDArray[Any]:
        """Normalise a batch of raw observations; unchanged where `key` has no statistics."""
        if key not in self.statistics:
            return values
        scaled = (values - self.statistics[key].mean) / self.std(key)
        return np.clip(scaled, -self.clip_obs, self.clip_obs).astype(np.float32)


def read_normalizer(source: Any, *, trust_pickle: bool) -> tuple[Normalizer | None, str | None]:
    """Statistics of a `VecNormalize`, live or pickled, and the pickle's file name.

    Args:
        source: A `VecNormalize` (or anything with its attributes), the path of
            one that was saved, a `Normalizer`, or None.
        trust_pickle: A path is read only if this is True.

    Returns:
        None for the statistics where there are none, or where observations
        were left alone (``norm_obs=False``).

    Raises:
        UsageError: Not such an object, not readable, or not trusted.
    """
    if source is None or source is False:
        return None, None
    if isinstance(source, Normalizer):
        return source, None
    if not isinstance(source, str | Path):
        return _from_attributes(source, type(source).__name__), None
    path = Path(source)
    require_trust(path.name, trusted=trust_pickle)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: the normalizer cannot be read ({error.strerror})") from error
    return _from_attributes(read_inert(content, what=path.name), path.name), path.name


def _from_attributes(source: Any, what: str) -> Normalizer | None:
    if getattr(source, "norm_obs", None) is False:
        return None
    try:
        rms, clip_obs, epsilon = source.obs_rms, float(source.clip_obs), float(source.epsilon)
        if isinstance(rms, Mapping):
            keys = getattr(source, "norm_obs_keys", None) or list(rms)
            statistics = {str(key): _statistics(rms[key]) for key in keys}
        else:
            statistics = {FLAT: _statistics(rms)}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{what} is not a VecNormalize: {error}",
            remedy="Pass what VecNormalize.save() wrote, or the VecNormalize object itself.",
        ) from error
    return Normalizer(statistics, clip_obs=clip_obs, epsilon=epsilon)


def _statistics(rms: Any) -> Statistics:
    mean = np.array(rms.mean, dtype=np.float64)
    var = np.array(rms.var, dtype=np.float64)
    if mean.shape != var.shape:
        raise ValueError(f"its mean has shape {mean.shape}, its variance {var.shape}")
    return Statistics(mean, var)
