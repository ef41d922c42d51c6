"""An ONNX file asked row by row: what is right, whatever its batch is.

Files disagree about batches: a dynamic one, a fixed one of 1 (which robots
have), or none at all. One row is what all of them can answer, so the reference
asks the unmodified file one row at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.limits import bounds
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError
from policyctl_exporters.observations import draw, join, nearest_to_zero, take, wide
from policyctl_exporters.onnx_file import OnnxFile, Port
from policyctl_exporters.source import Arrays
from policyctl_exporters.spaces import role_of

_ASKED_TWICE: Final = 4
"""Rows on which an output that is random shows it."""

_FAR_EACH: Final = 8
"""Of the far rows each eighth is asked for its shapes."""


@dataclass(frozen=True, slots=True)
class Feed:
    """How an observation reaches an input of the file.

    Attributes:
        batched: Whether a dimension of the input is a batch.
        axis: Which; memory may have its layers first.
    """

    port: Port
    spec: TensorSpec
    batched: bool
    axis: int = 0

    @property
    def copies(self) -> int:
        """Rows that the file wants at once: 1, or its fixed batch."""
        return (self.port.dims[self.axis] or 1) if self.batched else 1

    @property
    def is_fixed(self) -> bool:
        """Whether the file says how many rows it takes, or knows no batch."""
        return not self.batched or self.port.dims[self.axis] is not None

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of one row in the file."""
        dims = (*self.port.dims[: self.axis], *self.port.dims[self.axis + 1 :]) if self.batched else self.port.dims
        sizes = self.spec.shape if len(dims) == len(self.spec.shape) else (1,) * len(dims)
        return tuple(size if dim is None else dim for dim, size in zip(dims, sizes, strict=True))

    def one(self, value: NDArray[Any]) -> NDArray[Any]:
        """One observation of shape `spec.shape`, as the file takes it."""
        row = value.reshape(self.row)
        return np.ascontiguousarray(np.stack([row] * self.copies, self.axis)) if self.batched else row


class Original:
    """The file as a function of any number of rows.

    Args:
        feeds: One an input that is fed; other inputs get zeros.
        axes: Where the batch is in tensors that do not have it first, by name.
    """

    def __init__(self, file: OnnxFile, feeds: Sequence[Feed], axes: Mapping[str, int]) -> None:
        self.file, self.feeds, self.axes = file, feeds, axes
        fed = {feed.port.name for feed in feeds}
        self._zeros = {
            port.name: np.zeros([1 if dim is None else dim for dim in port.dims], port.dtype)
            for port in file.inputs
            if port.name not in fed
        }

    def __call__(self, observations: Arrays) -> dict[str, NDArray[Any]]:
        """All outputs that are tensors, each of shape (n, *row), by their names in the file."""
        count = len(next(iter(observations.values())))
        answers = [self._one({name: array[at] for name, array in observations.items()}) for at in range(count)]
        arrays = {port.name: [answer[port.name] for answer in answers] for port in self.file.outputs if port.is_tensor}
        return {name: np.stack(each) for name, each in arrays.items() if len({array.shape for array in each}) == 1}

    def shapeless_outputs(self) -> set[str]:
        """Outputs whose shape depends on the observation, or that may have no elements."""
        specs, rng = [feed.spec for feed in self.feeds], np.random.default_rng(0)
        usual = join({spec.name: nearest_to_zero(spec) for spec in specs}, draw(specs, {}, rng, _ASKED_TWICE))
        answers = list(map(self._one, _each(usual)))
        # A shape may change at a limit that no usual row meets; on a far row the file may fail.
        for row in _each(take(wide(specs, rng), slice(0, None, _FAR_EACH))):
            with contextlib.suppress(UsageError):
                answers.append(self._one(row))
        return {
            name
            for name in answers[0]
            if 0 in answers[0][name].shape or len({answer[name].shape for answer in answers}) > 1
        }

    def one(self) -> dict[str, NDArray[Any]]:
        """The answer to one row that any policy takes, for shapes."""
        return self({feed.spec.name: nearest_to_zero(feed.spec) for feed in self.feeds})

    def random_outputs(self) -> set[str]:
        """Outputs that differ when the same is asked again."""
        rows = draw([feed.spec for feed in self.feeds], {}, np.random.default_rng(0), _ASKED_TWICE)
        first, again = self(rows), self(rows)
        return {
            name
            for name, array in first.items()
            if name not in again or not np.array_equal(array, again[name], equal_nan=array.dtype.kind == "f")
        }

    def raw(self, observation: Arrays) -> dict[str, Any]:
        """What the file gives for one observation, as it gives it."""
        return self.file.run({**self._zeros, **{f.port.name: f.one(observation[f.spec.name]) for f in self.feeds}})

    def _one(self, observation: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        found = self.raw(observation)
        copies = max(feed.copies for feed in self.feeds)
        return {
            port.name: without_batch(np.asarray(found[port.name]), copies, self.axes.get(port.name, 0))
            for port in self.file.outputs
            if port.is_tensor
        }


def _each(rows: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
    return ({name: array[at] for name, array in rows.items()} for at in range(len(next(iter(rows.values())))))


def without_batch(array: NDArray[Any], copies: int, axis: int = 0) -> NDArray[Any]:
    """The first row of an output for `copies` rows; the whole where it has no rows."""
    rows = array.ndim > 1 or copies > 1
    first = array.take(0, axis) if rows and array.shape[axis] == copies else array
    return first.reshape(first.shape or (1,))


def feed_of(port: Port, spec: TensorSpec | None, *, name: str, answers: Sequence[Port], file: str) -> Feed:
    """How an input is fed.

    Args:
        spec: What a space says of it; None where nobody said anything.
        name: What the contract calls it, where `spec` is None.
        answers: What the file gives, for a batch that is fixed at more than 1.
    """
    first, rest = port.dims[:1], port.dims[1:]
    if spec is not None:
        return Feed(port, _fitting(port, spec, file), _is_batched(port, spec))
    batched = bool(port.dims) and (first[0] is None or (len(port.dims) > 1 and first[0] == 1))
    if not batched and len(port.dims) > 1:
        batched = any(answer.dims[:1] == first for answer in answers)
    row = rest if batched else port.dims
    if None in row:
        raise UsageError(
            f"{file}: input {port.name} has an open dimension besides its batch: {list(port.dims)}",
            remedy="Give the observation space, which says its size: --env, observation_space=.",
        )
    shape = tuple(dim for dim in row if dim is not None)
    return Feed(port, TensorSpec(name, port.dtype, shape or (1,), role=role_of(port.name)), batched)


def state_feed(port: Port, *, name: str, axis: int, copies: int, file: str) -> Feed:
    """How memory is fed whose batch is dimension `axis`; where that is of another size, it has none.

    Args:
        copies: Rows that the file wants at once of what the environment gives.

    Raises:
        UsageError: It has an open dimension besides its batch.
    """
    batched = None in port.dims or (len(port.dims) > 1 and port.dims[axis] in (1, copies))
    row = (*port.dims[:axis], *port.dims[axis + 1 :]) if batched else port.dims
    if None in row:
        raise UsageError(f"{file}: the state {port.name} has an open dimension besides its batch: {list(port.dims)}")
    return Feed(port, TensorSpec(name, port.dtype, tuple(d for d in row if d is not None) or (1,)), batched, axis)


def batch_axes(port: Port) -> tuple[int, ...]:
    """Where the batch of a state may be, the likeliest first; layers may come before it."""
    if None in port.dims:
        return (port.dims.index(None),)
    if len(port.dims) == 3 and port.dims[1] == 1:
        return (1, 0) if port.dims[0] == 1 else (1,)
    return tuple(axis for axis, dim in enumerate(port.dims) if dim == 1) or (0,)


def _is_batched(port: Port, spec: TensorSpec) -> bool:
    return not (_fits(port.dims, spec.shape) and port.dims[:1] != (None,)) and _fits(port.dims[1:], spec.shape)


def _fits(dims: Sequence[int | None], shape: tuple[int, ...]) -> bool:
    if not dims:
        return shape == (1,)
    return len(dims) == len(shape) and all(dim in (None, size) for dim, size in zip(dims, shape, strict=True))


def _fitting(port: Port, spec: TensorSpec, file: str) -> TensorSpec:
    """The space's tensor with the file's own type, and the role that the file's name says.

    Environments say float64 where policies take float32, and int8 where they take truth values.
    """
    role = role_of(port.name)
    same_kind = np.dtype(port.dtype).kind.replace("u", "i") == np.dtype(spec.dtype).kind.replace("u", "i")
    fits = same_kind or (_holds_choices(spec) and (port.dtype == "bool" or role is not None))
    if not (fits and (_fits(port.dims, spec.shape) or _fits(port.dims[1:], spec.shape))):
        raise UsageError(
            f"{file}: input {port.name} is {port.dtype}{list(port.dims)},"
            f" the observation space says {spec.dtype}{list(spec.shape)}",
            remedy="Give the space of what the policy takes, before a batch dimension.",
        )
    if port.dtype == "bool":
        spec = replace(spec, low=None, high=None)
    return replace(spec, dtype=port.dtype, role=role)


def _holds_choices(spec: TensorSpec) -> bool:
    """Whether a space holds nothing but 0 and 1, which every type can say."""
    low, high = bounds(spec)
    return np.dtype(spec.dtype).kind in "bui" and bool((low >= 0).all() and (high <= 1).all())
