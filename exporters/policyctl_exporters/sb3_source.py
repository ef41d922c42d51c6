"""A Stable-Baselines3 policy, live or out of an archive, turned into a `Source`.

A policy of Stable-Baselines3 observes images with channels first. Around an
environment that gives them last, training puts a ``VecTransposeImage``, of
which an archive says nothing; ``predict()`` takes both. The contract says what
the environment gives, and the graph turns it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from policyctl.domain.contract import ACTION, Contract
from policyctl.domain.tensor import Role
from policyctl.errors import UsageError
from policyctl_exporters.archive_file import of_live
from policyctl_exporters.conduct import examine
from policyctl_exporters.eager import EagerGraph
from policyctl_exporters.heads import OutputGraph
from policyctl_exporters.last_observations import LastObservations, Proof, family_of
from policyctl_exporters.memory import begun, memory_notes
from policyctl_exporters.normalization import choose
from policyctl_exporters.normalizer import FLAT, Normalizer, arrays_of
from policyctl_exporters.observations import few
from policyctl_exporters.sb3_archive import Trained, read_archive
from policyctl_exporters.sb3_graph import build_answer
from policyctl_exporters.source import Answer, Arrays, Options, Source
from policyctl_exporters.spaces import Observation, observations_of, scales_of

_LAYOUTS: Final = ("channels-first", "channels-last")


def open_archived(path: Path, options: Options) -> Source:
    """The policy in an archive."""
    return _source(read_archive(path, trust_pickle=options.trust_pickle, code=options.code), options)


def open_live(source: Any, options: Options) -> Source:
    """A live algorithm, or its policy alone, which is left as it is."""
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
    space, notes = _given_space(
        policy.observation_space,
        environment=environment if options.observation_space is None else options.observation_space,
        images=options.images,
    )
    observations = observations_of(space, normalizer=choice.normalizer, feature_names=options.feature_names)
    answer, outputs, finish = build_answer(policy, observations, choice.normalizer)
    scales = scales_of(observations, choice.normalizer)
    specs = [*(obs.spec for obs in observations), *outputs.inputs]
    rows = [torch.from_numpy(values) for values in few(specs, scales).values()]
    conduct = examine(answer, rows, name=trained.algorithm)
    contract = outputs.contract(observations, batches=conduct.batches)
    own_rows = trained.seen.raw_rows(observations)
    if own_rows is not None:
        count = len(next(iter(own_rows.values())))
        every_choice = {s.name: np.ones((count, *s.shape), s.dtype) for s in contract.with_role(Role.ACTION_MASK)}
        own_rows = begun(own_rows | every_choice, contract)
    eager, graph = (OutputGraph(part, outputs, finish) for part in (answer, conduct.module))
    return Source(
        kind="sb3",
        algorithm=trained.algorithm,
        contract=contract,
        reference=_reference(policy, observations, choice.normalizer, EagerGraph(eager, contract), contract),
        graph=graph,
        scales=scales,
        clip_obs=choice.normalizer.clip_obs if choice.normalizer else None,
        file=trained.file,
        normalizer_file=choice.file,
        own_rows=own_rows,
        trust_operators=options.trust_operators,
        notes=(*choice.notes, *notes, *conduct.notes, *memory_notes(contract)),
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


def _reference(
    policy: Any,
    observations: Sequence[Observation],
    normalizer: Normalizer | None,
    eager: EagerGraph,
    contract: Contract,
) -> Answer:
    """``policy.predict(vec_normalize.normalize_obs(raw), deterministic=True)``: the libraries' own code.

    So an error in the graph cannot hide. Memory comes from ``predict`` as well; all other outputs from the graph.
    """
    normalize = _vec_normalize(normalizer).normalize_obs if normalizer else lambda raw: raw

    masks = [spec.name for spec in contract.with_role(Role.ACTION_MASK)]

    def answer(given: Arrays) -> dict[str, NDArray[Any]]:
        raw: Any = {obs.key: obs.from_served(given[obs.spec.name]) for obs in observations}
        outputs = eager(given)
        # The library has layers before the batch.
        more = {"action_masks": given[masks[0]]} if masks else {}
        state = tuple(given[state.input].swapaxes(0, 1) for state in contract.states) or None
        action, after = policy.predict(normalize(raw.get(FLAT, raw)), state=state, deterministic=True, **more)
        expected = outputs[ACTION]
        kept = {
            s.output: np.ascontiguousarray(x.swapaxes(0, 1)) for s, x in zip(contract.states, after or (), strict=True)
        }
        return {**outputs, **kept, ACTION: np.asarray(action).reshape(expected.shape).astype(expected.dtype)}

    return answer


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


def _given_space(own: Any, *, environment: Any, images: str | None) -> tuple[Any, tuple[str, ...]]:
    """The space of what the environment gives to a policy, and what a person should know about it."""
    if images not in (None, *_LAYOUTS):
        raise UsageError(f"images is {images!r}, expected {' or '.join(_LAYOUTS)}")
    turned = {key: channels_last(space) for key, space in _parts(own).items() if _is_turned(space)}
    if not turned:
        if images is not None:
            raise UsageError(f"images is {images}, and the policy observes no image with channels first")
        return own if environment is None else environment, ()
    if images is None and environment is not None:
        given = _parts(environment)
        last = [key for key in turned if given[key].shape == turned[key].shape != _parts(own)[key].shape]
        return environment, tuple(_note(key, turned[key], "as its environment gives them") for key in last)
    if images == _LAYOUTS[0]:
        return own, ()
    why = "as environments give them" if images is None else "as you said"
    notes = tuple(_note(key, space, why, assumed=images is None) for key, space in turned.items())
    if FLAT in turned:
        return turned[FLAT], notes
    from gymnasium import spaces

    return spaces.Dict({**own.spaces, **turned}), notes


def _note(key: str, space: Any, why: str, *, assumed: bool = False) -> str:
    what = "images are" if key == FLAT else f"images of {key} are"
    first = (space.shape[2], *space.shape[:2])
    more = f"; where yours gives {first}, say so: --images channels-first (images='channels-first')" if assumed else ""
    return f"{what} taken with channels last, {space.shape}, {why}, and turned in the graph{more}"


def _parts(space: Any) -> Mapping[str, Any]:
    inner: Mapping[str, Any] = getattr(space, "spaces", None) or {FLAT: space}
    return inner


def _is_turned(space: Any) -> bool:
    """Whether ``predict()`` takes this image with channels last as well."""
    from stable_baselines3.common.preprocessing import is_image_space

    return bool(is_image_space(space)) and int(np.argmin(space.shape)) == 0


def channels_last(space: Any) -> Any:
    """The space of an image with channels first, turned."""
    from gymnasium import spaces

    return spaces.Box(*(np.moveaxis(bound, 0, -1) for bound in (space.low, space.high)), dtype=space.dtype)


def same_image(one: Any, other: Any) -> bool:
    """Whether two spaces are one image, with channels first or last."""
    return _is_turned(one) and other.shape == channels_last(one).shape and other.dtype == one.dtype
