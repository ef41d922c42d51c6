"""A Stable-Baselines3 policy, live or out of an archive, turned into a `Source`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from policyctl.errors import UsageError
from policyctl_exporters.conduct import examine
from policyctl_exporters.eager import EagerGraph, Sb3Reference
from policyctl_exporters.image_layout import given_space, parse_images, same_image
from policyctl_exporters.last_observations import LastObservations, Proof, family_of
from policyctl_exporters.normalization import choose
from policyctl_exporters.normalizer import arrays_of
from policyctl_exporters.observations import few
from policyctl_exporters.sb3_archive import Trained, read_archive
from policyctl_exporters.sb3_graph import build_graph
from policyctl_exporters.source import Options, Source
from policyctl_exporters.spaces import observations_of, scales_of
from policyctl_exporters.training import of_live


def open_archived(path: Path, options: Options) -> Source:
    """The policy in an archive.

    Args:
        path: What ``algorithm.save()`` wrote.
        options: What the caller says.

    Raises:
        UsageError: It cannot be read as it is, or its normaliser is missing or wrong.
        UnsupportedError: It is of a kind that cannot be exported.
    """
    return _source(read_archive(path, trust_pickle=options.trust_pickle, code=options.code), options)


def open_live(source: Any, options: Options) -> Source:
    """A live algorithm, or its policy alone, which is left as it is.

    Args:
        source: A Stable-Baselines3 algorithm or policy.
        options: What the caller says.

    Raises:
        UsageError: Its normaliser is missing or wrong.
        UnsupportedError: It is of a kind that cannot be exported.
    """
    if not hasattr(source, "policy_kwargs"):
        seen = LastObservations(family_of(type(source)), source.observation_space)
        return _source(Trained(_detached(source), type(source).__name__, seen), options)
    policy, own = source.policy, source.get_vec_normalize_env()
    kept = {name: arrays_of(getattr(source, f"_{name}_obs", None)) for name in ("last_original", "last")}
    seen = LastObservations(
        family_of(type(policy)),
        source.observation_space,
        original=kept["last_original"],
        last=kept["last"],
        casts=True,
        otherwise=_in_its_environment(source, learned=bool(kept["last"])) if own is None else Proof.UNKNOWN,
    )
    trained = Trained(_detached(policy), type(source).__name__, seen, training=of_live(source))
    return _source(trained, options, own=own, environment=_environment_space(source))


def _environment_space(algorithm: Any) -> Any:
    """What the environment of a live algorithm gives, before Stable-Baselines3 turns images; None without one."""
    from stable_baselines3.common.vec_env import VecTransposeImage

    env = algorithm.get_env()
    own = None if env is None else algorithm.observation_space
    while env is not None:
        # Frames that were stacked after turning are stacked with channels first.
        if isinstance(env, VecTransposeImage) and not env.skip and _fits(env.venv.observation_space, own):
            return env.venv.observation_space
        env = getattr(env, "venv", None)
    return own


def _in_its_environment(algorithm: Any, *, learned: bool) -> Proof:
    """What it means that a live algorithm has no VecNormalize around its environment.

    ``load(env=...)`` gives an algorithm another environment than it was trained
    in, and forgets the last observation.
    """
    if algorithm.get_env() is None:
        return Proof.UNKNOWN
    if learned:
        return Proof.RAW
    return Proof.UNKNOWN if algorithm.num_timesteps else Proof.UNTRAINED


def _source(trained: Trained, options: Options, *, own: Any = None, environment: Any = None) -> Source:
    policy = trained.policy
    _require_own_spaces(policy, options)
    choice = choose(trained.seen, options, own=own)
    space, notes = given_space(
        policy.observation_space,
        environment=environment if options.observation_space is None else options.observation_space,
        images=parse_images(options.images),
    )
    observations = observations_of(space, normalizer=choice.normalizer, feature_names=options.feature_names)
    graph, contract = build_graph(policy, observations, choice.normalizer)
    scales = scales_of(observations, choice.normalizer)
    rows = [torch.from_numpy(values) for values in few(contract.observations, scales).values()]
    conduct = examine(graph, rows, name=trained.algorithm)
    contract = contract if conduct.batches else replace(contract, max_batch=1)
    return Source(
        kind="sb3",
        algorithm=trained.algorithm,
        contract=contract,
        reference=Sb3Reference(policy, observations, choice.normalizer, EagerGraph(graph, contract)),
        graph=conduct.module,
        scales=scales,
        clip_obs=choice.normalizer.clip_obs if choice.normalizer else None,
        file=trained.file,
        normalizer_file=choice.file,
        own_rows=trained.seen.raw_rows(observations),
        trust_operators=options.trust_operators,
        notes=(*choice.notes, *notes, *conduct.notes),
        training=trained.training,
    )


def _require_own_spaces(policy: Any, options: Options) -> None:
    """A Stable-Baselines3 policy knows its spaces and its head, and the caller cannot change them."""
    if options.head:
        raise UsageError(
            "head is for torch modules and ONNX files; a Stable-Baselines3 policy has its own",
            remedy="Leave it out.",
        )
    for which in ("observation_space", "action_space"):
        said, own = getattr(options, which), getattr(policy, which)
        if said is not None and not _fits(said, own):
            raise UsageError(
                f"the policy's {which.replace('_', ' ')} is {own}, the environment's is {said}",
                remedy="Leave the environment out: the policy knows its own spaces.",
            )


def _fits(said: Any, own: Any) -> bool:
    inner, theirs = getattr(own, "spaces", None), getattr(said, "spaces", None)
    if isinstance(inner, Mapping) and isinstance(theirs, Mapping) and inner.keys() == theirs.keys():
        return all(_fits(theirs[key], inner[key]) for key in inner)
    return _shapes(said) == _shapes(own) or same_image(own, said)


def _shapes(space: Any) -> Any:
    """What two spaces must have in common to be taken for the same: kind, shape and choices."""
    inner = getattr(space, "spaces", None)
    if isinstance(inner, Mapping):
        return {key: _shapes(value) for key, value in inner.items()}
    return type(space).__name__, getattr(space, "shape", None), str(getattr(space, "n", getattr(space, "nvec", "")))


def _detached(policy: Any) -> Any:
    """A copy of a live policy, on the CPU, in evaluation mode, that leaves the training one alone."""
    memo: dict[int, Any] = {}
    for module in policy.modules():
        law = getattr(module, "action_dist", None)
        if law is not None:
            # Its sampled noise hangs on the autograd graph, which cannot be copied.
            memo[id(law)] = copy.copy(law)
        optimizer = getattr(module, "optimizer", None)
        if optimizer is not None:
            memo[id(optimizer)] = None
    duplicate = copy.deepcopy(policy, memo).to("cpu")
    duplicate.set_training_mode(False)
    return duplicate
