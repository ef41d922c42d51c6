"""Evaluate: what a served policy earns.

It is asked through the network as any client does; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.client import PolicyClient
from policyctl.domain.names import check_model_name, served_name
from policyctl.domain.protocol import Protocol
from policyctl.errors import UsageError
from policyctl.services.bench import address
from policyctl.services.control import Control
from policyctl.services.export import missing
from policyctl_benchmarks.intervals import mean_with_interval, paired_difference
from policyctl_benchmarks.rollout import RolloutResult, rollout

Act = Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a served policy earned.

    Attributes:
        served: Returns and lengths of the served policy, an entry an episode.
        reference: The same of the policy in eager PyTorch on the same seeds, if asked for.
        releases: Which releases answered.
    """

    served: RolloutResult
    reference: RolloutResult | None
    releases: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with intervals of the means (95 %, bootstrap)."""
        found: dict[str, Any] = {
            "releases": list(self.releases),
            "served": {**self.served.to_json(), "mean": self.mean(self.served)},
        }
        if self.reference is not None:
            difference = paired_difference(self.reference.returns, self.served.returns, rng=np.random.default_rng(0))
            found["reference"] = {**self.reference.to_json(), "mean": self.mean(self.reference)}
            found["difference"] = difference.to_json()
        return found

    @staticmethod
    def mean(result: RolloutResult) -> dict[str, Any]:
        """Mean return with its interval."""
        return mean_with_interval(result.returns, rng=np.random.default_rng(0)).to_json()


def evaluate(
    control: Control,
    *,
    model: str,
    alias: str,
    env: str,
    episodes: int,
    seed: int = 0,
    protocol: Protocol = Protocol.GRPC,
    reference: Act | None = None,
) -> Evaluation:
    """Run an environment against the served policy.

    Args:
        control: The control plane.
        model: Which model.
        alias: Which alias.
        env: A gymnasium environment's id.
        episodes: How many, each with its own seed: `seed`, `seed` + 1, ...
        seed: The first.
        protocol: How to ask.
        reference: The policy itself, to be run beside it on the same seeds.

    Raises:
        UsageError: No such environment, or spaces that do not fit the contract.
        ServerError: A request failed.
        UnsupportedError: gymnasium is not installed.
    """
    if episodes < 2:
        raise UsageError(f"--episodes {episodes} is not at least 2", remedy="One episode has no interval.")
    endpoint = control.endpoint()
    url = address(endpoint, protocol)
    seeds = range(seed, seed + episodes)
    releases: set[str] = set()
    with PolicyClient(check_model_name(model), url=url, protocol=protocol, alias=alias, deadline_s=10.0) as client:

        def act(observations: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
            answer = client.act_batch(observations)
            releases.add(answer.release)
            return np.asarray(answer.value)

        try:
            control.say(f"Running {episodes} episodes of {env} against {served_name(model, alias)} ...")
            served = rollout(env, act, seeds)
            beside = None
            if reference is not None:
                control.say(f"Running the reference on the same {episodes} seeds ...")
                beside = rollout(env, reference, seeds)
        except ImportError as error:
            raise missing(error, "evaluate") from error
    return Evaluation(served, beside, tuple(sorted(releases)))


def load_act(source: Path, *, normalizer: Path | None, trust_pickle: bool) -> Act:
    """The policy in eager PyTorch as a function from observations to actions.

    Raises:
        UsageError: A file that cannot be used.
        UnsupportedError: A library is not installed.
    """
    try:
        from policyctl_exporters.reference import load_reference
    except ImportError as error:
        raise missing(error, "sb3") from error
    answer = load_reference(source, normalizer=normalizer, trust_pickle=trust_pickle)
    return lambda observations: np.asarray(answer(observations)["action"])
