"""The memory of a policy for one episode: it lives here, and travels with every request.

So a server keeps nothing of it. Any server may answer any step, a killed one
loses nothing, and two callers cannot mix their memories. A memory belongs to the release that made it:
no other release is ever asked to go on from it and believed.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Self, TypedDict, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from policyctl.client.calls import Call
from policyctl.client.course import Course
from policyctl.client.episode_options import EpisodeOptions, OnSwitch
from policyctl.client.errors import EpisodeInterruptedError, IncompatibleReleaseError, NotServedError
from policyctl.client.observation import Observation
from policyctl.client.served import Memory, Served
from policyctl.client.steps import changed
from policyctl.domain.names import served_name, split_served_name
from policyctl.errors import ServerError

if TYPE_CHECKING:
    from policyctl.client.base import BaseClient
    from policyctl.client.form import Form

ActionT = TypeVar("ActionT")
T = TypeVar("T")


class Asking(TypedDict, total=False):
    """What `act` and `act_batch` take besides the observation; `BaseClient.act` explains it."""

    deterministic: bool
    seed: int | None
    request_id: str | None
    timing: bool
    outputs: Sequence[str]
    deadline_s: float | None
    traceparent: str | None


class Episode(Generic[ActionT]):
    """One episode: ask it for each action in turn, and `reset` it where the environment is reset.

    Made by `BaseClient.episode`. It belongs to one caller: threads do not share it. A policy
    without memory is asked in the same way, and `act` then does what the client's does.

    .. code-block:: python

        with client.episode() as episode:
            action = episode.act(observation)
    """

    def __init__(self, client: BaseClient[Any, ActionT, Any], options: EpisodeOptions) -> None:
        self._client = client
        self.course = Course(options)
        """Which step it is, and what its steps need besides the memory."""
        self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.reset()

    def act(self, observation: Observation, **asking: Unpack[Asking]) -> ActionT:
        """One action for the next observation of this episode.

        Raises:
            EpisodeInterruptedError: Another release is served, and this episode cannot go on.
            PolicyctlError: See `BaseClient.act`. The episode stands where it stood: asking again is safe.
        """
        return self._client.act(observation, episode=self, **asking)

    def reset(self) -> None:
        """Begin again: from the initial memory, with the release that is served."""
        self.course = Course(self.course.options, self.course.author)
        self._forget()

    def _forget(self) -> None:
        self._states: Mapping[str, NDArray[Any]] = {}
        self._release: Served | None = None
        self.ask_alias()

    def ask_alias(self) -> None:
        """Ask the client's alias from now on, with the memory as it is."""
        self.own_model = ""
        """The Triton model of the release that the episode began with, while it has to be asked for by its number."""
        self.own_memories: dict[Memory, Memory] = {}
        """What is known of `own_model` at each server, by what is known of the alias there."""

    @property
    def release(self) -> str | None:
        """The release that made the memory; None at the beginning, and for a policy without memory."""
        return None if self._release is None else self._release.release

    def has_left(self, served: Served) -> bool:
        """Whether `served` is another release than the one that made the memory."""
        own = self._release
        return own is not None and own is not served and own.identity != served.identity

    def follow(self, model: str, served: Served) -> None:
        """`model` serves another release: begin with it, or ask the number of the own one, as the caller wants.

        Raises:
            EpisodeInterruptedError: The episode cannot go on.
        """
        on_switch = self.course.options.on_switch
        if on_switch is OnSwitch.RESET:
            self._forget()
        elif on_switch is OnSwitch.FINISH and self.release is not None and not self.own_model:
            self.own_model = served_name(split_served_name(model)[0], self.release)
        else:
            raise interrupted(self.release, f"{served.release} is served now")

    def keep(self, author: Served, outputs: Mapping[str, NDArray[Any]], row: int) -> None:
        """Remember what `author` gave for `row` of its answer; nothing of a policy without memory."""
        self.course.meet(author)
        if not author.contract.states:
            return
        self._release = author
        # A copy, because the array belongs to the caller as part of the action.
        self._states = {state.input: outputs[state.output][row : row + 1].copy() for state in author.contract.states}

    def twin(self) -> Episode[ActionT]:
        """The same episode, for a question that is sent ahead."""
        other = copy(self)
        other.course = self.course.twin()
        return other

    def adopt(self, twin: Episode[ActionT]) -> None:
        """Go on from what `twin` remembers: its question was answered."""
        self._states, self._release = twin._states, twin._release
        self.own_model, self.own_memories = twin.own_model, twin.own_memories

    def states(self, form: Form) -> dict[str, NDArray[Any]]:
        """What goes with the next request, by the name of its input, each of shape (1, *shape)."""
        return dict(self._states) if self._release is not None else dict(form.initial)


class FinishElsewhereError(ServerError):
    """An episode goes on under the number of the release that it began with; no caller sees this."""


def interrupted(release: str | None, why: str) -> EpisodeInterruptedError:
    """The error for an episode whose release does not answer any more."""
    return EpisodeInterruptedError(
        f"this episode began with release {release}, and {why}",
        remedy="Take a safe action and reset the episode. policyctl pin keeps a release served under its number.",
    )


def joined(episodes: Sequence[Episode[Any]], form: Form, rows: int) -> dict[str, NDArray[Any]]:
    """The memories of the rows of a batch, by the name of the input, each of shape (rows, *shape)."""
    each = [episode.states(form) for episode in episodes]
    if rows == 1:
        return each[0]
    return {name: np.concatenate([states[name] for states in each]) for name in form.initial}


def finishing(
    episodes: Sequence[Episode[Any]], model: str, steps: Generator[Call, Any, T], by_alias: Generator[Call, Any, T]
) -> Generator[Call, Any, T]:
    """`steps` with every call made to `model`, the number of the release that the episodes began with.

    Where that is not served, `by_alias` asks the alias: a rollback may have brought the release back there.
    Once the alias has answered, the episodes ask it again.

    Raises:
        EpisodeInterruptedError: Neither serves the release.
    """
    try:
        return (yield from changed(steps, lambda call: replace(call, model=model)))
    except NotServedError:
        # `own_model` stays until the alias has answered, so an episode that fails stands where it stood.
        try:
            value = yield from by_alias
        except (EpisodeInterruptedError, NotServedError, IncompatibleReleaseError) as error:
            why = "it is not served any more, under its number or by the alias"
            raise interrupted(episodes[0].release, why) from error
    for episode in episodes:
        episode.ask_alias()
    return value
