"""Gymnasium's spaces out of what a person typed; see `policyctl.domain.space_text`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policyctl.domain.space_text import SpaceKind, SpaceText


def observation_space(named: Mapping[str, SpaceText]) -> Any:
    """One space where it has no name, else a Dict space."""
    from gymnasium import spaces

    if "" in named:
        return space_of(named[""])
    return spaces.Dict({name: space_of(text) for name, text in named.items()})


def space_of(text: SpaceText) -> Any:
    """The space that a text says."""
    from gymnasium import spaces

    match text.kind:
        case SpaceKind.DISCRETE:
            return spaces.Discrete(int(text.high[0] - text.low[0] + 1), start=int(text.low[0]))
        case SpaceKind.MULTI_DISCRETE:
            low, high = (np.array(bound, dtype=np.int64) for bound in (text.low, text.high))
            return spaces.MultiDiscrete(high - low + 1, start=low)
        case SpaceKind.MULTI_BINARY:
            return spaces.MultiBinary(text.shape[0] if len(text.shape) == 1 else list(text.shape))
    low, high = (_filled(bound, text) for bound in (text.low, text.high))
    return spaces.Box(low, high, dtype=np.dtype(text.dtype).type)


def _filled(bound: tuple[float, ...], text: SpaceText) -> Any:
    values = np.array(bound, dtype=text.dtype)
    return np.full(text.shape, values[0]) if len(bound) == 1 else values.reshape(text.shape)
