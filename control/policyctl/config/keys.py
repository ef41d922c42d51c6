"""The names in a tree of settings: what each holds, when a change of it counts, and the nearest to a misspelt one."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from policyctl.documents.document import Path
from policyctl.errors import UsageError

APPLIES: Final = "x-applies"
"""In ``json_schema_extra`` of a group or a field: an `Applies`."""
FILE: Final = "file"
"""The one key of a secret that stands in a file of its own."""
MASK: Final = "********"


class Applies(StrEnum):
    """When a change counts."""

    LIVE = "live"
    """A running `policyctl serve` takes it over within seconds; every command reads it anew."""
    COMMAND = "command"
    """Every command reads it anew."""
    MOVE = "move"
    """When an alias is moved the next time."""
    START = "start"
    """When `policyctl serve` is started the next time."""


@dataclass(frozen=True, slots=True)
class Key:
    """One setting.

    Attributes:
        path: Its name, group by group.
        info: What pydantic knows of it.
        applies: When a change of it counts.
        secret: Whether it is never shown, and may stand in a file of its own.
        free: Whether it is a mapping with names of the user's own.
    """

    path: tuple[str, ...]
    info: FieldInfo
    applies: Applies
    secret: bool
    free: bool

    @property
    def name(self) -> str:
        """``server.http_port``."""
        return ".".join(self.path)

    def variable(self, prefix: str) -> str:
        """``POLICYCTL_SERVER__HTTP_PORT``."""
        return prefix + "__".join(self.path).upper()


@cache
def keys(model: type[BaseModel]) -> Mapping[Path, Key]:
    """Every setting of a tree, in its order."""
    return {key.path: key for key in _walk(model, (), Applies.START)}


@cache
def groups(model: type[BaseModel]) -> Mapping[Path, type[BaseModel]]:
    """Every group of a tree, the tree itself first."""
    found: dict[Path, type[BaseModel]] = {(): model}
    for name, info in model.model_fields.items():
        if (group := group_of(info)) is not None:
            found |= {(name, *path): each for path, each in groups(group).items()}
    return found


def group_of(info: FieldInfo) -> type[BaseModel] | None:
    """The group that a field is; None for a setting."""
    found = info.annotation
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def holds(info: FieldInfo) -> tuple[Any, bool]:
    """A field's type without None, and whether it may be None."""
    if get_origin(info.annotation) in {Union, types.UnionType}:
        members = [each for each in get_args(info.annotation) if each is not type(None)]
        return members[0], len(members) < len(get_args(info.annotation))
    return info.annotation, False


def _walk(model: type[BaseModel], path: tuple[str, ...], inherited: Applies) -> Iterator[Key]:
    own = _declared(model.model_config.get("json_schema_extra"), inherited)
    for name, info in model.model_fields.items():
        applies = _declared(info.json_schema_extra, own)
        if (group := group_of(info)) is not None:
            yield from _walk(group, (*path, name), applies)
            continue
        kind, _ = holds(info)
        yield Key((*path, name), info, applies, secret=kind is SecretStr, free=get_origin(kind) is dict)


def _declared(extra: Any, otherwise: Applies) -> Applies:
    return Applies(extra[APPLIES]) if isinstance(extra, Mapping) and APPLIES in extra else otherwise


def flat(model: type[BaseModel], data: Mapping[str, Any]) -> dict[Path, Any]:
    """What `data` sets, by setting: ``("server", "http_port")``, ``("serving", "parameters", "NUM_STREAMS")``.

    What is no setting is there as well, as deep as it is no group.
    """
    known, nested, found = keys(model), groups(model), dict[Path, Any]()

    def visit(path: Path, value: Any) -> None:
        if isinstance(value, Mapping) and (path in nested or (path in known and known[path].free and value)):
            for key, each in value.items():
                visit((*path, key), each)
        else:
            found[path] = value

    visit((), data)
    return found


def key_at(model: type[BaseModel], path: Path) -> Key | None:
    """The setting that `path` names, or lies in."""
    known = keys(model)
    return next((known[path[:end]] for end in range(len(path), 0, -1) if path[:end] in known), None)


def shown(model: type[BaseModel], path: Path, value: Any) -> Any:
    """`value` as it may be shown: a secret is masked, its file is not."""
    key = key_at(model, path)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    elif key is None or not key.secret:
        return value
    if isinstance(value, Mapping):
        return dict(value) if set(value) == {FILE} else MASK
    return MASK if value else ""


def masked(settings: BaseModel) -> dict[tuple[str, ...], Any]:
    """Every setting and its value, as it may be shown and as JSON has it."""
    found = dict[tuple[str, ...], Any]()
    written = settings.model_dump(mode="json")
    for key in keys(type(settings)).values():
        value = value_at(settings, key.path)
        if isinstance(value, SecretStr):
            found[key.path] = shown(type(settings), key.path, value)
            continue
        here: Any = written
        for part in key.path:
            here = here[part]
        found[key.path] = here
    return found


def value_at(settings: BaseModel, path: tuple[str, ...]) -> Any:
    """The value of a setting."""
    value: Any = settings
    for part in path:
        value = getattr(value, part)
    return value


def nearest(model: type[BaseModel], path: Path) -> str:
    """What to write instead of a name that is none: ``http_port, or another of: host, ...``."""
    parent = next((path[:end] for end in range(len(path) - 1, -1, -1) if path[:end] in groups(model)), ())
    names = list(groups(model)[parent].model_fields)
    wrong = str(path[len(parent)])
    if near := get_close_matches(wrong, names, n=1):
        return f"{near[0]}, or another of: {', '.join(names)}"
    ends = {".".join(map(str, p)): p[-1] for p in (*keys(model), *groups(model)) if p}
    elsewhere = [name for name, last in ends.items() if last == wrong]
    return (f"{elsewhere[0]}, or " if elsewhere else "") + f"one of: {', '.join(names)}"


def select(model: type[BaseModel], name: str) -> tuple[Key, ...]:
    """The settings that a person means by ``server.http_port``, or by ``server``.

    Raises:
        UsageError: There is none; names the nearest.
    """
    path = tuple(name.split(".")) if name else ()
    found = tuple(key for key in keys(model).values() if key.path[: len(path)] == path)
    if not found and (inside := key_at(model, path)) is not None and inside.free:
        return (inside,)
    if not found:
        names = [key.name for key in keys(model).values()]
        hint = get_close_matches(name, names, n=3, cutoff=0.4)
        raise UsageError(
            f"{name} is not a setting" + (f"; near it: {', '.join(hint)}" if hint else ""),
            remedy="See all of them: policyctl config show",
        )
    return found
