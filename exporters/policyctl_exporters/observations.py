"""Observations to compare a policy and its artifacts on.

Four kinds, because each finds what the others miss: draws from the space (and
around a normaliser's statistics), which look like service; edges (bounds,
zeros, one element at a time), where clipping, one-hot codes and saturation
go wrong; far ones, up to what the type holds, where limits and emergency stops
lie; and recorded ones, which no draw imitates.

Unbounded elements of the first two stay within +-100 (or, normalised, within
one and a half times the cut-off). `answers.far_rows` says which of the rest count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import Contract
from policyctl.domain.limits import bounds
from policyctl.domain.npz import unpack
from policyctl.domain.recording import LARGEST_BYTES, OBSERVATION, UNPACKED_BYTES
from policyctl.domain.tensor import Role, TensorSpec
from policyctl.errors import UsageError
from policyctl.plain_files import read_plain, refuse_if_denied

Batch = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]
Scale = tuple[Floats, Floats]
Scales = Mapping[str, Scale]
"""Mean and standard deviation of an input, by name, where a normaliser knows them."""

_SANE: Final = 1e3
_FAR: Final = 100.0
_SINGLES: Final = 16
_ELEMENTS: Final = 1 << 20
_DRAWN_ROWS: Final = 192
_FAR_ROWS: Final = 256
RECORDED_ROWS: Final = 4096
_LEAST: Final = -3.0
_TINY: Final = 1e-3
_MASK: Final = re.compile(r"(action_?)?masks?")
_ALLOWED: Final = 0.7
_LAST_DIGIT: Final = float(np.finfo(np.float32).eps)


def rows_for(contract: Contract) -> int:
    """How many rows to draw: fewer where one observation is large, as images are."""
    size = sum(spec.size for spec in contract.observations)
    return max(16, min(_DRAWN_ROWS, _ELEMENTS // size))


def draw(specs: Sequence[TensorSpec], scales: Scales, rng: np.random.Generator, rows: int) -> Batch:
    """Rows as an environment might give them, by name, each of shape (rows, *shape)."""
    return {spec.name: _draw(spec, rng, rows, scales.get(spec.name)) for spec in specs}


def edges(specs: Sequence[TensorSpec], scales: Scales, clip_obs: float | None) -> Batch:
    """Rows at the limits: all low, all high, zeros, one element at either limit.

    With several inputs every input is at its own edge in every row.
    """
    found = {spec.name: _edges(spec, scales.get(spec.name), clip_obs) for spec in specs}
    rows = max(len(values) for values in found.values())
    return {name: values[np.arange(rows) % len(values)] for name, values in found.items()}


def wide(specs: Sequence[TensorSpec], rng: np.random.Generator) -> Batch:
    """Rows of every magnitude, up to the bounds or to what the type holds: all elements, and one alone.

    They come by rising magnitude. Inputs that are bounded closely stay at zero,
    for other rows cover them, and action masks allow all; where all are such, there are no rows.
    """
    open_ends = [spec for spec in specs if not _is_close(spec)]
    size = sum(spec.size for spec in open_ends)
    count = max(16, min(_FAR_ROWS, _ELEMENTS // size)) if size else 0
    # Squared, because most limits are met in the lower decades; some rows touch the bounds.
    heights = np.sort(rng.uniform(0.0, 1.0, count) ** 2)
    heights[count - count // 8 :] = 1.0
    alone = rng.integers(0, max(size, 1), count)
    batch, first = {}, 0
    for spec in specs:
        values = np.zeros((count, spec.size))
        if spec in open_ends:
            low, high = bounds(spec)
            signs = rng.choice([-1.0, 1.0], values.shape)
            most = np.minimum(np.where(signs > 0, np.abs(high), np.abs(low)), _largest(spec.dtype))
            tops = np.log10(np.maximum(most, _TINY))
            rise = _LEAST + heights[:, None] * (tops - _LEAST)
            # In every other row one element stands alone, in the rest all lie anywhere below the row's height.
            exponents = np.where(np.arange(count)[:, None] % 2, rise, rng.uniform(_LEAST, np.maximum(rise, _LEAST)))
            chosen = (np.arange(count)[:, None] % 2 == 0) | (np.arange(spec.size) == alone[:, None] - first)
            values = np.where(chosen, signs * 10.0**exponents, 0.0)
            first += spec.size
        elif _is_mask(spec):
            values += 1.0
        batch[spec.name] = np.clip(values, *bounds(spec)).astype(spec.dtype).reshape(count, *spec.shape)
    return batch


def few(specs: Sequence[TensorSpec], scales: Scales, *, rows: int = 7) -> Batch:
    """Rows to look at a policy with: zeros, as far as the bounds allow, and then draws."""
    zeros = take(edges(specs, scales, None), [2])
    return join(zeros, draw(specs, scales, np.random.default_rng(0), rows - 1))


def in_batches(answer: Callable[[Batch], Batch], rows: Batch, size: int | None) -> Batch:
    """Answers to all rows, asked for `size` at a time; all at once where it is None."""
    count = len(next(iter(rows.values())))
    if size is None or count <= size:
        return answer(rows)
    return join(*(answer(take(rows, slice(at, at + size))) for at in range(0, count, size)))


def nudged(rows: Batch, rng: np.random.Generator) -> Batch:
    """The same rows, every floating number a last digit of float32 away."""
    moved = dict(rows)
    with np.errstate(over="ignore"):
        for name, values in rows.items():
            if values.dtype.kind == "f":
                signs = rng.choice([-1.0, 1.0], values.shape)
                moved[name] = (values * (1 + _LAST_DIGIT * signs)).astype(values.dtype)
    return moved


def answered(answer: Callable[[Batch], Batch], rows: Batch) -> tuple[Batch, Batch]:
    """The rows that a policy answers at all, and its answers; both empty where it answers none.

    What a policy was not made for may end in an error: an index out of range, for example.
    """
    try:
        return rows, answer(rows) if len(next(iter(rows.values()))) else {}
    except Exception:  # noqa: BLE001
        answers: dict[int, Batch] = {}
    for index in range(len(next(iter(rows.values())))):
        try:
            answers[index] = answer(take(rows, [index]))
        except Exception:  # noqa: BLE001, S112
            continue
    return take(rows, list(answers)), join(*answers.values()) if answers else {}


def read_arrays(recorded: Any) -> Any:
    """The arrays in an NPZ file by name, those that `policyctl record` wrote by input; anything but a path as it is.

    Raises:
        UsageError: Not readable.
    """
    if not isinstance(recorded, str | Path):
        return recorded
    try:
        content = read_plain(Path(recorded), most_bytes=LARGEST_BYTES, follow_links=True)
    except OSError as error:
        refuse_if_denied(error)
        raise UsageError(
            f"{Path(recorded).name}: recorded observations cannot be read ({error.strerror})",
            remedy="Save them with numpy.savez, one array an observation.",
        ) from error
    what = f"{Path(recorded).name}: recorded observations"
    return _inputs(unpack(content, what=what, most_bytes=UNPACKED_BYTES))


def read_recorded(recorded: Any, contract: Contract) -> Batch | None:
    """Observations that were recorded in the environment.

    Args:
        recorded: Path of an NPZ file (one array an input, or what `policyctl
            record` wrote), a mapping by input name, one array for a
            policy with one input, or None. Memory may be missing, if all of it is.

    Raises:
        UsageError: Not readable, or arrays that do not fit.
    """
    if recorded is None:
        return None
    recorded = read_arrays(recorded)
    if not isinstance(recorded, Mapping):
        recorded = {contract.observations[0].name: np.asarray(recorded)}
    batch: Batch = {}
    remembered = any(state.input in recorded for state in contract.states)
    wanted = contract.observations if remembered else contract.environment
    for spec in wanted:
        if spec.name not in recorded:
            raise UsageError(
                f"recorded observations lack {spec.name!r}, found {', '.join(sorted(recorded)) or 'nothing'}",
                remedy=f"Name the arrays {', '.join(s.name for s in wanted)}.",
            )
        values = np.asarray(recorded[spec.name])
        if spec.shape == (1,) and values.ndim == 1:
            values = values[:, None]
        if values.shape[1:] != spec.shape or not len(values):
            raise UsageError(
                f"recorded {spec.name} has shape {values.shape}, expected (n, {', '.join(map(str, spec.shape))})"
            )
        batch[spec.name] = values.astype(spec.dtype)
    if len({len(values) for values in batch.values()}) != 1:
        raise UsageError("recorded observations differ in length")
    rows = len(next(iter(batch.values())))
    return take(batch, chosen(rows, contract, recorded))


def chosen(rows: int, contract: Contract, recorded: Container[str]) -> NDArray[np.int64]:
    """Which of `rows` `read_recorded` gives, `RECORDED_ROWS` at most: of one episode the first, which follow on."""
    if contract.states and not any(state.input in recorded for state in contract.states):
        return np.arange(min(rows, RECORDED_ROWS))
    return spread(rows, RECORDED_ROWS)


def spread(rows: int, most: int) -> NDArray[np.int64]:
    """At most `most` indices, evenly spaced over `rows`."""
    return np.unique(np.linspace(0, max(rows - 1, 0), min(rows, most)).astype(np.int64))


def _inputs(arrays: Batch) -> Batch:
    """The inputs in a file, which a recording marks as such."""
    marked = {name.removeprefix(OBSERVATION): array for name, array in arrays.items() if name.startswith(OBSERVATION)}
    return marked or arrays


def join(*batches: Batch | None) -> Batch:
    """Rows of all batches, in order."""
    present = [batch for batch in batches if batch is not None]
    return {name: np.concatenate([batch[name] for batch in present]) for name in present[0]}


def take(batch: Mapping[str, NDArray[Any]], rows: Any) -> Batch:
    """Some rows of a batch."""
    return {name: values[rows] for name, values in batch.items()}


def nearest_to_zero(spec: TensorSpec) -> NDArray[Any]:
    """One row that the contract allows, as near to 0 as it can be; shape (1, *shape)."""
    low, high = bounds(spec)
    return np.asarray(np.clip(np.zeros(spec.size), low, high).astype(spec.dtype).reshape(1, *spec.shape))


def _is_mask(spec: TensorSpec) -> bool:
    return spec.role is Role.ACTION_MASK or _MASK.fullmatch(spec.name) is not None


def _is_close(spec: TensorSpec) -> bool:
    low, high = bounds(spec)
    return (
        _is_mask(spec) or spec.dtype == "bool" or bool((np.abs(low) <= _SANE).all() and (np.abs(high) <= _SANE).all())
    )


def _largest(dtype: str) -> float:
    """The largest value that the type holds, and float32 as well, in which policies compute."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return float(min(np.finfo(kind).max, np.finfo(np.float32).max))
    return float(np.iinfo(kind).max)


def _draw(spec: TensorSpec, rng: np.random.Generator, rows: int, scale: Scale | None) -> NDArray[Any]:
    low, high = bounds(spec)
    if _is_mask(spec):
        # Which choices are allowed; one of them always is.
        allowed = rng.uniform(size=(rows, spec.size)) < _ALLOWED
        allowed[np.arange(rows), rng.integers(spec.size, size=rows)] = True
        return np.asarray(allowed.astype(spec.dtype).reshape(rows, *spec.shape))
    if not np.issubdtype(np.dtype(spec.dtype), np.floating):
        return _draw_integers(spec, rng, rows)
    if scale is not None:
        mean, std = (part.reshape(-1) for part in scale)
        spread = rng.choice([0.3, 1.0, 3.0], size=(rows, 1))
        values = np.clip(mean + std * spread * rng.standard_normal((rows, spec.size)), low, high)
    else:
        spread = rng.choice([0.1, 1.0, 10.0], size=(rows, 1))
        values = np.clip(spread * rng.standard_normal((rows, spec.size)), low, high)
        bounded = (np.abs(low) <= _SANE) & (np.abs(high) <= _SANE)
        uniform = rng.uniform(np.where(bounded, low, 0.0), np.where(bounded, high, 1.0), (rows, spec.size))
        values = np.where(bounded, uniform, values)
    return np.asarray(values.astype(spec.dtype).reshape(rows, *spec.shape))


def _draw_integers(spec: TensorSpec, rng: np.random.Generator, rows: int) -> NDArray[Any]:
    low, high = bounds(spec)
    if spec.dtype == "bool":
        return rng.integers(0, 2, (rows, *spec.shape)).astype(bool)
    floor = 0.0 if np.issubdtype(np.dtype(spec.dtype), np.unsignedinteger) else -_SANE
    first, last = np.clip(low, floor, _SANE).astype(np.int64), np.clip(high, floor, _SANE).astype(np.int64)
    values = rng.integers(first, last + 1, (rows, spec.size))
    return np.asarray(values.astype(spec.dtype).reshape(rows, *spec.shape))


def _edges(spec: TensorSpec, scale: Scale | None, clip_obs: float | None) -> NDArray[Any]:
    low, high = bounds(spec)
    if scale is not None and clip_obs is not None:
        mean, std = (part.reshape(-1) for part in scale)
        low, high = np.maximum(low, mean - 1.5 * clip_obs * std), np.minimum(high, mean + 1.5 * clip_obs * std)
        rest = np.clip(mean, low, high)
    else:
        low = np.where(np.abs(low) <= _SANE, low, -_FAR)
        high = np.where(np.abs(high) <= _SANE, high, _FAR)
        rest = np.clip(np.zeros(spec.size), low, high)
    if np.issubdtype(np.dtype(spec.dtype), np.unsignedinteger) or spec.dtype == "bool":
        low = np.maximum(low, 0)
    rows = [low, high, np.clip(np.zeros(spec.size), low, high), rest]
    for index in range(min(spec.size, _SINGLES)):
        for limit in (low, high):
            row = rest.copy()
            row[index] = limit[index]
            rows.append(row)
    return np.asarray(np.stack(rows).astype(spec.dtype).reshape(-1, *spec.shape))
