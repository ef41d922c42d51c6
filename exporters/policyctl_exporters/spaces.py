"""From gymnasium spaces to the contract's tensors.

A space says what an environment gives or takes; a contract says what a served
model does. The two differ in that a contract has no scalars (a discrete space
has shape ``(1,)``) and names every tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import ACTION, ActionKind
from policyctl.domain.tensor import Bound, TensorSpec, bound_of
from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters.inert_pickle import Inert
from policyctl_exporters.normalizer import FLAT, Normalizer
from policyctl_exporters.pickled_arrays import PickledArray, dtype_of
from policyctl_exporters.tensor_names import OUTPUT_NAMES, observation_name

FeatureNames = Sequence[str] | Mapping[str, Sequence[str]] | None


@dataclass(frozen=True, slots=True)
class Observation:
    """One input: where it stands in the space, and what the contract says of it.

    Attributes:
        key: Key of the Dict space, `FLAT` for any other space.
        space: The gymnasium space of this one input.
        spec: The contract's tensor.
    """

    key: str
    space: Any
    spec: TensorSpec

    def from_served(self, batch: NDArray[Any]) -> NDArray[Any]:
        """A batch of shape (n, *spec.shape) in the shape that the space has, (n, *space.shape).

        Raises:
            UsageError: It has another shape, as an image of the other layout has.
        """
        if batch.shape[1:] != self.spec.shape:
            raise UsageError(
                f"{self.spec.name} has shape {batch.shape}, expected (n, {', '.join(map(str, self.spec.shape))})"
            )
        return batch.reshape(batch.shape[0], *self.space.shape)


def rebuild_space(pickled: Any, *, what: str) -> Any:
    """A fresh gymnasium space from what a pickle said of an old one.

    Args:
        pickled: A stand-in for a space of any version of gym or gymnasium, or
            a space itself.
        what: Which space, for messages.

    Raises:
        UnsupportedError: A kind of space that no policy here can have.
        UsageError: An attribute without which it cannot be rebuilt is missing.
    """
    from gymnasium import spaces

    if not isinstance(pickled, Inert):
        if isinstance(pickled, spaces.Space):
            return pickled
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
            sizes = np.atleast_1d(np.asarray(state["n"], dtype=np.int64))
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


def observations_of(
    space: Any, *, normalizer: Normalizer | None = None, feature_names: FeatureNames = None
) -> tuple[Observation, ...]:
    """The inputs of a policy over `space`, in the order in which artifacts take them.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or a flat Dict of these.
        normalizer: Its keys and shapes must fit the space.
        feature_names: One name an element, C order; a mapping by tensor name
            where there is more than one input.

    Raises:
        UnsupportedError: Another kind of space.
        UsageError: Names or statistics that do not fit.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        taken: set[str] = set(OUTPUT_NAMES)
        items = [(key, sub, observation_name(key, taken)) for key, sub in space.spaces.items()]
    else:
        items = [(FLAT, space, "observation")]
    if isinstance(feature_names, Mapping):
        if unknown := set(feature_names) - {name for _, _, name in items}:
            raise UsageError(
                f"feature names for {', '.join(sorted(unknown))}, which the contract does not have",
                remedy=f"The observations are {', '.join(name for _, _, name in items)}.",
            )
        names: Mapping[str, Sequence[str]] = feature_names
    else:
        if feature_names and len(items) > 1:
            raise UsageError("one list of feature names for several observations: name them by observation")
        names = {items[0][2]: feature_names or ()} if items else {}
    _check_statistics(normalizer, {key: sub for key, sub, _ in items})
    return tuple(
        Observation(key, sub, _input_spec(name, key, sub, normalizer, tuple(names.get(name, ()))))
        for key, sub, name in items
    )


def scales_of(
    observations: Sequence[Observation], normalizer: Normalizer | None
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Mean and standard deviation of each input that is normalised, by tensor name."""
    if normalizer is None:
        return {}
    return {
        obs.spec.name: (normalizer.statistics[obs.key].mean, normalizer.std(obs.key))
        for obs in observations
        if obs.key in normalizer.statistics
    }


def action_of(space: Any, *, start: bool = True) -> tuple[ActionKind, TensorSpec]:
    """Kind and tensor of the action that `space` asks for.

    Args:
        space: Box of floats, Discrete, MultiDiscrete (one row) or MultiBinary (one row).
        start: Whether a discrete action counts from the space's ``start``.
            Stable-Baselines3 always counts from 0, whatever the space says.

    Raises:
        UnsupportedError: Another kind of space.
    """
    from gymnasium import spaces

    match space:
        case spaces.Box() if np.issubdtype(space.dtype, np.floating):
            low, high = float32_inside(space)
            spec = TensorSpec(ACTION, "float32", space.shape or (1,), *_bounds(low, high))
            return ActionKind.CONTINUOUS, spec
        case spaces.Discrete():
            first = int(space.start) if start else 0
            return ActionKind.DISCRETE, TensorSpec(ACTION, "int64", (1,), float(first), float(first + int(space.n) - 1))
        case spaces.MultiDiscrete() if len(space.shape) == 1:
            firsts = space.start if start else np.zeros_like(space.start)
            spec = TensorSpec(ACTION, "int64", space.shape, *_bounds(firsts, firsts + space.nvec - 1))
            return ActionKind.MULTI_DISCRETE, spec
        case spaces.MultiBinary() if len(space.shape) == 1:
            return ActionKind.MULTI_BINARY, TensorSpec(ACTION, "int64", space.shape, 0.0, 1.0)
    raise UnsupportedError(
        f"action space {space} is not supported",
        remedy="Use Box of floats, Discrete, or MultiDiscrete or MultiBinary with one dimension.",
    )


def float32_inside(space: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bounds of a Box as float32 that never lie outside its own."""
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    below, above = low < space.low, high > space.high
    low = np.where(below, np.nextafter(low, np.float32(np.inf)), low)
    high = np.where(above, np.nextafter(high, np.float32(-np.inf)), high)
    return low.astype(np.float32), high.astype(np.float32)


def _input_spec(
    name: str, key: str, space: Any, normalizer: Normalizer | None, features: tuple[str, ...]
) -> TensorSpec:
    from gymnasium import spaces

    match space:
        case spaces.Box():
            low, high = space.low, space.high
            if normalizer is not None and _is_normalized_image(space, normalizer) and key in normalizer.statistics:
                # VecNormalize replaces an image space by its own output range, but the
                # input here is what comes before it.
                low, high = np.full(space.shape, -np.inf), np.full(space.shape, np.inf)
            return TensorSpec(name, str(space.dtype), space.shape or (1,), *_bounds(low, high), features)
        case spaces.Discrete():
            low, high = float(space.start), float(space.start + space.n - 1)
            return TensorSpec(name, "int64", (1,), low, high, features)
        case spaces.MultiDiscrete() if len(space.shape) == 1:
            bounds = _bounds(space.start, space.start + space.nvec - 1)
            return TensorSpec(name, str(space.dtype), space.shape, *bounds, features)
        case spaces.MultiBinary():
            return TensorSpec(name, "int8", space.shape, 0.0, 1.0, features)
    raise UnsupportedError(
        f"observation space {space} is not supported",
        remedy="Use Box, Discrete, MultiDiscrete with one dimension, MultiBinary, or a Dict of these.",
    )


def _bounds(low: NDArray[Any], high: NDArray[Any]) -> tuple[Bound, Bound]:
    # Old environments spell "unbounded" as the largest float32.
    lows, highs = (np.asarray(b, dtype=np.float64).reshape(-1) for b in (low, high))
    limit = float(np.finfo(np.float32).max)
    lows, highs = np.where(lows <= -limit, -np.inf, lows), np.where(highs >= limit, np.inf, highs)
    return (
        bound_of(lows.tolist(), unbounded=-np.inf),
        bound_of(highs.tolist(), unbounded=np.inf),
    )


def _is_normalized_image(space: Any, normalizer: Normalizer) -> bool:
    clip = np.float32(normalizer.clip_obs)
    return len(space.shape) == 3 and bool(np.all(space.low == -clip) and np.all(space.high == clip))


def _check_statistics(normalizer: Normalizer | None, inputs: Mapping[str, Any]) -> None:
    if normalizer is None:
        return
    for key, statistics in normalizer.statistics.items():
        if key not in inputs:
            raise UsageError(
                f"the normalizer has statistics for {key or 'one array'!r},"
                f" the policy's observations are {', '.join(k or 'one array' for k in inputs)}",
                remedy="Pass statistics of what the policy observes.",
            )
        if statistics.mean.shape != inputs[key].shape:
            raise UsageError(
                f"the normalizer's statistics have shape {statistics.mean.shape},"
                f" the observation {key or 'observation'} has {inputs[key].shape}",
                remedy=_other_shape(statistics.mean.shape, inputs[key].shape),
            )


def _other_shape(normalized: tuple[int, ...], observed: tuple[int, ...]) -> str:
    frames, rest = divmod(observed[-1], normalized[-1]) if normalized and observed else (0, 1)
    if observed[:-1] == normalized[:-1] and rest == 0 and frames > 1:
        # The frames before an episode's first are zeros after normalising, and no raw observation gives those.
        return (
            f"The policy observes {frames} frames that VecFrameStack stacked after VecNormalize. Such a policy cannot"
            " be exported; train with VecNormalize around VecFrameStack."
        )
    return "Pass statistics of what the policy observes."
