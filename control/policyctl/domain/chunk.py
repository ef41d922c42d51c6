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
            raise UsageError(
                f"chunk: execute is {self.execute}, expected 1 to {self.horizon}",
                remedy="Give how many actions of an answer are carried out.",
            )
        if self.interval_s is not None and not self.interval_s > 0:
            raise UsageError(
                f"chunk: interval_s is {self.interval_s:g}, expected more than 0", remedy="Give seconds: 0.02."
            )

    @property
    def most_ahead(self) -> int:
        """How many steps before an answer is needed the policy may be asked: once it is used, at the earliest."""
        return min(self.execute - 1, (self.horizon - 1) // 2)

    @property
    def words(self) -> str:
        """For people: ``16 actions an answer, 8 carried out; 0.02 s from one to the next``."""
        pace = "" if self.interval_s is None else f"; {self.interval_s:g} s from one to the next"
        return f"{self.horizon} actions an answer, {self.execute} carried out{pace}"


class ChunkQueue(Generic[SourceT]):
    """What is left of the answers of one episode; for one caller, not for threads.

    It counts steps. An answer to the observation of step s has the actions of the steps s, s + 1, ...
    So those of an answer that comes late are dropped as far as their steps have passed. One that comes early
    waits: of each answer as many actions are carried out as the contract says, where its horizon has so many left.

    Args:
        ahead: How many steps before the next answer is needed the policy is asked.
    """

    def __init__(self, ahead: int = 0) -> None:
        self.step = 0
        """Number of the step that comes next."""
        self._ahead = ahead
        self._begun = 0
        """Number of the step that the present answer was first used for."""
        self._now: tuple[Chunk, int, NDArray[Any], SourceT] | None = None
        self._next: tuple[Chunk, int, NDArray[Any], SourceT] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has no action for the step that comes next."""
        return self._now is None or self.step - self._now[1] >= self._now[0].horizon

    @property
    def is_due(self) -> bool:
        """Whether as many actions of the present answer are carried out as the contract says."""
        return self._now is None or self.step - self._begun >= self._executed(self._now[0])

    @property
    def is_due_ahead(self) -> bool:
        """Whether the policy has to be asked now for an answer that comes in time."""
        if self._now is None or self._next is not None:
            return False
        return self.step - self._begun + self._ahead >= self._executed(self._now[0])

    def _executed(self, chunk: Chunk) -> int:
        """Of an answer that was requested ahead, the first actions are for steps that are over when it is used."""
        return min(chunk.execute, chunk.horizon - self._ahead)

    def put(self, chunk: Chunk, first: int, actions: NDArray[Any], source: SourceT) -> None:
        """Take an answer.

        Args:
            first: Number of the step whose observation it answers.
            actions: Of shape (horizon, *shape).
            source: Comes back with each of them.
        """
        self._next = (chunk, first, actions, source)
        self._change()

    def _change(self) -> None:
        if self._next is not None and (self.is_empty or self.is_due):
            self._now, self._next, self._begun = self._next, None, self.step

    def take(self) -> tuple[Any, int, SourceT]:
        """The action of the step that comes next, its place in its answer, and the answer's source.

        The step stays the next one: `advance` counts it once it is taken.

        Raises:
            LookupError: It is empty.
        """
        if self._now is None or self.is_empty:
            raise LookupError(f"no action for step {self.step}")
        _, first, actions, source = self._now
        return actions[self.step - first], self.step - first, source

    def advance(self) -> None:
        """The step is taken."""
        self.step += 1
        self._change()
