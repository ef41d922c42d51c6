"""Gymnasium's spaces out of what a person typed (`policyctl.domain.space_text`), or of an old pickled one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from policyctl.domain.space_text import SpaceKind, SpaceText
from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters.inert_pickle import Inert
from policyctl_exporters.pickled_arrays import PickledArray, dtype_of, numbers


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


def rebuild_space(pickled: Any, *, what: str) -> Any:
    """A fresh gymnasium space from the stand-in for a space of any version of gym or gymnasium."""
    from gymnasium import spaces

    if not isinstance(pickled, Inert):
        raise UsageError(f"{what}: expected a space, found {type(pickled).__name__}")
    kind, state = pickled.origin.rpartition(".")[2], vars(pickled)
    try:
        if kind == "Dict":
            inner = {str(key): _rebuild_flat(value, f"{what}[{key}]") for key, value in state["spaces"].items()}
            return spaces.Dict(inner)
        return _rebuild_flat(pickled, what)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, AssertionError) as error:
        raise UsageError(f"{what}: the pickled {kind} cannot be rebuilt ({type(error).__name__}: {error})") from error


def _rebuild_flat(pickled: Any, what: str) -> Any:
    """A space that holds no others; policies take no deeper ones."""
    from gymnasium import spaces

    origin = pickled.origin if isinstance(pickled, Inert) else type(pickled).__name__
    state = vars(pickled) if isinstance(pickled, Inert) else {}
    match origin.rpartition(".")[2]:
        case "Box":
            low, high = np.asarray(_array(state["low"])), np.asarray(_array(state["high"]))
            dtype = low.dtype if state.get("dtype") is None else dtype_of(state["dtype"])
            return spaces.Box(low, high, shape=low.shape, dtype=dtype.type)
        case "Discrete":
            return spaces.Discrete(_count(state["n"]), start=int(state.get("start", 0)))
        case "MultiDiscrete":
            start = state.get("start")
            counts = np.asarray(_array(state["nvec"]))
            _count(counts.astype(np.float64).sum())
            return spaces.MultiDiscrete(counts, start=None if start is None else np.asarray(_array(start)))
        case "MultiBinary":
            sizes = np.atleast_1d(np.asarray(numbers(state["n"]), dtype=np.int64))
            _count(np.prod(sizes.astype(np.float64)))
            return spaces.MultiBinary(int(sizes[0]) if np.ndim(state["n"]) == 0 else [int(size) for size in sizes])
    raise UnsupportedError(f"{what}: spaces of kind {origin} are not supported")


def _array(value: Any) -> PickledArray:
    if not isinstance(value, PickledArray):
        raise TypeError(f"found {type(value).__name__}, expected an array")
    return value


_MOST_CHOICES: Final = 1 << 24


def _count(number: Any) -> int:
    """A size that a pickle only names; what it names is allocated later."""
    if not 0 < number <= _MOST_CHOICES:
        raise ValueError(f"a size is {number}, expected 1 to {_MOST_CHOICES}")
    return int(number)
