"""Several actions in one answer: the plan for the next steps that policies of imitation learning give.

Such a policy is asked once for many steps. The contract says how many actions an
answer has, and how many of them are carried out before the next question
(`Contract.chunk`). `ChunkQueue` hands them out one at a time, for the step that each is for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from policyctl.domain.json_values import OMIT_DEFAULT
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SourceT = TypeVar("SourceT")


@dataclass(frozen=True, slots=True)
class Chunk:
    """How an answer holds several actions, one after another along the first axis of the action.

    Attributes:
        horizon: How many.
        execute: How many are carried out before the next observation is sent.
        interval_s: Seconds from one to the next; None where nobody stated it.
    """

    horizon: int
    execute: int
    interval_s: float | None = field(default=None, metadata=OMIT_DEFAULT)

    def require(self, action: TensorSpec) -> None:
        """Refuse what does not fit the action.

        Raises:
            UsageError: Names the value and the expectation.
        """
        if self.horizon < 2 or action.shape[0] != self.horizon:
            raise UsageError(
                f"chunk: horizon is {self.horizon}, the action has shape {action.shape}",
                remedy="Give the first axis of the action, which has the steps: 2 or more.",
            )
        if not 1 <= self.execute <= self.horizon:
            raise UsageError(f"chunk: execute is {self.execute}, expected 1 to {self.horizon}")
        if self.interval_s is not None and not self.interval_s > 0:
            raise UsageError(
                f"chunk: interval_s is {self.interval_s:g}, expected more than 0", remedy="Give seconds: 0.02."
            )

    @property
    def words(self) -> str:
        """For people: ``16 actions an answer, 8 carried out; 0.02 s from one to the next``."""
        pace = "" if self.interval_s is None else f"; {self.interval_s:g} s from one to the next"
        return f"{self.horizon} actions an answer, {self.execute} carried out{pace}"


class ChunkQueue(Generic[SourceT]):
    """What is left of the newest answer of one episode; for one caller, not for threads.

    It counts steps. An answer to the observation of step s has the actions of the steps s, s + 1, ...
    So those of an answer that comes late are dropped as far as their steps have passed.
    """

    def __init__(self) -> None:
        self.step = 0
        """Number of the step that comes next."""
        self._first = 0
        self._chunk: Chunk | None = None
        self._actions: NDArray[Any]
        self._source: SourceT

    @property
    def is_empty(self) -> bool:
        """Whether it has no action for the step that comes next."""
        return self._chunk is None or self.step - self._first >= self._chunk.horizon

    def is_due(self, ahead: int = 0) -> bool:
        """Whether a policy that needs `ahead` steps to answer has to be asked now."""
        return self._chunk is None or self.step - self._first + ahead >= self._chunk.execute

    def put(self, chunk: Chunk, first: int, actions: NDArray[Any], source: SourceT) -> None:
        """Take an answer, instead of what is left of an earlier one.

        Args:
            first: Number of the step whose observation it answers.
            actions: Of shape (horizon, *shape).
            source: Comes back with each of them.
        """
        self._chunk, self._first, self._actions, self._source = chunk, first, actions, source

    def take(self) -> tuple[Any, int, SourceT]:
        """The action of the step that comes next, its place in its answer, and the answer's source.

        `is_empty` says whether there is one. `step` stays: the caller counts on once the action is used.
        """
        at = self.step - self._first
        return self._actions[at], at, self._source
