"""What was measured under load, as people and programs read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

LOST = ("failed", "wrong", "answers outside aliases", "answers older than seen")
"""Counts that must be zero."""


def show(measured: Mapping[str, object], *, as_json: bool) -> int:
    """Print it, a line each or as one JSON document; the exit code: 0 if nothing was lost."""
    if as_json:
        print(json.dumps(measured, indent=1))
    else:
        for key, value in measured.items():
            print(f"{key:<28} {value}")
    return 1 if any(measured.get(name) for name in LOST) else 0


def spread(values: Sequence[float]) -> str:
    """Median, 95th percentile and maximum, in words."""
    if not values:
        return "none"
    median, high, largest = np.percentile(values, (50, 95, 100))
    return f"median {median:.0f}, p95 {high:.0f}, max {largest:.0f}"
