"""From gymnasium spaces to the contract's tensors.

A space says what an environment gives or takes; a contract says what a served
model does. The two differ in that a contract has no scalars (a discrete space
has shape ``(1,)``) and names every tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import ACTION, ActionKind
from policyctl.domain.tensor import Bound, TensorSpec, bound_of
from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters.normalizer import FLAT, Normalizer
from policyctl_exporters.pickles import Inert

FeatureNames = Sequence[str] | Mapping[str, Sequence[str]] | None

OUTPUT_NAMES: Final = (ACTION, "logits", "q_values", "mean", "log_std")


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
        """A batch of shape (n, *spec.shape) in the shape that the space has, (n, *space.shape)."""
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
        match kind:
            case "Box":
                low, high = np.asarray(state["low"]), np.asarray(state["high"])
                return spaces.Box(low, high, shape=low.shape, dtype=np.dtype(state.get("dtype") or low.dtype))
            case "Discrete":
                return spaces.Discrete(int(state["n"]), start=int(state.get("start", 0)))
            case "MultiDiscrete":
                return spaces.MultiDiscrete(np.asarray(state["nvec"]), start=state.get("start"))
            case "MultiBinary":
                n = state["n"]
                return spaces.MultiBinary(int(n) if np.ndim(n) == 0 else [int(d) for d in n])
            case "Dict":
                inner = {str(k): rebuild_space(v, what=f"{what}[{k}]") for k, v in state["spaces"].items()}
                return spaces.Dict(inner)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"{what}: the pickled {kind} cannot be rebuilt ({error!r})") from error
    raise UnsupportedError(f"{what}: spaces of kind {pickled.origin} are not supported")


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
        items = [(key, sub, _tensor_name(key, taken)) for key, sub in space.spaces.items()]
    else:
        items = [(FLAT, space, "observation")]
    if isinstance(feature_names, Mapping):
        if unknown := set(feature_names) - {name for _, _, name in items}:
            raise UsageError(
                f"feature names for {', '.join(sorted(unknown))}, which is no observation",
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


def _tensor_name(key: str, taken: set[str]) -> str:
    name = re.sub(r"[^A-Za-z0-9_]", "_", str(key))
    name = (name if name[:1].isalpha() else f"obs_{name}")[:60]
    if name in taken and f"obs_{name}" not in taken:
        name = f"obs_{name}"
    if name in taken:
        raise UsageError(
            f"observation key {key!r} collides with another tensor's name {name!r}",
            remedy="Rename the key: letters, digits and '_', beginning with a letter.",
        )
    taken.add(name)
    return name


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
                f"the normalizer has statistics for {key or 'a flat observation'!r},"
                f" the policy's observations are {', '.join(k or 'flat' for k in inputs)}",
                remedy="Pass the VecNormalize that this very policy was trained with.",
            )
        if statistics.mean.shape != inputs[key].shape:
            raise UsageError(
                f"the normalizer's statistics have shape {statistics.mean.shape},"
                f" the observation {key or 'observation'} has {inputs[key].shape}",
                remedy="Pass the VecNormalize that this very policy was trained with.",
            )
