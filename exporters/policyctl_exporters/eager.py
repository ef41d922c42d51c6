"""The policy itself, in eager PyTorch: what every artifact is held against.

For Stable-Baselines3 the action comes from ``policy.predict()`` on
observations that ``VecNormalize`` normalised, that is from the libraries' own
code and not from the exported graph, so an error in the graph cannot hide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from policyctl.domain.contract import Contract
from policyctl_exporters.conduct import unvalidated
from policyctl_exporters.moved import changes, largest_change
from policyctl_exporters.normalizer import FLAT, Normalizer
from policyctl_exporters.observations import Batch, in_batches
from policyctl_exporters.source import Arrays
from policyctl_exporters.spaces import Observation

_LAST_DIGIT: Final = float(np.finfo(np.float32).eps)


class EagerGraph:
    """A graph run by PyTorch on the CPU: NumPy in, NumPy out.

    Args:
        graph: Takes the contract's observations in order.
        contract: Names inputs and outputs.
    """

    def __init__(self, graph: nn.Module, contract: Contract) -> None:
        self._graph, self._contract = graph, contract

    def __call__(self, observations: Arrays) -> dict[str, NDArray[Any]]:
        """All outputs for a batch, by name; no more rows are asked at once than the contract allows."""
        return in_batches(self._answer, dict(observations), self._contract.max_batch)

    def _answer(self, observations: Batch) -> Batch:
        # Copies: a policy may write to what it is given.
        tensors = [torch.tensor(observations[spec.name]) for spec in self._contract.observations]
        with torch.no_grad(), unvalidated():
            found = self._graph(*tensors)
        found = [found] if isinstance(found, torch.Tensor) else found
        return {
            spec.name: np.asarray(tensor.numpy()) for spec, tensor in zip(self._contract.outputs, found, strict=True)
        }

    def sensitivity(self, observations: Arrays, *, seed: int) -> float:
        """How far the outputs move when every weight moves by its last float32 digit.

        Args:
            observations: Rows to measure on.
            seed: Of the digits' signs.

        Returns:
            The largest absolute change of a continuous output; 0 without weights.
        """
        return largest_change(self.moves(observations, observations, seed=seed)[0])

    def moves(
        self, observations: Arrays, others: Arrays, *, seed: int
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """How far the outputs of each row move when every weight moves by its last float32 digit.

        Each runtime rounds every sum its own way, and the effect is of this
        size. The weights are the same again afterwards, bit by bit.

        Args:
            observations: Rows to measure on.
            others: What to give the moved weights instead: the same, or rows a digit away.
            seed: Of the digits' signs.

        Returns:
            The largest absolute change of a continuous output, and whether an integer changed; both of shape (n,).
        """
        generator = torch.Generator().manual_seed(seed)
        before = self(observations)
        kept = [(weight, weight.detach().clone()) for weight in self._graph.parameters()]
        try:
            with torch.no_grad():
                for weight, value in kept:
                    if weight.dtype == torch.float32:
                        signs = torch.randint(0, 2, value.shape, generator=generator) * 2 - 1
                        weight.copy_(value * (1 + _LAST_DIGIT * signs))
            after = self(others)
        finally:
            with torch.no_grad():
                for weight, value in kept:
                    weight.copy_(value)
        return changes(before, after)


class Sb3Reference:
    """``policy.predict(vec_normalize.normalize_obs(raw), deterministic=True)``.

    All outputs but the action come from the eager graph.

    Args:
        policy: A Stable-Baselines3 policy on the CPU.
        observations: Its inputs.
        normalizer: Statistics to normalise by.
        eager: The graph for the other outputs.
    """

    def __init__(
        self,
        policy: Any,
        observations: Sequence[Observation],
        normalizer: Normalizer | None,
        eager: EagerGraph,
    ) -> None:
        self._policy, self._observations, self._eager = policy, observations, eager
        self._normalize = _vec_normalize(normalizer).normalize_obs if normalizer else None

    def __call__(self, observations: Arrays) -> dict[str, NDArray[Any]]:
        """All outputs for a batch, by name."""
        raw: Any = {obs.key: obs.from_served(observations[obs.spec.name]) for obs in self._observations}
        outputs = self._eager(observations)
        raw = raw.get(FLAT, raw)
        if self._normalize is not None:
            raw = self._normalize(raw)
        action, _ = self._policy.predict(raw, deterministic=True)
        expected = outputs["action"]
        action = np.asarray(action).reshape(expected.shape)
        return {**outputs, "action": action.astype(expected.dtype)}


def _vec_normalize(normalizer: Normalizer) -> Any:
    """The library's own VecNormalize with these statistics, without an environment."""
    from stable_baselines3.common.running_mean_std import RunningMeanStd
    from stable_baselines3.common.vec_env import VecNormalize

    statistics = {}
    for key, value in normalizer.statistics.items():
        statistics[key] = RunningMeanStd(shape=value.mean.shape)
        statistics[key].mean, statistics[key].var = value.mean, value.var
    wrapper = object.__new__(VecNormalize)
    wrapper.norm_obs = True
    wrapper.obs_rms = statistics.get(FLAT, statistics)
    wrapper.norm_obs_keys = None if FLAT in statistics else list(statistics)
    wrapper.clip_obs, wrapper.epsilon = normalizer.clip_obs, normalizer.epsilon
    return wrapper
