"""Settings files: which are read, and what each sets, with the line of every field.

The base file is the one that is named, else the only one of `NAMES` in the
working directory. The file of a profile lies beside it: ``policyctl.yaml`` and
``policyctl.production.yaml``. Two that could both be meant are refused.

YAML is read by the core schema of YAML 1.2, because to readers of 1.1 ``off``
is not a text and ``signatures: off`` would be a truth value.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from policyctl.config.keys import FILE, groups, holds, keys
from policyctl.config.lineage import SCHEMA, lineage, misplaced
from policyctl.config.problems import SettingProblem
from policyctl.documents.document import Document
from policyctl.documents.document import Path as Where
from policyctl.errors import UsageError

SUFFIXES: Final = (".yaml", ".yml", ".toml")
STEM: Final = "policyctl"
NAMES: Final = tuple(f"{STEM}{suffix}" for suffix in SUFFIXES)


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """One settings file as it was read.

    Attributes:
        path: Where it is.
        content: All of it.
        mode: Its permissions.
        schema: Which one it is written in.
        data: What it sets, in the newest schema, without its number.
        lines: Where each field stands.
        problems: What no settings file may hold.
    """

    path: Path
    content: bytes
    mode: int
    schema: int
    data: Mapping[str, Any]
    lines: Mapping[Where, int]
    problems: tuple[SettingProblem, ...] = ()


def find_base(named: Path | None, folder: Path) -> Path | None:
    """The base file; None where there is none.

    Args:
        named: By an option or a variable.
        folder: Where to look otherwise.

    Raises:
        UsageError: The named one is not there, or `folder` holds two.
    """
    if named is not None:
        try:
            there = named.is_file()
        except OSError as error:
            raise UsageError(
                f"settings: {named} cannot be read ({error.strerror})", remedy="Check the permissions of its folder."
            ) from error
        if not there:
            raise UsageError(
                f"settings: {named} is not a file", remedy="Name a .yaml or .toml file: --config, POLICYCTL_CONFIG."
            )
        return named
    return _only(folder, STEM)


def find_profile(base: Path | None, folder: Path, profile: str) -> Path | None:
    """The file of a profile, beside the base file; None where there is none.

    Raises:
        UsageError: There are two.
    """
    if base is None:
        return _only(folder, f"{STEM}.{profile}")
    return _only(base.parent, f"{base.stem}.{profile}")


def profiles_beside(base: Path | None, folder: Path) -> tuple[str, ...]:
    """Every profile that has a file beside the base file."""
    stem, place = (STEM, folder) if base is None else (base.stem, base.parent)
    found = {
        path.name.removesuffix(path.suffix).removeprefix(f"{stem}.")
        for path in _entries(place)
        if path.suffix in SUFFIXES and path.name.startswith(f"{stem}.") and path.name != f"{stem}{path.suffix}"
    }
    return tuple(sorted(found))


def _entries(folder: Path) -> tuple[Path, ...]:
    try:
        return tuple(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ()


def _only(folder: Path, stem: str) -> Path | None:
    try:
        found = [path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    except PermissionError:
        return None  # whoever may not look into the working directory keeps no settings there
    if len(found) > 1:
        raise UsageError(
            f"settings: {' and '.join(str(path) for path in found)} are both there, expected one of them",
            remedy="Remove or rename one.",
        )
    return found[0] if found else None


def read_file(model: type[BaseModel], path: Path) -> SettingsFile:
    """Read one settings file.

    Raises:
        UsageError: It cannot be read, or is neither YAML nor TOML.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"settings: {path} is not a file", remedy="Name a .yaml or .toml file.")
            content = stream.read()
    except OSError as error:
        raise UsageError(
            f"settings: {path} cannot be read ({error.strerror})", remedy="Check that it is there, and its permissions."
        ) from error
    return parse_file(model, path, content, mode=stat.S_IMODE(status.st_mode))


def parse_file(model: type[BaseModel], path: Path, content: bytes, *, mode: int = 0o600) -> SettingsFile:
    """What `content`, as the file `path`, sets.

    Raises:
        UsageError: It is neither YAML nor TOML.
    """
    from policyctl.documents import toml_text, yaml_text

    if path.suffix not in SUFFIXES:
        raise UsageError(f"settings: {path} is neither .yaml nor .toml", remedy="Name it by what it holds.")
    reader = toml_text if path.suffix == ".toml" else yaml_text
    document = reader.parse(content, what=str(path))
    problems = [SettingProblem(str(path), p.line, p.path, p.found, p.expected) for p in document.complaints]
    schema = document.data.get(SCHEMA)
    newest = lineage(model).newest
    # Pydantic would take a name with a leading underscore for an option of its own.
    ours = {key for key in document.data if key.startswith("_")}
    problems += [SettingProblem(str(path), document.line((key,)), key, "unknown", "a setting") for key in sorted(ours)]
    data = {key: value for key, value in document.data.items() if key != SCHEMA and key not in ours}
    lines = {where: line for where, line in document.lines.items() if where[:1] != (SCHEMA,)}
    if type(schema) is not int or not 1 <= schema <= newest:
        found = "" if SCHEMA not in document.data else repr(schema)
        expected = f"{newest}, the schema of the file (older ones: policyctl config migrate)"
        if type(schema) is int and schema > newest:
            expected = f"at most {newest}: the file was written for a newer policyctl, so update this one"
        problems.append(SettingProblem(str(path), document.line((SCHEMA,)), SCHEMA, found, expected))
        schema = newest
    if schema < newest:
        problems += [
            SettingProblem(str(path), document.line((name,)), name, "", expected)
            for name, expected in misplaced(model, data).items()
        ]
        data = dict(lineage(model).upgrade(data, schema))
        lines = _upgraded(document)
    return SettingsFile(path, content, mode, schema, _anchored(model, _tidy(model, data), path), lines, tuple(problems))


def _upgraded(document: Document) -> dict[Where, int]:
    lines: dict[Where, int] = {(): 1}
    for where, line in document.lines.items():
        if where and where[0] != SCHEMA:
            path = (*str(where[0]).split("."), *where[1:])
            for end in range(1, len(path) + 1):
                lines.setdefault(path[:end], line)
    return lines


def _tidy(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` without groups in which every line is a comment."""

    def visit(path: Where, value: Any) -> Any:
        if isinstance(value, Mapping) and path in groups(model):
            return {
                key: visit((*path, key), each)
                for key, each in value.items()
                if not (each is None and (*path, key) in groups(model))
            }
        return value

    found: dict[str, Any] = visit((), data)
    return found


def _anchored(model: type[BaseModel], data: dict[str, Any], file: Path) -> dict[str, Any]:
    """`data` with its paths as seen from the working directory: in a file they are told from its own folder."""
    for path, key in keys(model).items():
        parent: Any = data
        for part in path[:-1]:
            parent = parent.get(part) if isinstance(parent, dict) else None
        if not isinstance(parent, dict) or path[-1] not in parent:
            continue
        value = parent[path[-1]]
        if holds(key.info)[0] is Path and isinstance(value, str) and value:
            parent[path[-1]] = str(file.parent / value)
        elif key.secret and isinstance(value, Mapping) and isinstance(value.get(FILE), str):
            parent[path[-1]] = {**value, FILE: str(file.parent / value[FILE])}
    return data
