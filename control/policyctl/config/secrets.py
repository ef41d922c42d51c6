"""Secrets that stand in separate files, and secrets that too many can read.

Instead of its text a secret may be given as ``{file: PATH}``, which in the
environment is ``POLICYCTL_SERVER__API_KEY__FILE=PATH``. One line feed at the
file's end does not belong to the secret.
"""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from policyctl.config.keys import FILE, Key, keys
from policyctl.config.layers import Layer, at, highest
from policyctl.documents.document import Problem
from policyctl.plain_files import read_plain

_MOST_BYTES: Final = 64 << 10


class Secrets(NamedTuple):
    """The settings with every secret as its text, and what is wrong, or too open, with the `files` that hold one."""

    data: dict[str, Any]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    files: tuple[Path, ...]


def resolved(model: type[BaseModel], data: Mapping[str, Any], layers: Sequence[Layer]) -> Secrets:
    """Read the secrets that stand in separate files."""
    problems, warnings, files = list[Problem](), [], list[Path]()
    opened = stubbed(model, data)
    for path, key in keys(model).items():
        value = at(data, path)
        if not key.secret or not isinstance(value, Mapping):
            continue
        layer = highest(layers, path) or layers[-1]
        name = value.get(FILE)
        if set(value) != {FILE} or not isinstance(name, str) or not name:
            named = ", ".join(map(str, value))
            problems.append(layer.problem(path, f"a mapping of {named}", "a text, or {file: PATH}"))
            continue
        files.append(Path(name))
        try:
            at(opened, path[:-1])[path[-1]] = _read(Path(name))
        except ValueError as error:
            problems.append(layer.problem(path, f"{name} {error}", "a file that holds the secret"))
            continue
        if _is_open(os.stat(name).st_mode):  # noqa: PTH116 - follows links, as reading did
            warnings.append(f"{key.name}: everybody on this machine can read {name}; chmod 600 {name}")
    return Secrets(opened, tuple(problems), tuple(warnings), tuple(files))


def stubbed(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `data` with an empty text for every secret that stands in a file, which is not read."""
    copied = copy.deepcopy(dict(data))
    for path, key in keys(model).items():
        if key.secret and isinstance(at(copied, path), Mapping):
            at(copied, path[:-1])[path[-1]] = ""
    return copied


def plain(model: type[BaseModel], layer: Layer) -> tuple[Key, ...]:
    """The secrets whose text stands in a settings file."""
    if not layer.file:
        return ()
    texts = ((key, at(layer.data, path)) for path, key in keys(model).items() if key.secret)
    return tuple(key for key, value in texts if isinstance(value, str) and value)


def exposed(model: type[BaseModel], layer: Layer) -> tuple[str, ...]:
    """A sentence for each secret in a settings file that everybody on this machine can read."""
    if not _is_open(layer.mode):
        return ()
    return tuple(
        f"{key.name} ({layer.place(key.path)}): everybody on this machine can read {layer.file};"
        f" chmod 600 {layer.file}, or keep the secret in a separate file"
        for key in plain(model, layer)
    )


def _is_open(mode: int) -> bool:
    return bool(mode & stat.S_IROTH)


def _read(path: Path) -> str:
    """The secret in a file.

    Raises:
        ValueError: The file holds none; says why.
    """
    try:
        text = read_plain(path, most_bytes=_MOST_BYTES, follow_links=True).decode()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8") from error
    if not text.strip():
        raise ValueError("is empty")
    return text.removesuffix("\n").removesuffix("\r")
