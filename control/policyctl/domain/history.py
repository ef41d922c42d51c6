"""Which steps an observation holds: the last frames of an episode, and how they lie in it.

A policy without memory may look back all the same: its observation is the last
steps, one after another. Frameworks lay them out otherwise, and an observation
in the wrong layout has the right shape. So the contract may state the layout
(`Contract.histories`), and `Frames` makes the observation from one step at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from policyctl.domain.json_values import OMIT_DEFAULT
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Newest(StrEnum):
    """Where the newest step is."""

    FIRST = "first"
    LAST = "last"


class Beginning(StrEnum):
    """What stands for the steps before an episode."""

    ZEROS = "zeros"
    """As `VecFrameStack` of Stable-Baselines3 does."""
    FIRST = "first"
    """The first step, as often as there is room; as Isaac Lab does."""


@dataclass(frozen=True, slots=True)
class History:
    """How one observation is made of the last steps.

    Attributes:
        observation: Which one, of shape (length * size of a frame,).
        length: How many steps, the present one included.
        terms: Sizes of the parts of a frame where the steps of each part lie together, as Isaac Lab has it;
            empty where whole frames lie one after another, as `VecFrameStack` has them.
        newest: Whether the newest step comes first or last.
        beginning: What stands for the steps before an episode.
    """

    observation: str
    length: int
    terms: tuple[int, ...] = field(default=(), metadata=OMIT_DEFAULT)
    newest: Newest = Newest.LAST
    beginning: Beginning = Beginning.ZEROS

    def require(self, spec: TensorSpec) -> None:
        """Refuse what does not fit the observation.

        Raises:
            UsageError: Names the value and the expectation.
        """
        what = f"history of {self.observation}"
        if len(spec.shape) != 1:
            raise UsageError(f"{what}: its shape is {spec.shape}, expected one axis", remedy="Stack images yourself.")
        if self.length < 2 or spec.size % self.length:
            raise UsageError(
                f"{what}: {self.length} steps do not make {spec.size} elements",
                remedy="Give 2 steps or more, of one size.",
            )
        if self.terms and (min(self.terms) < 1 or sum(self.terms) * self.length != spec.size):
            raise UsageError(
                f"{what}: terms of {list(self.terms)} over {self.length} steps do not make {spec.size} elements",
                remedy="Give the size of each term in one step.",
            )


class Frames:
    """The last steps of one episode, as an observation; for one caller, not for threads."""

    def __init__(self, history: History, spec: TensorSpec) -> None:
        """Begin an episode.

        Args:
            spec: The observation of the contract that `history` is of.

        Raises:
            UsageError: The two do not fit.
        """
        history.require(spec)
        self.history = history
        self.size = math.prod(spec.shape) // history.length
        self._dtype = spec.dtype
        self._steps: tuple[NDArray[Any], ...] = ()

    def reset(self) -> None:
        """Begin another episode."""
        self._steps = ()

    def push(self, frame: ArrayLike) -> NDArray[Any]:
        """The observation with `frame`, of shape (size,), as its newest step: of shape (length * size,).

        Raises:
            UsageError: The frame has another shape, or is not finite; nothing is remembered of it.
        """
        observation = self.preview(frame)
        self._steps = self._with(frame)
        return observation

    def preview(self, frame: ArrayLike) -> NDArray[Any]:
        """What `push` would give; nothing is remembered of it.

        Raises:
            UsageError: The frame has another shape, or is not finite.
        """
        import numpy as np

        kept = self._with(frame)
        steps = np.stack(kept if self.history.newest is Newest.LAST else kept[::-1])
        cuts = np.cumsum(self.history.terms[:-1], dtype=np.int64)
        return np.concatenate([part.ravel() for part in np.split(steps, cuts, axis=1)])

    def _with(self, frame: ArrayLike) -> tuple[NDArray[Any], ...]:
        import numpy as np

        # An integer is never made of a float: the client refuses what the policy does not take.
        step = np.array(frame, self._dtype if self._dtype.startswith("float") else None)
        if step.shape != (self.size,):
            raise UsageError(f"the frame has shape {step.shape}, expected ({self.size},)")
        if step.dtype.kind == "f" and not np.isfinite(step).all():
            raise UsageError(
                f"the frame is not finite: {step.tolist()}", remedy="Give this step's observation once more."
            )
        if not self._steps:
            first = step if self.history.beginning is Beginning.FIRST else np.zeros_like(step)
            return (*[first] * (self.history.length - 1), step)
        return (*self._steps[1:], step)
