"""The course of an episode: what its steps need besides the policy's memory.

It counts steps, keeps the last frames and the last action, hands a chunk out one action at a time,
and stands in where no answer came in time. A policy that needs none of this, asked by a
caller who wants none of it, never comes here.

Asking ahead, and dropping what has become stale, is what LeRobot calls asynchronous inference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policyctl.client.action import Action
from policyctl.client.episode_options import EpisodeOptions, Fallback
from policyctl.client.observation import Observation
from policyctl.domain.chunk import ChunkQueue
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.drive import DriveKind
from policyctl.domain.history import Frames
from policyctl.domain.tensor import OWN_ROLES, Role, TensorSpec
from policyctl.errors import ServerError, UsageError

if TYPE_CHECKING:
    from policyctl.client.calls import Task
    from policyctl.client.episode import Episode
    from policyctl.client.served import Served


@dataclass(frozen=True, slots=True)
class Pending:
    """A question that was sent ahead.

    Attributes:
        task: What carries it out.
        episode: A copy of the episode, whose memory it moves on.
        first: Number of the step whose observation it is about.
    """

    task: Task
    episode: Episode[Any]
    first: int


class Course:
    """The steps of one episode; for one caller, not for threads.

    Args:
        options: What the caller wants.
        author: The release that answered last, if any did before this episode.
    """

    def __init__(self, options: EpisodeOptions, author: Served | None = None) -> None:
        self.options = options
        self.author = author
        self.pending: Pending | None = None
        self.queue: ChunkQueue[Action] = ChunkQueue(options.ahead_steps)
        self.is_assisted = options.assists or (author is not None and needs_course(author.contract))
        self._frames: dict[str, Frames] = {}
        self._last: Action | None = None
        self._before: Action | None = None
        """The last action of the release before, while the present one takes over from it."""
        self._blended = 0
        self._missed = 0

    def twin(self) -> Course:
        """The same steps, to ask about while this one goes on."""
        other = copy(self)
        other.queue, other.pending = ChunkQueue(self.options.ahead_steps), None
        other.queue.step = self.queue.step
        other._frames = {name: copy(frames) for name, frames in self._frames.items()}
        return other

    def meet(self, author: Served) -> None:
        """`author` answered."""
        if author is not self.author:
            self.author = author
            self.is_assisted = self.options.assists or needs_course(author.contract)

    @property
    def must_ask(self) -> bool:
        """Whether the next step cannot be taken without an answer."""
        return self.queue.is_empty if self.options.ahead_steps else self.queue.is_due

    @property
    def may_ask_ahead(self) -> bool:
        """Whether the next chunk is wanted, and this step need not wait for it."""
        wanted = self.options.ahead_steps > 0 and self.pending is None
        return wanted and not self.queue.is_empty and self.queue.is_due_ahead

    def require(self, contract: Contract) -> None:
        """Refuse a policy that the options do not go with.

        Raises:
            UsageError: Names the option and what the contract lacks.
        """
        options, drive = self.options, contract.drive
        if options.frames and not contract.histories:
            raise UsageError(
                "frames=True, and the contract states no histories",
                remedy="Give whole observations, or export the policy again with --describe FILE.",
            )
        if options.ahead_steps and contract.chunk is None:
            raise UsageError(
                "ahead_steps, and the contract states no chunk", remedy="Leave ahead_steps out: each step is asked for."
            )
        if contract.chunk is not None and (most := contract.chunk.most_ahead) < options.ahead_steps:
            raise UsageError(
                f"ahead_steps is {options.ahead_steps}, expected {most} or less: {contract.chunk.words}",
                remedy="Ask later: an answer is used before the next one is requested.",
            )
        if options.blend_steps and contract.action_kind is not ActionKind.CONTINUOUS:
            raise UsageError(
                f"blend_steps, and the action is {contract.action_kind}", remedy="Only continuous actions blend."
            )
        if options.fallback is Fallback.HOLD:
            if drive is None or drive.kind not in (DriveKind.POSITION, DriveKind.VELOCITY):
                kind = "unknown" if drive is None or drive.kind is None else f"a {drive.kind}"
                raise UsageError(
                    f"fallback is hold, and what the action commands is {kind}",
                    remedy="Take fallback='zero' or 'last', or state drive.kind: position or velocity.",
                )
            if drive.kind is DriveKind.VELOCITY:
                drive.rest(contract.step_shape)

    def completed(self, contract: Contract, given: Mapping[str, Any]) -> dict[str, Any]:
        """What one request sends for the next step: `given`, and what the episode knows itself.

        Raises:
            UsageError: A frame has another shape.
        """
        own = {spec.name: self._own(spec) for spec in contract.observations if spec.role in OWN_ROLES}
        if not self.options.frames:
            return own | dict(given)
        stacked = {
            name: frames.preview(given[name]) for name, frames in self._frames_of(contract).items() if name in given
        }
        return own | dict(given) | stacked

    def accept(self, contract: Contract, action: Action) -> Action:
        """The action of the next step, of an answer to its observation."""
        if contract.chunk is None:
            return self._blend(action)
        self.queue.put(contract.chunk, self.queue.step, np.asarray(action.value), action)
        return self.from_queue()

    def from_queue(self) -> Action:
        """The action of the next step, of the answer that is at hand."""
        value, place, answer = self.queue.take()
        return self._blend(replace(answer, value=value, step=place))

    def without_answer(self, error: ServerError, request_id: str) -> Action:
        """The action of the next step, where no answer came in time.

        Raises:
            ServerError: `error`, where nothing may or can stand in.
        """
        fallback, author = self.options.fallback, self.author
        if fallback is None or author is None:
            raise error
        if not self.queue.is_empty:
            return self.from_queue()
        value = self._stand_in(fallback, author.contract)
        if value is None or self._missed >= self.options.most_fallbacks:
            raise error
        slot = next(slot for slot, release in author.releases.items() if release == author.release)
        return Action(value, author.release, slot, request_id, 0.0, {}, fallback=fallback)

    def check(self, observation: Observation) -> None:
        """Refuse a frame that could not be remembered, before a step is taken that needs no answer.

        Raises:
            UsageError: It has another shape, or is not finite.
        """
        for frames, frame in self._given_frames(observation):
            frames.preview(frame)

    def advance(self, observation: Observation, action: Action) -> None:
        """The step is taken: `action` was handed out for `observation`."""
        for frames, frame in self._given_frames(observation):
            frames.push(frame)
        last = self._last
        self._missed = self._missed + 1 if action.fallback else 0
        if not action.fallback:
            if self.options.blend_steps and last is not None and last.release != action.release:
                self._before, self._blended = last, 0
            if self._before is not None:
                self._blended += 1
                if self._blended >= self.options.blend_steps:
                    self._before = None
        # A copy, because the array belongs to the caller.
        self._last = replace(action, value=copy(action.value))
        self.queue.advance()

    def _own(self, spec: TensorSpec) -> NDArray[Any]:
        if spec.role is Role.TIME_STEP:
            return np.full(spec.shape, self.queue.step, spec.dtype)
        last = np.zeros(spec.shape) if self._last is None else np.asarray(self._last.value)
        return last.reshape(spec.shape).astype(spec.dtype)

    def _given_frames(self, observation: Observation) -> list[tuple[Frames, Any]]:
        """Each history with its frame in `observation`."""
        if self.author is None or not self.options.frames:
            return []
        given = by_name(self.author.contract, observation)
        histories = self._frames_of(self.author.contract)
        return [(frames, given[name]) for name, frames in histories.items() if name in given]

    def _frames_of(self, contract: Contract) -> dict[str, Frames]:
        specs = {spec.name: spec for spec in contract.environment}
        for history in contract.histories:
            known = self._frames.get(history.observation)
            if known is None or known.history != history:
                self._frames[history.observation] = Frames(history, specs[history.observation])
        return self._frames

    def _blend(self, action: Action) -> Action:
        """`action`, while it takes over from those of another release: ``(1 - w) * before + w * action``."""
        steps, last = self.options.blend_steps, self._last
        if not steps:
            return action
        switched = last is not None and last.release != action.release
        before, blended = (last, 0) if switched else (self._before, self._blended)
        if before is None:
            return action
        share = (blended + 1) / (steps + 1)
        value = np.asarray(action.value)
        mixed = (1.0 - share) * np.asarray(before.value) + share * value
        return replace(action, value=mixed.astype(value.dtype), blended_from=before.release)

    def _stand_in(self, fallback: Fallback, contract: Contract) -> int | NDArray[Any] | None:
        if fallback is Fallback.HOLD and contract.drive is not None and contract.drive.kind is DriveKind.VELOCITY:
            return contract.drive.rest(contract.step_shape).astype(contract.action.dtype)
        if fallback is Fallback.ZERO:
            if contract.action_kind is ActionKind.DISCRETE:
                return 0
            return np.zeros(contract.step_shape, contract.action.dtype)
        return None if self._last is None else copy(self._last.value)


def needs_course(contract: Contract) -> bool:
    """Whether an episode of this policy does more than carry memory, whatever its caller wants."""
    return contract.chunk is not None or any(spec.role in OWN_ROLES for spec in contract.observations)


def by_name(contract: Contract, observation: Observation) -> Mapping[str, Any]:
    """An observation by name; one array is the only input that an episode does not know itself."""
    if isinstance(observation, Mapping):
        return observation
    wanted = [spec.name for spec in contract.environment if spec.role not in OWN_ROLES]
    return {wanted[0]: observation} if len(wanted) == 1 else {}


def completed(courses: Sequence[Course], contract: Contract, observation: Observation, *, batched: bool) -> Observation:
    """What a request sends for the next step of each course, one a row.

    Raises:
        UsageError: The options of a course do not go with the policy; or a frame has another shape.
    """
    for course in courses:
        course.require(contract)
    given = by_name(contract, observation)
    if not given:
        return observation
    if not batched:
        return courses[0].completed(contract, given)
    rows = [
        course.completed(contract, {name: np.asarray(values)[row] for name, values in given.items()})
        for row, course in enumerate(courses)
    ]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
