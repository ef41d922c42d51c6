"""Observations far from the usual ones on which a policy and its artifacts can be compared.

Limits and emergency stops lie there, and so does the end of float32. A row
counts only where the policy itself is sure of its answer: nothing in it
overflows, and a last digit of the observation or of a weight changes little.
Such rows are compared in bands of one magnitude, each with a separate tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from policyctl.domain.contract import ACTION, PARAMETERS
from policyctl_exporters import parity
from policyctl_exporters.conduct import unvalidated
from policyctl_exporters.eager import EagerGraph
from policyctl_exporters.observations import Batch, answered, few, in_batches, take, wide
from policyctl_exporters.onnx_eager import OnnxGraph
from policyctl_exporters.source import Source

_BANDS: Final = (1e1, 1e3, 1e5, 1e8, 1e16, 1e24, np.inf)
_SAFE: Final = 1e8
_NUDGES: Final = 4
_MARGIN: Final = 64.0
"""Runtimes round in other places than a nudge does, and were seen to be off by 15 times what it changes."""

_DIGIT: Final = float(np.finfo(np.float32).eps)


def far_rows(policy: Source, eager: EagerGraph | OnnxGraph, *, seed: int) -> list[parity.Rows]:
    """Groups of rows, one a band of magnitudes, each with the policy's answers and a tolerance.

    The tolerance is the widest that parity knows, whatever the caller allows on
    usual rows: a lost branch changes an action by its own size, rounding does not.

    Args:
        policy: Which one.
        eager: Its graph.
        seed: Of the draws.
    """
    rng = np.random.default_rng([seed, 1])
    rows, expected = answered(policy.reference, wide(policy.contract.observations, rng))
    if not expected:
        return []
    largest = _largest({name: values for name, values in expected.items() if name in (ACTION, *PARAMETERS)})
    sure = np.isfinite(largest) & ~(_is_extreme(rows) if policy.graph is None else _overflows(policy, rows))
    for attempt in range(_NUDGES):
        moved, flipped = eager.moves(rows, _nudged(rows, rng), seed=seed + attempt)
        with np.errstate(invalid="ignore", over="ignore"):
            sure &= ~flipped & (moved <= parity.most(largest) / _MARGIN)
    heights = _largest(rows)
    groups = []
    for low, high in zip((0.0, *_BANDS), _BANDS, strict=False):
        chosen = np.flatnonzero(sure & (low <= heights) & (heights < high))
        if chosen.size:
            part = take(expected, chosen)
            allowed = parity.fitted(part, sensitivity=np.inf)
            groups.append(parity.Rows(f"below {high:g}", take(rows, chosen), part, allowed))
    return groups


def _is_extreme(rows: Batch) -> NDArray[np.bool_]:
    """Rows with floats so large that something inside a graph that cannot be watched may overflow."""
    floats = {name: values for name, values in rows.items() if values.dtype.kind == "f"}
    extreme: NDArray[np.bool_] = _largest(floats) > _SAFE if floats else np.zeros(len(next(iter(rows.values()))), bool)
    return extreme


def _nudged(rows: Batch, rng: np.random.Generator) -> Batch:
    """The same rows, every number a last digit of float32 away."""
    nudged = dict(rows)
    with np.errstate(over="ignore"):
        for name, values in rows.items():
            if values.dtype.kind == "f":
                signs = rng.choice([-1.0, 1.0], values.shape)
                nudged[name] = (values * (1 + _DIGIT * signs)).astype(values.dtype)
    return nudged


def _largest(batch: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    sizes = [
        np.abs(v.astype(np.float64)).reshape(len(v), -1).max(axis=1) for v in batch.values() if v.dtype.kind != "b"
    ]
    found: NDArray[np.float64] = np.max(sizes, axis=0)
    return found


def _overflows(policy: Source, rows: Batch) -> NDArray[np.bool_]:
    """Rows on which more operators give NaN or infinity than on a usual one."""
    specs = policy.contract.observations

    def count(batch: Batch) -> Batch:
        watch = _NotFinite(len(next(iter(batch.values()))))
        with torch.no_grad(), unvalidated(), watch:
            policy.graph(*(torch.tensor(batch[spec.name]) for spec in specs))  # type: ignore[misc]
        return {"count": watch.counts}

    limit = policy.contract.max_batch
    usual = in_batches(count, few(specs, policy.scales), limit)["count"].max()
    exceeded: NDArray[np.bool_] = in_batches(count, rows, limit)["count"] > usual
    return exceeded


class _NotFinite(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts for each row of a batch the results that hold NaN or infinity."""

    def __init__(self, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = np.zeros(rows, dtype=np.int64)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        rows = len(self.counts)
        for tensor in tree_leaves(answer):
            if (
                isinstance(tensor, Tensor)
                and tensor.is_floating_point()
                and tensor.ndim
                and tensor.shape[0] % rows == 0
            ):
                self.counts += (~torch.isfinite(tensor.reshape(rows, -1)).all(dim=1)).numpy()
        return answer
