"""Many requests, one inference: check, join, and give each request its own rows.

Pure array work, without Triton: a request is a list of arrays in the order of
the model's inputs, an answer a list of arrays in the order of its outputs.

What it promises: an array that is not what the contract says never reaches
the policy (an integer out of its range included), and an action that is not a finite number never leaves it, nor one
that was chosen by scores of which one is NaN. Both are found per request, so
one bad request does not hurt those that came with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import ACTION, SCORES, Contract
from policyctl.domain.limits import TensorLimits, bounds, choices
from policyctl.domain.tensor import TensorSpec

Arrays = list[NDArray[Any]]
_Look = Callable[[NDArray[Any]], NDArray[np.bool_]]


class BadRequestError(ValueError):
    """What a client sent; the text is for the client."""


class BadAnswerError(RuntimeError):
    """What a policy gave; it is not sent on."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor, prepared for checking."""

    spec: TensorSpec
    dtype: np.dtype[Any]
    good: _Look | None
    """Which elements may pass; None: all."""
    choices: TensorLimits | None = None
    """Within which integers have to be."""


class Checker:
    """Holds requests and answers against one contract."""

    def __init__(self, contract: Contract) -> None:
        self._inputs = [_prepare(spec, np.isfinite, choices(spec)) for spec in contract.observations]
        # Scores may be infinite, which is how a policy rules a choice out.
        looked_at: dict[str, _Look] = {ACTION: np.isfinite, **dict.fromkeys(SCORES, _is_number)}
        self._outputs = [_prepare(spec, looked_at.get(spec.name)) for spec in contract.outputs]

    def request(self, arrays: Sequence[NDArray[Any] | None]) -> int:
        """How many rows a request has.

        Args:
            arrays: One an input, None where the client sent none.

        Raises:
            BadRequestError: An input is missing, has another type or shape, or
                more or fewer rows than the others, a value is not finite, or an integer out of range.
        """
        rows = -1
        for tensor, array in zip(self._inputs, arrays, strict=True):
            spec = tensor.spec
            if array is None:
                raise BadRequestError(f"input {spec.name} is missing")
            if array.dtype != tensor.dtype or array.ndim == 0 or array.shape[1:] != spec.shape:
                raise BadRequestError(
                    f"input {spec.name} is {array.dtype}{list(array.shape)},"
                    f" the contract says {spec.dtype}[n, {', '.join(map(str, spec.shape))}]"
                )
            if rows not in (-1, array.shape[0]):
                raise BadRequestError(f"input {spec.name} has {array.shape[0]} rows, the inputs before it have {rows}")
            rows = array.shape[0]
            if tensor.good is not None and not (good := tensor.good(array)).all():
                raise BadRequestError(f"the request has {_where(spec, array, ~good)}; send finite observations")
            if tensor.choices is not None and (wrong := tensor.choices.outside(array)) is not None:
                allowed = tensor.choices.text(int(np.argmax(wrong)) % spec.size)
                raise BadRequestError(f"the request has {_where(spec, array, wrong)}, its range is {allowed}")
        if rows < 1:
            raise BadRequestError("the request has no rows")
        return rows

    def shapes(self, arrays: Sequence[NDArray[Any]], rows: int) -> None:
        """Hold the answer to a whole batch against the contract.

        Raises:
            BadAnswerError: An output is missing, or has another type or shape.
        """
        if len(arrays) != len(self._outputs):
            raise BadAnswerError(f"the artifact gave {len(arrays)} outputs, not {len(self._outputs)}")
        for tensor, array in zip(self._outputs, arrays, strict=True):
            if array.dtype != tensor.dtype or array.shape != (rows, *tensor.spec.shape):
                raise BadAnswerError(
                    f"the artifact gave {tensor.spec.name} as {array.dtype}{list(array.shape)},"
                    f" the contract says {tensor.spec.dtype}{[rows, *tensor.spec.shape]}"
                )

    def finite(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Hold one request's action against the least that an action must be.

        Raises:
            BadAnswerError: An element of the action is not finite, or one of the scores that chose it is NaN.
        """
        for tensor, array in zip(self._outputs, arrays, strict=True):
            if tensor.good is not None and not (good := tensor.good(array)).all():
                raise BadAnswerError(f"the policy gave {_where(tensor.spec, array, ~good)}; the action is withheld")


def join(requests: Sequence[Arrays]) -> Arrays:
    """Rows of all requests, one under another; the arrays themselves if there is one request."""
    if len(requests) == 1:
        return requests[0]
    return [np.concatenate(column) for column in zip(*requests, strict=True)]


def split(arrays: Arrays, rows: Sequence[int]) -> list[Arrays]:
    """Each request's own rows, as views; the inverse of `join`.

    Args:
        arrays: Outputs of the whole batch.
        rows: How many rows each request has.
    """
    if len(rows) == 1:
        return [arrays]
    answers, start = [], 0
    for count in rows:
        answers.append([array[start : start + count] for array in arrays])
        start += count
    return answers


def example(contract: Contract) -> Arrays:
    """One row of inputs that the contract allows, as near to 0 as it can be."""
    arrays: Arrays = []
    for spec in contract.observations:
        row = np.clip(np.zeros(spec.size), *bounds(spec)).astype(spec.dtype)
        arrays.append(row.reshape(1, *spec.shape))
    return arrays


def _prepare(spec: TensorSpec, good: _Look | None, within: TensorLimits | None = None) -> _Tensor:
    dtype = np.dtype(spec.dtype)
    return _Tensor(spec, dtype, good if np.issubdtype(dtype, np.floating) else None, within)


def _is_number(array: NDArray[Any]) -> NDArray[np.bool_]:
    number: NDArray[np.bool_] = ~np.isnan(array)
    return number


def _where(spec: TensorSpec, array: NDArray[Any], bad: NDArray[np.bool_]) -> str:
    """The first bad element, in words."""
    row, element = (int(i) for i in np.argwhere(bad.reshape(array.shape[0], -1))[0])
    value = array.reshape(array.shape[0], -1)[row, element]
    return f"{spec.feature(element)} of row {row} as {value}"
