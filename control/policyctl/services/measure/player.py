"""Policies that play an environment: what each takes of it, and the memory of those that are asked without a client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.client.action import Action
from policyctl.client.course import Course, completed, needs_course
from policyctl.client.episode_options import EpisodeOptions
from policyctl.client.observation import Observation, inputs_of, prepare
from policyctl.domain.contract import Contract
from policyctl.domain.images import laid_out
from policyctl.domain.memory import initial_states
from policyctl.domain.tensor import OWN_ROLES, Role
from policyctl.measuring.environments import Environment
from policyctl.measuring.episodes import RolloutResult, counting, rollout

Arrays = Mapping[str, NDArray[Any]]


class Player:
    """A policy that is asked without a client; each of its episodes has a memory apart.

    Args:
        answer: From every input to the action and what continues the memory, by name; each of shape (n, *shape).
    """

    def __init__(self, contract: Contract, answer: Callable[[Arrays], Arrays]) -> None:
        self._contract, self._answer = contract, answer
        self._inputs, self._initial = inputs_of(contract), initial_states(contract)
        self._memories: dict[int, Arrays] = {}
        self._courses: dict[int, Course] = {}
        self._rows: list[int] = []

    def play(self, env: Environment, seeds: Sequence[int], note: Callable[[str], None]) -> RolloutResult:
        """One episode for each seed; `note` takes how far it is, in words. It raises as `rollout` does."""
        self._memories, self._courses = {}, {}
        return rollout(env, counting(self._act, note), seeds, on_rows=self._begin, masks=masks_of(self._contract))

    def _begin(self, rows: list[int]) -> None:
        self._rows = rows

    def _act(self, observations: Arrays) -> NDArray[Any]:
        courses = [self._courses.setdefault(row, Course(EpisodeOptions())) for row in self._rows]
        due = [at for at, course in enumerate(courses) if course.must_ask]
        answers = self._answers(observations, courses, due) if due else {}
        actions = [answers[at] if at in answers else course.from_queue() for at, course in enumerate(courses)]
        for course, action in zip(courses, actions, strict=True):
            course.advance({}, action)
        return np.stack([np.asarray(action.value) for action in actions])

    def _answers(self, observations: Arrays, courses: list[Course], due: list[int]) -> dict[int, Action]:
        """The actions of the rows that have to be asked about, by row."""
        contract = self._contract
        seen: Observation = observation_for(contract, {name: values[due] for name, values in observations.items()})
        if needs_course(contract):
            seen = completed([courses[at] for at in due], contract, seen, batched=True)
        given = prepare(self._inputs, seen, batched=True)
        memories = [self._memories.get(self._rows[at], self._initial) for at in due]
        given |= {name: np.concatenate([memory[name] for memory in memories]) for name in self._initial}
        outputs = self._answer(given)
        answers = {}
        for number, at in enumerate(due):
            self._memories[self._rows[at]] = {s.input: outputs[s.output][number : number + 1] for s in contract.states}
            value = np.asarray(outputs[contract.action.name])[number]
            answers[at] = courses[at].accept(contract, Action(value, "", 0, "", 0.0, {}))
        return answers


def observation_for(contract: Contract, given: Mapping[str, NDArray[Any]]) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """What an environment gives, as a release takes it: by name where it takes several, images in its layout.

    Args:
        given: By name, each of shape (n, *shape).
    """
    masks = {
        spec.name: given[spec.name].reshape(-1, *spec.shape).astype(spec.dtype)
        for spec in contract.with_role(Role.ACTION_MASK)
        if spec.name in given
    }
    seen = {name: values for name, values in given.items() if name not in masks}
    specs = {s.name: s for s in contract.environment if s.name not in masks and s.role not in OWN_ROLES}
    if len(specs) == len(seen) == 1:
        ((name, spec),) = specs.items()
        only = laid_out(next(iter(seen.values())), spec.shape)
        return {name: only, **masks} if masks else only
    return {name: laid_out(each, specs[name].shape if name in specs else ()) for name, each in seen.items()} | masks


def masks_of(contract: Contract) -> tuple[str, ...]:
    """Names of the inputs that an environment gives by its ``action_masks()``."""
    return tuple(spec.name for spec in contract.with_role(Role.ACTION_MASK))
