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

from policyctl.domain.contract import ACTION, PARAMETERS, ActionKind
from policyctl.domain.tensor import Bound, Role, TensorSpec, bound_of
from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters.normalizer import FLAT, Normalizer

FeatureNames = Sequence[str] | Mapping[str, Sequence[str]] | None

OUTPUT_NAMES: Final = (ACTION, *PARAMETERS)
"""Outputs whose name says what they are."""

_LONGEST: Final = 60
_ACTION_MASK: Final = re.compile(r"action_?masks?")


@dataclass(frozen=True, slots=True)
class Observation:
    """One input: where it stands in the space, and what the contract says of it.

    Attributes:
        key: Key of the Dict space, `FLAT` for any other space.
    """

    key: str
    space: Any
    spec: TensorSpec

    def from_served(self, batch: NDArray[Any]) -> NDArray[Any]:
        """A batch of shape (n, *spec.shape) in the shape that the space has, (n, *space.shape)."""
        if batch.shape[1:] != self.spec.shape:
            raise UsageError(
                f"{self.spec.name} has shape {batch.shape}, expected (n, {', '.join(map(str, self.spec.shape))})"
            )
        return batch.reshape(batch.shape[0], *self.space.shape)


def observations_of(
    space: Any, *, normalizer: Normalizer | None = None, feature_names: FeatureNames = None
) -> tuple[Observation, ...]:
    """The inputs of a policy over `space`, in the order in which artifacts take them.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or a flat Dict of these.
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


def legal_name(name: str, prefix: str = "obs") -> str:
    """`name` with what no tensor's name may hold replaced; where no letter is in front, `prefix` comes before it."""
    name = _plain(str(name))
    return (name if name[:1].isalpha() else f"{prefix}_{name}")[:_LONGEST]


def observation_name(key: str, taken: set[str]) -> str:
    """What the observation of a Dict space is called; `taken` holds the others, and gets this one."""
    name = legal_name(key)
    if name in taken and f"obs_{name}" not in taken:
        name = f"obs_{name}"
    if name in taken:
        raise UsageError(
            f"observation key {key!r} collides with another tensor's name {name!r}",
            remedy="Rename the key: letters, digits and '_', beginning with a letter.",
        )
    taken.add(name)
    return name


def role_of(name: str) -> Role | None:
    """What the name of an input says that it is for; None where it says nothing."""
    return Role.ACTION_MASK if _ACTION_MASK.fullmatch(name.lower()) else None


def unique_names(names: Sequence[str], *, taken: set[str], prefix: str) -> list[str]:
    """A legal name for each of a policy's own tensors."""
    chosen: list[str] = []
    for name in names:
        legal = legal_name(name, prefix)
        while legal in taken or legal in chosen:
            legal = f"{prefix}_{legal}"[:_LONGEST]
        chosen.append(legal)
    return chosen


def pair(observations: Sequence[Observation], inputs: Sequence[str], *, what: str) -> tuple[Observation, ...]:
    """The observation of each input, in the order of `inputs`.

    An input is named as the space's key or as the contract's tensor. One input
    and one observation belong together whatever their names are.
    """
    if len(observations) == len(inputs) == 1:
        return tuple(observations)
    by_name = {name: obs for obs in observations for name in (_plain(obs.key), obs.spec.name)}
    pairs = [by_name.get(_plain(name)) for name in inputs]
    chosen = tuple(obs for obs in pairs if obs is not None)
    if len(chosen) == len(inputs) == len(observations) == len({obs.key for obs in chosen}):
        return chosen
    raise UsageError(
        f"{what} takes {', '.join(inputs) or 'nothing'}; the observation space has the keys"
        f" {', '.join(obs.key or 'observation' for obs in observations)}",
        remedy="Give the keys of the observation space the names of the inputs: they are matched by name.",
    )


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)
