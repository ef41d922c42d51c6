"""Images of either layout: channels first, or channels last."""

from __future__ import annotations

from typing import Any, Final

from numpy.typing import NDArray

TO_CHANNELS_FIRST: Final = (0, 3, 1, 2)
"""Axes of a batch of images with channels last, in the order of one with channels first."""

_TO_CHANNELS_LAST: Final = (0, 2, 3, 1)


def laid_out(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A batch of images in the layout that a policy takes, as ``predict()`` of Stable-Baselines3 does it.

    Args:
        values: Shape (n, ...).
        shape: Of one image as the policy takes it.

    Returns:
        `values` with its axes in the other order, where that fits and its own does not; else `values` itself.
    """
    if values.ndim == len(TO_CHANNELS_FIRST) and values.shape[1:] != shape:
        for axes in (TO_CHANNELS_FIRST, _TO_CHANNELS_LAST):
            if tuple(values.shape[axis] for axis in axes[1:]) == shape:
                return values.transpose(axes)
    return values
