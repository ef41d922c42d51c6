"""Observations to compare a policy and its artifacts on.

Three kinds, because each finds what the others miss: draws from the space (and
around a normaliser's statistics), which look like service; edges (bounds,
zeros, one element at a time), where clipping, one-hot codes and saturation
go wrong; and recorded ones, which no draw imitates.

Unbounded elements stay within +-100 (or, normalised, within one and a half
times the cut-off): beyond that float32 itself is not reproducible, and no
environment goes there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import Contract
from policyctl.domain.recording import OBSERVATION
from policyctl.domain.tensor import Bound, TensorSpec
from policyctl.errors import UsageError
from policyctl_exporters.source import Source

Batch = dict[str, NDArray[Any]]

_SANE: Final = 1e3
_FAR: Final = 100.0
_SINGLES: Final = 16
_ELEMENTS: Final = 1 << 20


def rows_for(contract: Contract, *, most: int = 192) -> int:
    """How many rows to draw: fewer where one observation is large, as images are."""
    size = sum(spec.size for spec in contract.observations)
    return max(16, min(most, _ELEMENTS // size))


def draw(source: Source, rng: np.random.Generator, rows: int) -> Batch:
    """Rows as an environment might give them.

    Args:
        source: Its contract gives the bounds, its normaliser the usual scale.
        rng: Source of the draws.
        rows: How many.

    Returns:
        By name, each of shape (rows, *shape).
    """
    scales = source.scales or {}
    return {spec.name: _draw(spec, rng, rows, scales.get(spec.name)) for spec in source.contract.observations}


def edges(source: Source) -> Batch:
    """Rows at the limits: all low, all high, zeros, one element at either limit.

    Returns:
        By name, each of shape (n, *shape); with several inputs every input is
        at its own edge in every row.
    """
    scales = source.scales or {}
    found = {spec.name: _edges(spec, scales.get(spec.name), source.clip_obs) for spec in source.contract.observations}
    rows = max(len(values) for values in found.values())
    return {name: values[np.arange(rows) % len(values)] for name, values in found.items()}


def read_recorded(recorded: Any, contract: Contract, *, most: int = 4096) -> Batch | None:
    """Observations that were recorded in the environment.

    Args:
        recorded: Path of an NPZ file (one array an input, or what `policyctl
            record` wrote), a mapping by input name, one array for a
            policy with one input, or None.
        contract: What they must fit.
        most: Rows used, evenly spaced over what is there.

    Raises:
        UsageError: Not readable, or arrays that do not fit.
    """
    if recorded is None:
        return None
    if isinstance(recorded, str | Path):
        try:
            with np.load(recorded, allow_pickle=False) as archive:
                recorded = _inputs({name: archive[name] for name in archive.files})
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{Path(recorded).name}: recorded observations cannot be read ({error})",
                remedy="Save them with numpy.savez, one array an observation.",
            ) from error
    if not isinstance(recorded, Mapping):
        recorded = {contract.observations[0].name: np.asarray(recorded)}
    batch: Batch = {}
    for spec in contract.observations:
        if spec.name not in recorded:
            raise UsageError(
                f"recorded observations lack {spec.name!r}, found {', '.join(sorted(recorded)) or 'nothing'}",
                remedy=f"Name the arrays {', '.join(s.name for s in contract.observations)}.",
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
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(int))
    return {name: values[chosen] for name, values in batch.items()}


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


def _limits(spec: TensorSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    def spread(bound: Bound, unbounded: float) -> NDArray[np.float64]:
        value = unbounded if bound is None else bound
        return np.broadcast_to(np.asarray(value, dtype=np.float64), (spec.size,)).astype(np.float64)

    return spread(spec.low, -np.inf), spread(spec.high, np.inf)


def _draw(
    spec: TensorSpec,
    rng: np.random.Generator,
    rows: int,
    scale: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
) -> NDArray[Any]:
    low, high = _limits(spec)
    if not np.issubdtype(np.dtype(spec.dtype), np.floating):
        return _draw_integers(spec, rng, rows, low, high)
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


def _draw_integers(
    spec: TensorSpec,
    rng: np.random.Generator,
    rows: int,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[Any]:
    if spec.dtype == "bool":
        return rng.integers(0, 2, (rows, *spec.shape)).astype(bool)
    floor = 0.0 if np.issubdtype(np.dtype(spec.dtype), np.unsignedinteger) else -_SANE
    first, last = np.clip(low, floor, _SANE).astype(np.int64), np.clip(high, floor, _SANE).astype(np.int64)
    values = rng.integers(first, last + 1, (rows, spec.size))
    return np.asarray(values.astype(spec.dtype).reshape(rows, *spec.shape))


def _edges(
    spec: TensorSpec,
    scale: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    clip_obs: float | None,
) -> NDArray[Any]:
    low, high = _limits(spec)
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
