"""Settings files: which are read, and what each sets, with the line of every field.

The base file is the one that is named, else the only one of `NAMES` in the
working directory. The file of a profile lies next to it: ``policyctl.yaml`` and
``policyctl.production.yaml``. Two that could both be meant are refused.

YAML is read by the core schema of YAML 1.2, because to readers of 1.1 ``off``
is not a text and ``signatures: off`` would be a truth value.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from policyctl.config.keys import FILE, groups, holds, keys
from policyctl.config.layers import Layer, LayerKind, at
from policyctl.documents.document import Document, Problem
from policyctl.documents.document import Path as Where
from policyctl.errors import UsageError
from policyctl.plain_files import NOTE_BYTES, denied, read_plain, unreadable

SUFFIXES: Final = (".yaml", ".yml", ".toml")
STEM: Final = "policyctl"
NAMES: Final = tuple(f"{STEM}{suffix}" for suffix in SUFFIXES)
SCHEMA: Final = "schema"
"""The field of a file that says which schema it follows."""
SCHEMA_VERSION: Final = 2
_REMEDY: Final = "Name a .yaml or .toml file: --config, POLICYCTL_CONFIG."


def find_base(named: Path | None, folder: Path) -> Path | None:
    """The base file, if there is one.

    Args:
        named: By an option or a variable.
        folder: Where to look otherwise.

    Raises:
        UsageError: The named one does not exist, or `folder` holds two.
    """
    if named is None:
        return _only(folder, STEM)
    try:
        there = named.is_file()
    except OSError as error:
        raise unreadable(named, error, remedy=_REMEDY) from error
    if not there:
        raise UsageError(f"settings: {named} is not a file", remedy=_REMEDY)
    return named


def find_profile(base: Path | None, folder: Path, profile: str) -> Path | None:
    """The file of a profile, next to the base file, if there is one.

    Raises:
        UsageError: There are two.
    """
    stem, place = _stem(base, folder)
    return _only(place, f"{stem}.{profile}")


def profiles_beside(base: Path | None, folder: Path) -> tuple[str, ...]:
    """Every profile that has a file next to the base file."""
    stem, place = _stem(base, folder)
    try:
        files = [path for path in place.iterdir() if path.suffix in SUFFIXES and path.stem.startswith(f"{stem}.")]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except PermissionError as error:
        raise denied(error) from error
    return tuple(sorted({path.stem.removeprefix(f"{stem}.") for path in files}))


def _stem(base: Path | None, folder: Path) -> tuple[str, Path]:
    return (STEM, folder) if base is None else (base.stem, base.parent)


def _only(folder: Path, stem: str) -> Path | None:
    try:
        present = [path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    except PermissionError as error:
        raise denied(error) from error
    if len(present) > 1:
        raise UsageError(
            f"settings: {' and '.join(map(str, present))} are both there, expected one of them",
            remedy="Remove or rename one.",
        )
    return present[0] if present else None


def read_file(model: type[BaseModel], path: Path, kind: LayerKind) -> Layer:
    """Read one settings file.

    Raises:
        UsageError: It cannot be read, or is neither YAML nor TOML.
    """
    try:
        content = read_plain(path, most_bytes=NOTE_BYTES, follow_links=True)
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise unreadable(path, error, remedy="Check that it is there.") from error
    return parse_file(model, path, content, kind=kind, mode=mode)


def parse_file(
    model: type[BaseModel], path: Path, content: bytes, *, kind: LayerKind = LayerKind.BASE, mode: int = 0o600
) -> Layer:
    """What `content`, as the file `path`, sets."""
    from policyctl.documents import toml_text, yaml_text

    if path.suffix not in SUFFIXES:
        raise UsageError(f"settings: {path} is neither .yaml nor .toml", remedy="Name it by what it holds.")
    reader = toml_text if path.suffix == ".toml" else yaml_text
    document = reader.parse(content, what=str(path))
    # Pydantic would take a name with a leading underscore for one of its options.
    data = {key: value for key, value in document.data.items() if key != SCHEMA and not key.startswith("_")}
    return Layer(
        kind,
        _anchored(model, _without_empty_groups(model, data), path),
        file=str(path),
        mode=mode,
        lines={where: line for where, line in document.lines.items() if where[:1] != (SCHEMA,)},
        problems=tuple(_refused(document, path)),
    )


def _refused(document: Document, path: Path) -> Iterator[Problem]:
    """What no settings file may hold, whatever settings there are."""
    for each in document.complaints:
        yield replace(each, file=str(path))
    for key in document.data:
        if key.startswith("_"):
            yield Problem(document.line((key,)), key, "unknown", "a setting", str(path))
    schema = document.data.get(SCHEMA)
    if type(schema) is int and schema == SCHEMA_VERSION:
        return
    expected = f"{SCHEMA_VERSION}, the schema of the file"
    if type(schema) is int and schema > SCHEMA_VERSION:
        expected = f"{SCHEMA_VERSION}: a newer policyctl wrote the file, so update this one"
    stated = repr(schema) if SCHEMA in document.data else ""
    yield Problem(document.line((SCHEMA,)), SCHEMA, stated, expected, str(path))


def _without_empty_groups(model: type[BaseModel], data: Any, path: Where = ()) -> Any:
    """`data` without groups in which every line is a comment."""
    if not isinstance(data, Mapping) or path not in groups(model):
        return data
    return {
        key: _without_empty_groups(model, each, (*path, key))
        for key, each in data.items()
        if each is not None or (*path, key) not in groups(model)
    }


def _anchored(model: type[BaseModel], data: dict[str, Any], file: Path) -> dict[str, Any]:
    """`data` with its paths as seen from the working directory; a file states them from its own folder."""
    for path, key in keys(model).items():
        value = at(data, path)
        if holds(key.info)[0] is Path and isinstance(value, str) and value:
            at(data, path[:-1])[path[-1]] = str(file.parent / value)
        elif key.secret and isinstance(value, Mapping) and isinstance(value.get(FILE), str):
            at(data, path[:-1])[path[-1]] = {**value, FILE: str(file.parent / value[FILE])}
    return data
