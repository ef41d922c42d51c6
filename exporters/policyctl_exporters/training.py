"""What an archive, or a live algorithm, says about its training: the card's section ``training``.

Plain values alone are read: nothing is unpickled, and of the machine that
trained nothing but the versions of its libraries.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from policyctl_exporters.archive_file import ArchiveFile

FRAMEWORK: Final = "stable-baselines3"

_SETTINGS: Final = (
    "batch_size",
    "buffer_size",
    "clip_range",
    "ent_coef",
    "exploration_final_eps",
    "exploration_fraction",
    "gae_lambda",
    "gamma",
    "gradient_steps",
    "learning_rate",
    "learning_starts",
    "max_grad_norm",
    "n_epochs",
    "n_steps",
    "policy_delay",
    "sde_sample_freq",
    "target_entropy",
    "target_update_interval",
    "tau",
    "train_freq",
    "use_sde",
    "vf_coef",
)
_LIBRARIES: Final = {
    "Python": "python",
    "PyTorch": "torch",
    "Numpy": "numpy",
    "Gymnasium": "gymnasium",
    "OpenAI Gym": "gym",
}
_INFO: Final = re.compile(r"- ([^:\n]+): (\S{1,60})")
_MODULES: Final = {name.lower(): name for name in ("DQN", "SAC", "TD3", "QRDQN", "TQC", "CrossQ", "ARS")}


def of_archive(archive: ArchiveFile) -> dict[str, Any]:
    """What a Stable-Baselines3 archive says; its data is read as JSON and text."""
    found = of_data(archive.data, info=archive.info, version=_clean(archive.version) or None)
    algorithm = _algorithm(archive.data)
    return {"algorithm": algorithm, **found} if algorithm else found


def of_data(data: Mapping[str, Any], *, info: str = "", version: str | None = None) -> dict[str, Any]:
    """What the attributes of an algorithm tell.

    Args:
        data: By name; only plain values count.
        info: What `system_info.txt` holds.
        version: Of Stable-Baselines3.
    """
    found: dict[str, Any] = {"framework": {"name": FRAMEWORK} | ({"version": version} if version else {})}
    for name, key, least in (("steps", "num_timesteps", 1), ("environments", "n_envs", 1), ("seed", "seed", None)):
        value = data.get(key)
        if type(value) is int and (least is None or value >= least):
            found[name] = value
    settings = {key: data[key] for key in _SETTINGS if _plain(data.get(key))}
    if not settings.get("learning_rate", 1):
        del settings["learning_rate"]  # zoos save agents with the rate set to 0
    if settings:
        found["hyperparameters"] = settings
    libraries = {_LIBRARIES[name]: value for name, value in _INFO.findall(info) if name in _LIBRARIES}
    if libraries:
        found["libraries"] = libraries
    return found


def of_live(algorithm: Any) -> dict[str, Any]:
    """What a live Stable-Baselines3 algorithm says."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version(FRAMEWORK)
    except PackageNotFoundError:
        installed = None
    found = of_data(vars(algorithm), version=installed)
    env: Any = getattr(algorithm, "env", None)
    while hasattr(env, "venv"):
        env = env.venv
    spec = getattr((getattr(env, "envs", None) or [None])[0], "spec", None)
    name = getattr(spec, "id", None)
    return {**found, "environment": {"id": name}} if isinstance(name, str) and name else found


def _algorithm(data: Mapping[str, Any]) -> str:
    """By the policy's module and the algorithm's settings; empty where they do not tell."""
    policy = data.get("policy_class")
    module = str(policy.get("__module__", "")) if isinstance(policy, dict) else ""
    for part in module.split("."):
        if part in _MODULES:
            return _MODULES[part]
    if "clip_range" in data:
        return "PPO"
    if "cg_max_steps" in data:
        return "TRPO"
    return "A2C" if "gae_lambda" in data else ""


def _clean(text: str) -> str:
    return "".join(c for c in text.strip()[:40] if c.isprintable())


def _plain(value: Any) -> bool:
    return type(value) in {bool, int, str} or (type(value) is float and math.isfinite(value))
