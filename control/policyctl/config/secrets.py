"""Secrets that stand in files of their own, and secrets that too many can read.

Instead of its text a secret may be given as ``{file: PATH}``, which in the
environment is ``POLICYCTL_SERVER__API_KEY__FILE=PATH``. One line feed at the
file's end is no part of the secret.
"""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from policyctl.config.files import SettingsFile
from policyctl.config.keys import FILE, Key, keys
from policyctl.config.layers import ABSENT, Layer, at
from policyctl.config.problems import SettingProblem

_MOST_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Secrets:
    """What became of the secrets.

    Attributes:
        data: The settings, with every secret as its text.
        problems: Files that hold no secret.
        warnings: Secrets that everybody on this machine can read.
        files: Where secrets are read from.
    """

    data: dict[str, Any]
    problems: tuple[SettingProblem, ...]
    warnings: tuple[str, ...]
    files: tuple[Path, ...]


def resolved(model: type[BaseModel], data: Mapping[str, Any], layers: Sequence[Layer]) -> Secrets:
    """Read the secrets that stand in files of their own."""
    found, problems, warnings, files = copy.deepcopy(dict(data)), list[SettingProblem](), [], list[Path]()
    for path, key in keys(model).items():
        value = at(found, path)
        if not key.secret or not isinstance(value, Mapping):
            continue
        parent = at(found, path[:-1])
        parent[path[-1]] = ""
        layer = next(each for each in layers if at(each.data, path) is not ABSENT)
        name = value.get(FILE)
        if set(value) != {FILE} or not isinstance(name, str) or not name:
            problems.append(
                _problem(layer, key, f"a mapping of {', '.join(map(str, value))}", "a text, or {file: PATH}")
            )
            continue
        files.append(Path(name))
        text = _read(Path(name))
        if isinstance(text, bytes):
            parent[path[-1]] = text.decode().removesuffix("\n").removesuffix("\r")
            if _is_open(os.stat(name).st_mode):  # noqa: PTH116 - follows links, as reading did
                warnings.append(f"{key.name}: everybody on this machine can read {name}; chmod 600 {name}")
        else:
            problems.append(_problem(layer, key, f"{name} {text}", "a file that holds the secret"))
    return Secrets(found, tuple(problems), tuple(warnings), tuple(files))


def stubbed(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with some text for every secret that stands in a file, which is not read."""
    found = copy.deepcopy(dict(data))
    for path, key in keys(model).items():
        if key.secret and isinstance(at(found, path), Mapping):
            at(found, path[:-1])[path[-1]] = ""
    return found


def plain(model: type[BaseModel], layer: Layer) -> tuple[Key, ...]:
    """The secrets whose text stands in a settings file."""
    if not layer.file:
        return ()
    texts = ((key, at(layer.data, path)) for path, key in keys(model).items() if key.secret)
    return tuple(key for key, value in texts if isinstance(value, str) and value)


def exposed(model: type[BaseModel], layer: Layer, file: SettingsFile) -> tuple[str, ...]:
    """Words for each secret in a settings file that everybody on this machine can read."""
    if not _is_open(file.mode):
        return ()
    return tuple(
        f"{key.name} ({layer.place(key.path)}): everybody on this machine can read {file.path};"
        f" chmod 600 {file.path}, or keep the secret in a file of its own"
        for key in plain(model, layer)
    )


def _is_open(mode: int) -> bool:
    return bool(mode & stat.S_IROTH)


def _read(path: Path) -> bytes | str:
    """What the file holds, else what is wrong with it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
        content.decode()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        return "is not UTF-8"
    if not content.strip():
        return "is empty"
    return content if len(content) <= _MOST_BYTES else f"is larger than {_MOST_BYTES} bytes"


def _problem(layer: Layer, key: Key, found: str, expected: str) -> SettingProblem:
    return SettingProblem(
        layer.file, layer.line(key.path), key.name, found, expected, source="" if layer.file else layer.place(key.path)
    )
