"""Hold an observation against the contract before it is sent.

A policy that is fed the wrong thing does not fail; it acts, and acts badly.
So names, shapes, dtypes, finiteness and the range of integers are checked here,
and a message names the very feature that is wrong.

A cast is made only where it is safe: a float to another float if it stays
finite; an integer to a wider one, or to a narrower one, a float or a bool if its
value survives; a bool to a number. A float is never cut to an integer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policyctl.domain.contract import Contract
from policyctl.domain.limits import TensorLimits, all_finite, choices, limits
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError

Observation = ArrayLike | Mapping[str, ArrayLike]


@dataclass(frozen=True, slots=True)
class Input:
    """What one input of a policy takes, worked out once for all observations.

    Attributes:
        spec: What the contract says.
        dtype: That of `spec`.
        limits: Its bounds; None where its type cannot leave them.
        choices: The bounds that are always held; None for a measured number.
    """

    spec: TensorSpec
    dtype: np.dtype[Any]
    limits: TensorLimits | None
    choices: TensorLimits | None


def inputs_of(contract: Contract) -> tuple[Input, ...]:
    """What each input of a policy takes that the environment gives, in the contract's order."""
    return tuple(Input(s, np.dtype(s.dtype), limits(s), choices(s)) for s in contract.environment)


def prepare(
    inputs: tuple[Input, ...],
    observation: Observation,
    *,
    batched: bool,
    check_bounds: bool = False,
) -> dict[str, NDArray[Any]]:
    """The arrays to send, in the contract's order.

    Args:
        inputs: What the policy takes.
        observation: An array for a policy of one input, else arrays by name.
            One observation has `spec.shape` (or is a scalar, where that is
            (1,)); a batch has n of them, n >= 1 and the same for every name.
        batched: Which of the two it is.
        check_bounds: Also refuse floats outside `low` and `high`; integers outside always are.

    Returns:
        By name, each of shape (n, *spec.shape), C order, the contract's dtype.

    Raises:
        UsageError: A name, shape, dtype or value does not fit.
    """
    if len(inputs) == 1 and (type(observation) is np.ndarray or not isinstance(observation, Mapping)):
        only = inputs[0]
        return {only.spec.name: _array(only, observation, batched, check_bounds)}
    given = _by_name(inputs, observation)
    arrays = {each.spec.name: _array(each, given[each.spec.name], batched, check_bounds) for each in inputs}
    if batched:
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise UsageError(f"inputs differ in their number of rows: {lengths}")
    return arrays


def _by_name(inputs: tuple[Input, ...], observation: Observation) -> Mapping[str, ArrayLike]:
    if not isinstance(observation, Mapping):
        raise UsageError(
            f"this policy takes {' and '.join(_label(each.spec) for each in inputs)}, found one array",
            remedy=f"Give a mapping with the names {_listed(inputs)}.",
        )
    missing = [each.spec for each in inputs if each.spec.name not in observation]
    unknown = observation.keys() - {each.spec.name for each in inputs}
    if missing or unknown:
        problems = [f"{_label(spec)} is missing" for spec in missing]
        problems += [f"{name} is unknown" for name in sorted(map(str, unknown))]
        raise UsageError(f"inputs: {', '.join(problems)}", remedy=f"This policy takes {_listed(inputs)}.")
    return observation


def _listed(inputs: tuple[Input, ...]) -> str:
    return ", ".join(each.spec.name for each in inputs)


def _label(spec: TensorSpec) -> str:
    return spec.name if spec.role is None else f"{spec.name} ({spec.role.words})"


def _array(given: Input, value: ArrayLike, batched: bool, check_bounds: bool) -> NDArray[Any]:
    spec = given.spec
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise UsageError(f"input {spec.name} is not an array: {error}") from error
    items = array if batched else array[None]
    if items.shape[1:] != spec.shape or len(items) == 0:
        items = _shaped(spec, array, batched=batched)
    if items.dtype.kind == "f" and not all_finite(items):
        raise _at(spec, items, ~np.isfinite(items), batched, "which is not finite")
    if items.dtype != given.dtype or not items.flags.c_contiguous:
        items = _cast(spec, items, batched=batched)
    bounds = given.limits if check_bounds else given.choices
    if bounds is not None and (wrong := bounds.outside(items)) is not None:
        allowed = bounds.text(int(np.argmax(wrong)) % spec.size)
        raise _at(spec, items, wrong, batched, f"its range is {allowed}")
    return items


def _shaped(spec: TensorSpec, array: NDArray[Any], *, batched: bool) -> NDArray[Any]:
    """With a batch dimension in front."""
    wanted = f"(n, {', '.join(map(str, spec.shape))})" if batched else str(spec.shape)
    items = array if batched else array[None]
    if spec.shape == (1,) and items.ndim == 1:
        items = items[:, None]
    if items.ndim == 0 or items.shape[1:] != spec.shape:
        hint = ""
        if not batched and array.shape[1:] == spec.shape:
            hint = "This is a batch: use act_batch."
        elif batched and array.shape == spec.shape:
            hint = "This is one observation: use act."
        raise UsageError(f"input {spec.name} has shape {array.shape}, the policy takes {wanted}", remedy=hint)
    if len(items) == 0:
        raise UsageError(f"input {spec.name} is an empty batch", remedy="Give at least one row.")
    return items


def _cast(spec: TensorSpec, array: NDArray[Any], *, batched: bool) -> NDArray[Any]:
    target = np.dtype(spec.dtype)
    if array.dtype == target:
        return np.ascontiguousarray(array)
    have, want = array.dtype.kind, target.kind
    if have not in "biuf" or (have == "f" and want != "f"):
        raise UsageError(
            f"input {spec.name} is {array.dtype}, the policy takes {target}",
            remedy=f"Convert it yourself, where that is right: array.astype('{target}').",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.ascontiguousarray(array.astype(target))
        if have == "f":
            lost = ~np.isfinite(cast)
        elif np.can_cast(array.dtype, target, "safe") and not (want == "f" and array.dtype.itemsize == 8):
            return cast  # NumPy calls 64-bit integers to float64 safe, which is not exact.
        else:
            lost = _loses(array, cast)
    if lost.any():
        raise _at(spec, array, lost, batched, f"which {target} cannot hold")
    return cast


def _loses(array: NDArray[Any], cast: NDArray[Any]) -> NDArray[np.bool_]:
    """Where an integer is not the same number after the cast: there and back must be where it was."""
    if cast.dtype.kind == "f":
        # Back from a float only where it is in range: beyond, NumPy defines nothing.
        info = np.iinfo(array.dtype) if array.dtype.kind in "iu" else np.iinfo(np.int8)
        wide = cast.astype(np.float64)
        fits = (wide >= float(info.min)) & (wide < float(info.max) + 1.0)
        back = np.where(fits, cast, 0).astype(array.dtype)
        return np.asarray(~fits | (back != array), dtype=bool)
    return np.asarray((cast.astype(array.dtype) != array) | ((cast < 0) != (array < 0)), dtype=bool)


def _at(spec: TensorSpec, array: NDArray[Any], wrong: NDArray[np.bool_], batched: bool, what: str) -> UsageError:
    row, element = divmod(int(np.argmax(wrong)), spec.size)
    where = f"row {row}: {spec.feature(element)}" if batched else spec.feature(element)
    return UsageError(f"{where} is {array.reshape(-1)[row * spec.size + element]}, {what}")
