"""Open the zip file that ``algorithm.save()`` writes, within bounds, and read what it says about its training.

An archive comes from others. So it must be a plain file, each member is read up
to a limit whatever its header claims, names must be plain and unique, and JSON
that is nested too deeply is refused in words. Nothing is unpickled here, and
nothing is written to disk. The card's section ``training`` gets plain values
alone, and of the machine that trained nothing but the versions of its libraries.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from policyctl.errors import UsageError
from policyctl.plain_files import open_named

_MOST_FILE_BYTES: Final = 8 << 30
_MOST_DATA_BYTES: Final = 32 << 20
_MOST_WEIGHT_BYTES: Final = 1 << 30
_MOST_TEXT_BYTES: Final = 1 << 16
_MOST_MEMBERS: Final = 1000

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
_PACKAGES: Final = ("stable_baselines3", "sb3_contrib")
_MODULES: Final = {name.lower(): name for name in ("DQN", "SAC", "TD3", "QRDQN", "TQC", "CrossQ", "ARS")} | {
    "recurrent": "RecurrentPPO",
    "maskable": "MaskablePPO",
}


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """The zip file of an algorithm, open for reading.

    Attributes:
        data: What the algorithm's attributes were, by name, as JSON has them.
        info: ``system_info.txt``; empty without that file.
        version: Of Stable-Baselines3; empty where the archive does not say.
    """

    name: str
    digest: str
    data: dict[str, Any]
    info: str
    version: str
    _zip: zipfile.ZipFile

    def weights(self) -> bytes:
        """Content of ``policy.pth``."""
        with _refusals(self.name):
            content = _member(self._zip, "policy.pth", _MOST_WEIGHT_BYTES)
            if zipfile.is_zipfile(io.BytesIO(content)):
                with zipfile.ZipFile(io.BytesIO(content)) as inner:
                    unpacked = sum(member.file_size for member in inner.infolist())
                if unpacked > _MOST_WEIGHT_BYTES:
                    raise ValueError(f"policy.pth unpacks to {unpacked} bytes, at most {_MOST_WEIGHT_BYTES} are read")
            return content


@contextmanager
def open_archive(path: Path) -> Iterator[ArchiveFile]:
    """Open an archive and read what it says about itself."""
    with open_named(path, most_bytes=_MOST_FILE_BYTES) as file:
        with _refusals(path.name):
            opened = _read_header(file, path.name)
        yield opened


def _read_header(file: BufferedReader, name: str) -> ArchiveFile:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    _check_names(names)
    data = json.loads(_member(archive, "data", _MOST_DATA_BYTES))
    if not isinstance(data, dict):
        raise ValueError("its data is not a JSON object")
    info, version = (
        _member(archive, text, _MOST_TEXT_BYTES).decode("utf-8", "replace") if text in names else ""
        for text in ("system_info.txt", "_stable_baselines3_version")
    )
    return ArchiveFile(name, "sha256:" + digest, data, info, version, archive)


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Whatever is wrong with an archive, in words."""
    try:
        yield
    except RecursionError as error:
        raise _not_an_archive(name, "its data is nested too deeply") from error
    except KeyError as error:
        raise _not_an_archive(name, str(error.args[0])) from error
    except (ValueError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise _not_an_archive(name, str(error)) from error


def _not_an_archive(name: str, reason: str) -> UsageError:
    return UsageError(
        f"{name} is not an archive of Stable-Baselines3: {reason[:300]}", remedy="Pass what algorithm.save() wrote."
    )


def _check_names(names: list[str]) -> None:
    if len(names) > _MOST_MEMBERS:
        raise ValueError(f"it has {len(names)} members, at most {_MOST_MEMBERS} are read")
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"it has {count} members of the name {name!r}")
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(f"its member {name!r} names a place outside the archive")


def _member(archive: zipfile.ZipFile, name: str, most_bytes: int) -> bytes:
    with archive.open(name) as member:
        # The header's size can lie, so one byte more than allowed is read.
        content = member.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"its member {name!r} unpacks to more than {most_bytes} bytes")
    return content


def of_archive(archive: ArchiveFile) -> dict[str, Any]:
    """What a Stable-Baselines3 archive says; its data is read as JSON and text."""
    found = of_data(archive.data, info=archive.info, version=_clean(archive.version) or None)
    policy = archive.data.get("policy_class")
    module = str(policy.get("__module__", "")) if isinstance(policy, dict) else ""
    algorithm = algorithm_of(archive.data, [module])
    return {"algorithm": algorithm, **found} if algorithm else found


def of_data(data: Mapping[str, Any], *, info: str = "", version: str | None = None) -> dict[str, Any]:
    """What the attributes of an algorithm tell."""
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
    from stable_baselines3 import __version__

    found = of_data(vars(algorithm), version=__version__)
    env: Any = getattr(algorithm, "env", None)
    while hasattr(env, "venv"):
        env = env.venv
    spec = getattr((getattr(env, "envs", None) or [None])[0], "spec", None)
    name = getattr(spec, "id", None)
    return {**found, "environment": {"id": name}} if isinstance(name, str) and name else found


def algorithm_of(data: Mapping[str, Any], modules: Iterable[str]) -> str:
    """By the modules of the policy's classes and the algorithm's settings; empty where they do not say.

    Args:
        data: The algorithm's attributes, by name.
        modules: Where the policy's class, and those that it inherits from, are defined.
    """
    for module in modules:
        first, *parts = module.split(".")
        if first in _PACKAGES and (name := next((_MODULES[part] for part in parts if part in _MODULES), "")):
            return name
    settings = {"clip_range": "PPO", "cg_max_steps": "TRPO", "gae_lambda": "A2C"}
    return next((name for key, name in settings.items() if key in data), "")


def _clean(text: str) -> str:
    return "".join(c for c in text.strip()[:40] if c.isprintable())


def _plain(value: Any) -> bool:
    return type(value) in {bool, int, str} or (type(value) is float and math.isfinite(value))
