"""Read a policy out of a Stable-Baselines3 archive of any age.

``algorithm.load()`` unpickles everything that training left behind (schedules,
buffers, episode infos), and fails on whatever of it this Python no longer
knows. A policy needs four entries: both spaces, its class and its arguments.
Those are read, spaces without running any of their code; the weights are read
with ``weights_only``, so no code hides in them.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from policyctl.errors import UnsupportedError, UsageError, first_line
from policyctl_exporters.archive_file import ArchiveFile, algorithm_of, of_archive, open_archive
from policyctl_exporters.inert_pickle import read_inert
from policyctl_exporters.last_observations import LastObservations, family_of
from policyctl_exporters.made_spaces import rebuild_space
from policyctl_exporters.normalizer import arrays_of
from policyctl_exporters.pickles import read_trusted, require_trust

_PICKLED: Final = ":serialized:"

# Arguments that have no part in what a trained policy answers.
_NEUTRAL_KWARGS: Final = ("device", "optimizer_class", "optimizer_kwargs")


_CASTS_SINCE: Final = (1, 6)
"""From this version on a VecNormalize certainly gives float32; when that began is unknown."""

_TRAINING_ONLY: Final = (
    "critic",
    "actor_target.",
    "value_net.",
    "mlp_extractor.value_net.",
    "vf_features_extractor.",
    "q_net_target.",
    "quantile_net_target.",
)


@dataclass(frozen=True, slots=True)
class Trained:
    """A policy as training left it.

    Attributes:
        policy: A Stable-Baselines3 policy on the CPU, in evaluation mode.
        algorithm: What trained it, if the file names it.
        seen: Its last observations, which may prove whether they were normalised.
        file: Name and digest of the file; None for a live object.
        training: What is known about its training; see `archive_file`.
    """

    policy: Any
    algorithm: str
    seen: LastObservations
    file: tuple[str, str] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


def read_archive(path: Path, *, trust_pickle: bool, code: Path | None = None) -> Trained:
    """Build the policy that an archive holds.

    Raises:
        UsageError: Not trusted, not readable, or not such an archive.
        UnsupportedError: A policy of a kind that cannot be rebuilt here.
    """
    require_trust(path.name, trusted=trust_pickle)
    with open_archive(path) as archive:
        return _read(archive, code)


def _read(archive: ArchiveFile, code: Path | None) -> Trained:
    name, data = archive.name, archive.data
    if missing := {"observation_space", "action_space", "policy_class"} - data.keys():
        raise UsageError(f"{name}: {', '.join(sorted(missing))} missing in its data")
    classes = partial(read_trusted, code=code)
    policy_class = _entry(data, "policy_class", classes)
    if not isinstance(policy_class, type):
        raise UsageError(f"{name}: policy_class is {type(policy_class).__name__}, not a class")
    observation_space, action_space = (
        rebuild_space(_entry(data, key, read_inert), what=f"{name}: {key}")
        for key in ("observation_space", "action_space")
    )
    kwargs = (_entry(data, "policy_kwargs", classes) if "policy_kwargs" in data else {}) or {}
    if not isinstance(kwargs, Mapping):
        raise UsageError(f"{name}: policy_kwargs holds {type(kwargs).__name__}, expected arguments by name")
    state = _load_weights(archive.weights(), name)
    use_sde = bool(data.get("use_sde", False))
    policy = build_policy(policy_class, observation_space, action_space, kwargs, use_sde=use_sde, state=state)
    return Trained(
        policy=policy,
        algorithm=_algorithm(data, policy_class, kwargs),
        seen=_last_observations(archive, policy_class, observation_space),
        file=(name, archive.digest),
        training=of_archive(archive),
    )


def build_policy(
    policy_class: type[Any],
    observation_space: Any,
    action_space: Any,
    policy_kwargs: Mapping[str, Any],
    *,
    use_sde: bool,
    state: Mapping[str, Any],
) -> Any:
    """A fresh policy on the CPU with the weights in `state`, in evaluation mode.

    Raises:
        UnsupportedError: The class, its arguments and the weights do not fit together.
    """
    import inspect

    accepted = inspect.signature(policy_class.__init__).parameters
    kwargs = {key: value for key, value in policy_kwargs.items() if key not in _NEUTRAL_KWARGS}
    if kwargs.get("sde_net_arch", 0) is None:
        del kwargs["sde_net_arch"]
    if "use_sde" in accepted:
        kwargs.setdefault("use_sde", use_sde)
    elif kwargs.get("use_sde") is False:
        del kwargs["use_sde"]
    kwargs, state = _unshare_layers(kwargs, state)
    if "lr_schedule" in accepted:
        kwargs["lr_schedule"] = _no_learning
    try:
        policy = policy_class(observation_space, action_space, **kwargs)
        _load(policy, _complete(state, policy.state_dict()))
    except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
        raise UnsupportedError(
            f"{policy_class.__name__} cannot be rebuilt from what was saved: {error}",
            remedy="Load it in the environment that it was trained in, and export the live policy from there.",
        ) from error
    policy.to("cpu")
    policy.set_training_mode(False)
    return policy


def _load(policy: Any, state: Mapping[str, Any]) -> None:
    """Load weights; what only training uses (critics, targets) may be missing or left over."""
    result = policy.load_state_dict(state, strict=False)
    for problem, keys in (("missing", result.missing_keys), ("left over", result.unexpected_keys)):
        needed = [key for key in keys if not key.startswith(_TRAINING_ONLY)]
        if needed:
            raise ValueError(f"weights are {problem}: {', '.join(sorted(needed)[:5])}")


def _no_learning(_progress: float) -> float:
    return 0.0


def _complete(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Before 1.7 one features extractor stood for three, and ARS's linear layer for a sequence of one."""
    complete = dict(state)
    for key in wanted.keys() - state.keys():
        alone = key.replace("action_net.0.", "action_net.", 1)
        if alone in complete.keys() - wanted.keys():
            complete[key] = complete.pop(alone)
        for prefix in ("pi_features_extractor.", "vf_features_extractor."):
            shared = "features_extractor." + key.removeprefix(prefix)
            if key.startswith(prefix) and shared in state:
                complete[key] = state[shared]
    return complete


def _unshare_layers(kwargs: dict[str, Any], state: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Before 1.8 actor and critic could share their first layers: give each its own copy."""
    arch = kwargs.get("net_arch")
    prefix = "mlp_extractor.shared_net."
    split = isinstance(arch, list) and bool(arch) and isinstance(arch[-1], dict)
    if not any(key.startswith(prefix) for key in state):
        return ({**kwargs, "net_arch": arch[-1]}, state) if isinstance(arch, list) and split else (kwargs, state)
    arch = arch if isinstance(arch, list) else []
    shared = [size for size in arch if not isinstance(size, dict)]
    own = arch[-1] if split else {}
    changed: dict[str, Any] = {}
    for key, value in state.items():
        if key.startswith(prefix):
            for net in ("policy_net", "value_net"):
                changed[f"mlp_extractor.{net}.{key.removeprefix(prefix)}"] = value
            continue
        for net in ("policy_net", "value_net"):
            head = f"mlp_extractor.{net}."
            if key.startswith(head):
                # Every layer is followed by its activation, hence two places each.
                index, _, rest = key.removeprefix(head).partition(".")
                changed[f"{head}{int(index) + 2 * len(shared)}.{rest}"] = value
                break
        else:
            changed[key] = value
    arch = {"pi": shared + list(own.get("pi", [])), "vf": shared + list(own.get("vf", []))}
    return {**kwargs, "net_arch": arch}, changed


def _entry(data: Mapping[str, Any], key: str, read: Callable[..., Any]) -> Any:
    """An attribute of the algorithm; where it is a pickle, what `read` makes of that."""
    value = data[key]
    if not (isinstance(value, dict) and _PICKLED in value):
        return value
    try:
        content = base64.b64decode(value[_PICKLED])
    except (TypeError, ValueError) as error:
        raise UsageError(f"{key}: not base64 ({error})") from error
    return read(content, what=key)


def _load_weights(content: bytes, name: str) -> dict[str, Any]:
    import torch

    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # torch raises what its own unpickler meets, without a common class.
    except Exception as error:
        raise UsageError(f"{name}: policy.pth cannot be read as plain weights ({first_line(error)})") from error
    if not isinstance(state, dict):
        raise UsageError(f"{name}: policy.pth holds {type(state).__name__}, not a state dict")
    return state


def _algorithm(data: Mapping[str, Any], policy_class: type[Any], kwargs: Mapping[str, Any]) -> str:
    """Archives do not name their algorithm; its classes and settings give it away."""
    name = algorithm_of(data, (base.__module__ for base in policy_class.__mro__)) or policy_class.__name__
    # DDPG is TD3 with a single critic.
    return "DDPG" if name == "TD3" and kwargs.get("n_critics") == 1 else name


def _last_observations(archive: ArchiveFile, policy_class: type[Any], space: Any) -> LastObservations:
    """What the archive kept of them; nothing where either array is missing or null."""
    family = family_of(policy_class)
    try:
        kept = [arrays_of(_entry(archive.data, key, read_inert)) for key in ("_last_original_obs", "_last_obs")]
    except (KeyError, ValueError, UsageError):
        return LastObservations(family, space)
    numbers = re.match(r"(\d+)\.(\d+)", archive.version)
    casts = numbers is not None and (int(numbers[1]), int(numbers[2])) >= _CASTS_SINCE
    return LastObservations(family, space, original=kept[0], last=kept[1], casts=casts)
