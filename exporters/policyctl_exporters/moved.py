"""How far answers moved, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import ACTION, PARAMETERS


def changes(
    before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """How far the action, and what it is made of, moved between two answers to the same rows.

    Returns:
        The largest absolute change of a continuous output, and whether an integer changed; both of shape (n,).
    """
    rows = len(next(iter(before.values())))
    moved, flipped = np.zeros(rows), np.zeros(rows, dtype=bool)
    with np.errstate(invalid="ignore"):
        for name in [name for name in (ACTION, *PARAMETERS) if name in before]:
            first, second = before[name].astype(np.float64), after[name].astype(np.float64)
            # A choice that is ruled out stays so: infinity did not move.
            change = np.where(first == second, 0.0, np.abs(second - first)).reshape(rows, -1).max(axis=1)
            if before[name].dtype.kind == "f":
                moved = np.maximum(moved, change)
            else:
                flipped |= change > 0
    return moved, flipped


def largest_change(moved: NDArray[np.float64]) -> float:
    """The largest finite one; 0 without any."""
    return float(moved[np.isfinite(moved)].max(initial=0.0))
