"""The pieces of a graph that lead from a raw observation to an action.

Each is a small module that torch can trace, free of `torch.distributions` and
of Python branches on data, and says the same on every runtime. What each one
computes is fixed by what training code computes in NumPy around a policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)


def _buffer(values: Any, dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=dtype)


class Normalize(nn.Module):
    """``clip((x - mean) / std)`` to float32, accurate also where float64 is turned into float32.

    Training computes this in float64, and so does this graph. OpenVINO and
    TensorRT turn all of it into float32, and would lose ``mean / std`` digits:
    so the mean is split into two parts that float32 holds. Subtracting the
    first is exact for an `x` near the mean (Sterbenz), and the second corrects
    what rounding the mean took away. The clamp between them changes no finite
    float32. It is there because OpenVINO folds two consecutive subtractions,
    and a subtraction and a product, into one, which undoes the split.
    """

    high: Tensor
    rest: Tensor
    std: Tensor

    def __init__(self, mean: NDArray[np.float64], std: NDArray[np.float64], clip: float) -> None:
        super().__init__()
        high = mean.astype(np.float32)
        self.register_buffer("high", _buffer(high, torch.float64))
        self.register_buffer("rest", _buffer(mean - high, torch.float64))
        self.register_buffer("std", _buffer(std, torch.float64))
        self.clip = float(clip)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a batch, shape (n, *shape)."""
        centred = torch.clamp(x.to(torch.float64) - self.high, -_FLOAT32_MAX, _FLOAT32_MAX) - self.rest
        return torch.clamp(centred / self.std, -self.clip, self.clip).to(torch.float32)


class Scale(nn.Module):
    """To float32, divided by `divisor` (255 for images)."""

    def __init__(self, divisor: float = 1.0) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        """Scale a batch."""
        x = x.to(torch.float32)
        return x if self.divisor == 1.0 else x / self.divisor


class Permute(nn.Module):
    """A batch with its axes in another order."""

    def __init__(self, axes: Sequence[int]) -> None:
        super().__init__()
        self.axes = [int(axis) for axis in axes]

    def forward(self, x: Tensor) -> Tensor:
        """Permute a batch."""
        return x.permute(self.axes)


class OneHot(nn.Module):
    """Integers of shape (n, k) to the concatenation of their one-hot codes, shape (n, sum(sizes)).

    Args:
        sizes: Choices of each of the k components.
    """

    codes: Tensor
    index: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("codes", _buffer(np.concatenate([np.arange(s) for s in sizes]), torch.int64))
        self.register_buffer("index", _buffer(np.repeat(np.arange(len(sizes)), sizes), torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Encode a batch."""
        chosen = torch.index_select(x.to(torch.int64).flatten(1), 1, self.index)
        return (chosen == self.codes).to(torch.float32)


class Clip(nn.Module):
    """Clip to one bound an element; elements without bounds pass."""

    low: Tensor
    high: Tensor

    def __init__(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        super().__init__()
        # No infinite constants: not every runtime's optimiser likes them.
        self.register_buffer("low", _buffer(np.maximum(low, -_FLOAT32_MAX), torch.float32))
        self.register_buffer("high", _buffer(np.minimum(high, _FLOAT32_MAX), torch.float32))
        self.bounded = bool(np.isfinite(low).any() or np.isfinite(high).any())

    def forward(self, x: Tensor) -> Tensor:
        """Clip a batch, shape (n, *shape)."""
        if not self.bounded:
            return x
        return torch.minimum(torch.maximum(x, self.low), self.high)


class Rescale(nn.Module):
    """From [-1, 1] to [low, high]: ``low + 0.5 * (x + 1) * (high - low)``."""

    low: Tensor
    span: Tensor

    def __init__(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        super().__init__()
        self.register_buffer("low", _buffer(low, torch.float32))
        self.register_buffer("span", _buffer(high - low, torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Rescale a batch, shape (n, *shape)."""
        return self.low + 0.5 * (x + 1.0) * self.span


class Greedy(nn.Module):
    """The best choice of each component from concatenated scores, as int64 of shape (n, k).

    Args:
        sizes: Choices of each of the k components.
        starts: What the first choice of each is called.
    """

    starts: Tensor

    def __init__(self, sizes: Sequence[int], starts: Sequence[int]) -> None:
        super().__init__()
        self.sizes = [int(size) for size in sizes]
        self.shifted = any(starts)
        self.register_buffer("starts", _buffer(list(starts), torch.int64))

    def forward(self, scores: Tensor) -> Tensor:
        """Choose; the first of equal scores wins."""
        parts = [scores] if len(self.sizes) == 1 else torch.split(scores, self.sizes, dim=1)
        best = [torch.argmax(part, dim=1, keepdim=True) for part in parts]
        chosen = best[0] if len(best) == 1 else torch.cat(best, dim=1)
        return chosen + self.starts if self.shifted else chosen


class Threshold(nn.Module):
    """1 where a logit is positive, else 0, as int64."""

    def forward(self, logits: Tensor) -> Tensor:
        """Choose."""
        return (logits > 0).to(torch.int64)
