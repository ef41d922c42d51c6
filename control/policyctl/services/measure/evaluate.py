"""Evaluate: what a served policy earns.

It is asked through the network as any client does; nothing is changed, but that
what was found can be kept as evidence, for the release's model card.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.card.figures import EVALUATION
from policyctl.client import Action, Episode, PolicyClient
from policyctl.client.course import needs_course
from policyctl.domain.actions import Behaviour, describe
from policyctl.domain.contract import Contract
from policyctl.domain.drive import Description
from policyctl.domain.intervals import mean_with_interval, paired_difference
from policyctl.domain.json_values import to_json
from policyctl.domain.moves import Placement
from policyctl.domain.names import check_model_name, served_name
from policyctl.domain.protocol import Protocol
from policyctl.domain.state import PublishedRelease
from policyctl.errors import ServerError, UsageError
from policyctl.measuring.environments import Environment
from policyctl.measuring.episodes import PARALLEL, RolloutResult, counting, rollout
from policyctl.services.control import Control, open_release
from policyctl.services.evidence import record_measured
from policyctl.services.measure.bench import address, versions
from policyctl.services.measure.player import Player, masks_of, observation_for
from policyctl.services.releases.export import missing, require_file, spaces_of
from policyctl.serving.hardware import detect


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a served policy earned.

    Attributes:
        served: Returns and lengths of the served policy, an entry an episode.
        reference: The same of the policy in eager PyTorch on the same seeds, if asked for.
        evidence: Where it was kept; empty where it was not.
    """

    served: RolloutResult
    reference: RolloutResult | None
    releases: tuple[str, ...]
    evidence: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with intervals of the means (95 %, bootstrap)."""
        found: dict[str, Any] = {
            "releases": list(self.releases),
            "served": {**to_json(self.served), "mean": self.mean(self.served)},
        }
        if self.reference is not None:
            difference = paired_difference(self.reference.returns, self.served.returns, rng=np.random.default_rng(0))
            found["reference"] = {**to_json(self.reference), "mean": self.mean(self.reference)}
            found["difference"] = to_json(difference)
        if self.evidence:
            found["evidence"] = self.evidence
        return found

    @staticmethod
    def mean(result: RolloutResult) -> dict[str, Any]:
        """Mean return with its interval."""
        interval: dict[str, Any] = to_json(mean_with_interval(result.returns, rng=np.random.default_rng(0)))
        return interval


def evaluate(
    control: Control,
    *,
    model: str,
    alias: str,
    env: Environment,
    episodes: int,
    seed: int = 0,
    protocol: Protocol = Protocol.GRPC,
    reference: Callable[[Contract], Player] | None = None,
    keep: bool = False,
) -> Evaluation:
    """Run an environment against the served policy.

    Args:
        episodes: How many, each with its own seed: `seed`, `seed` + 1, ...
        reference: From the served contract to the policy itself, to be run on the same seeds.
        keep: Keep what was found as evidence of the release that answered; the journal names its digest.

    Raises:
        UsageError: No such environment, or spaces that do not fit the contract;
            with `keep`, an alias that names nothing.
        ServerError: A request failed; with `keep`, another release answered too.
        BusyError: With `keep`, another writer is at work for longer than the setting allows.
        UnsupportedError: gymnasium is not installed.
    """
    if episodes < 2:
        raise UsageError(f"--episodes {episodes} is not at least 2", remedy="One episode has no interval.")
    endpoint = control.endpoint()
    url = address(endpoint, protocol)
    named = None
    if keep:
        control.repository.require()
        state = control.repository.journal.state()
        placement = state.named(model, alias).placement
        named = state.release(model, placement.release), placement
    seeds = range(seed, seed + episodes)
    releases: set[str] = set()
    with PolicyClient(check_model_name(model), url=url, protocol=protocol, alias=alias, deadline_s=10.0) as client:
        release = client.served()
        contract = release.contract
        player = None if reference is None else reference(contract)
        own: dict[int, Episode[Action]] = {}
        rows: list[Episode[Action]] = []  # none for a policy that needs none

        def begin(indices: list[int]) -> None:
            if contract.states or needs_course(contract):
                rows[:] = [own.setdefault(index, client.episode()) for index in indices]

        def act(observations: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
            answer = client.act_batch(observation_for(contract, observations), episodes=rows)
            releases.update(answer.releases or (answer.release,))
            return np.asarray(answer.value)

        try:
            with control.working(
                f"Running {episodes} episodes of {env.description} against {served_name(model, alias)}"
            ) as note:
                served = rollout(
                    env,
                    counting(act, note),
                    seeds,
                    max_parallel=min(PARALLEL, release.max_batch or PARALLEL),
                    log_actions=keep,
                    on_rows=begin,
                    masks=masks_of(contract),
                )
            eager = None
            if player is not None:
                with control.working(f"Running the reference on the same {episodes} seeds") as note:
                    eager = player.play(env, seeds, note)
        except ImportError as error:
            raise missing(error, "evaluate") from error
    found = Evaluation(served, eager, tuple(sorted(releases)))
    return found if named is None else _keep(control, found, named, alias=alias, protocol=protocol)


def _keep(
    control: Control,
    found: Evaluation,
    named: tuple[PublishedRelease, Placement],
    *,
    alias: str,
    protocol: Protocol,
) -> Evaluation:
    published, placement = named
    if found.releases != (published.release,):
        raise ServerError(
            f"{', '.join(found.releases)} answered, expected {published.release} alone: they earned it together",
            remedy="Evaluate again while nothing is promoted. Nothing was kept.",
        )
    contract = open_release(control.repository, published).contract
    hardware = detect()
    seen = {
        "env": found.served.env_id,
        "alias": alias,
        "protocol": protocol.value,
        "format": placement.format.value,
        **found.to_json(),
        "behaviour": to_json(behaviour(contract, found.served)),
        "machine": {"fingerprint": hardware.fingerprint, "words": hardware.words()},
        "versions": versions(),
    }
    with control.repository.writer(f"evaluate {published.model}", wait_s=control.settings.lock_wait_s):
        path, _ = record_measured(control, published, EVALUATION, seen)
    return replace(found, evidence=str(path))


def behaviour(contract: Contract, played: RolloutResult) -> Behaviour:
    """What the actions of episodes look like; the order of steps is known within each."""
    lengths = [len(each) for each in played.actions]
    contract = contract.of_one_step()
    actions = np.concatenate([np.asarray(each).reshape(len(each), *contract.action.shape) for each in played.actions])
    starts = np.cumsum([0, *lengths[:-1]])
    before = np.concatenate([np.arange(s, s + n - 1) for s, n in zip(starts, lengths, strict=True)]).astype(np.int64)
    return describe(contract, {contract.action.name: actions}, steps=(before, before + 1))


def require_reference(source: Path, normalizer: Path | None) -> None:
    """Refuse names that are no files, before anybody is asked or a library is loaded.

    Raises:
        UsageError: Names the file, and what it should be.
    """
    require_file(source, "what the policy was exported from")
    if normalizer is not None:
        require_file(normalizer, "a saved VecNormalize")


def load_player(source: Path, env: Environment, served: Contract, **options: Any) -> Player:
    """The policy in its own runtime, ready to play.

    Args:
        served: What is served of it; the source does not say what a description said.
        options: As `policyctl_exporters.load_reference` takes them.

    Raises:
        UsageError: A file or environment that cannot be used.
        UnsupportedError: A library is not installed.
    """
    try:
        from policyctl_exporters.description import described
        from policyctl_exporters.source import Options
        from policyctl_exporters.sources import open_source
    except ImportError as error:
        raise missing(error, "sb3") from error
    policy = open_source(source, Options.of(**spaces_of(env, served.chunk), **options))
    names = {spec.name for spec in policy.contract.environment}
    roles = {s.name: s.role for s in served.environment if s.role is not None and s.name in names}
    policy = described(policy, Description(roles=roles, chunk=served.chunk))
    return Player(policy.contract, policy.reference)
