"""Policies that play an environment: what each takes of it, and the memory of those that are asked without a client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.client.observation import inputs_of, prepare
from policyctl.domain.contract import Contract
from policyctl.domain.images import laid_out
from policyctl.domain.memory import initial_states
from policyctl.domain.tensor import Role
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
        self._rows: list[int] = []

    def play(self, env: Environment, seeds: Sequence[int], note: Callable[[str], None]) -> RolloutResult:
        """One episode for each seed; `note` takes how far it is, in words. It raises as `rollout` does."""
        self._memories = {}
        return rollout(env, counting(self._act, note), seeds, on_rows=self._begin, masks=masks_of(self._contract))

    def _begin(self, rows: list[int]) -> None:
        self._rows = rows

    def _act(self, observations: Arrays) -> NDArray[Any]:
        given = prepare(self._inputs, observation_for(self._contract, observations), batched=True)
        memories = [self._memories.get(row, self._initial) for row in self._rows]
        given |= {name: np.concatenate([memory[name] for memory in memories]) for name in self._initial}
        outputs = self._answer(given)
        for at, row in enumerate(self._rows):
            self._memories[row] = {s.input: outputs[s.output][at : at + 1] for s in self._contract.states}
        return np.asarray(outputs[self._contract.action.name])


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
    specs = {spec.name: spec for spec in contract.environment if spec.name not in masks}
    if len(specs) == len(seen) == 1:
        ((name, spec),) = specs.items()
        only = laid_out(next(iter(seen.values())), spec.shape)
        return {name: only, **masks} if masks else only
    return {name: laid_out(each, specs[name].shape if name in specs else ()) for name, each in seen.items()} | masks


def masks_of(contract: Contract) -> tuple[str, ...]:
    """Names of the inputs that an environment gives by its ``action_masks()``."""
    return tuple(spec.name for spec in contract.with_role(Role.ACTION_MASK))
