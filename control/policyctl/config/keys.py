"""The names in a tree of settings: what each holds, when a change of it counts, and the nearest to a misspelt one."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cache, reduce
from operator import getitem
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from policyctl.documents.document import Path
from policyctl.documents.expected import nearest_name
from policyctl.errors import UsageError
from policyctl.plain_files import scheme_of

APPLIES: Final = "x-applies"
"""In ``json_schema_extra`` of a group or a field: an `Applies`."""
FILE: Final = "file"
"""The one key of a secret that stands in a separate file."""
MASK: Final = "********"


class Applies(StrEnum):
    """When a change counts."""

    LIVE = "live"
    """A running `policyctl serve` takes it over within seconds; every command reads it."""
    COMMAND = "command"
    """The next command reads it."""
    MOVE = "move"
    """When an alias is moved the next time."""
    START = "start"
    """When `policyctl serve` is started the next time."""


@dataclass(frozen=True, slots=True)
class Key:
    """One setting.

    Attributes:
        applies: When a change of it counts.
        secret: Whether it is never shown, and may stand in a separate file.
        free: Whether it is a mapping with the user's names.
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
    nested: dict[Path, type[BaseModel]] = {(): model}
    for name, info in model.model_fields.items():
        if (group := group_of(info)) is not None:
            nested |= {(name, *path): each for path, each in groups(group).items()}
    return nested


def settings_of(model: type[BaseModel], group: Path) -> list[Key]:
    """The settings directly in a group."""
    return [key for path, key in keys(model).items() if path[:-1] == group]


def group_of(info: FieldInfo) -> type[BaseModel] | None:
    """The group that a field is; None for a setting."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


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

    Unknown settings are there as well.
    """
    known, nested, settings = keys(model), groups(model), dict[Path, Any]()

    def visit(path: Path, value: Any) -> None:
        if isinstance(value, Mapping) and (path in nested or (path in known and known[path].free and value)):
            for key, each in value.items():
                visit((*path, key), each)
        else:
            settings[path] = value

    visit((), data)
    return settings


def key_at(model: type[BaseModel], path: Path) -> Key | None:
    """The setting that `path` names, or lies in."""
    known = keys(model)
    return next((known[path[:end]] for end in range(len(path), 0, -1) if path[:end] in known), None)


def shown(model: type[BaseModel], path: Path, value: Any) -> Any:
    """`value` as it may be shown: a secret is masked, its file is not; a URL's user, query and fragment are."""
    key = key_at(model, path)
    if key is None or not key.secret:
        return _shown_url(value)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, Mapping):
        return dict(value) if set(value) == {FILE} else MASK
    return MASK if value else ""


def _shown_url(value: Any) -> Any:
    if not isinstance(value, str) or not (scheme := scheme_of(value)):
        return value
    user, at, rest = value.removeprefix(scheme).rpartition("@")
    place = re.split("[?#]", rest, maxsplit=1)[0]
    return f"{scheme}{MASK if user else ''}{at}{place}{'' if place == rest else rest[len(place)] + MASK}"


def masked(settings: BaseModel) -> dict[tuple[str, ...], Any]:
    """Every setting and its value, as it may be shown and as JSON has it."""
    written = settings.model_dump(mode="json")

    def one(key: Key) -> Any:
        if key.secret:
            return shown(type(settings), key.path, value_at(settings, key.path))
        return _shown_url(reduce(getitem, key.path, written))

    return {key.path: one(key) for key in keys(type(settings)).values()}


def value_at(settings: BaseModel, path: tuple[str, ...]) -> Any:
    """The value of a setting."""
    return reduce(getattr, path, settings)


def nearest(model: type[BaseModel], path: Path) -> str:
    """What to write instead of a name that is unknown: ``http_port, or another of: host, ...``."""
    parent = next((path[:end] for end in range(len(path) - 1, -1, -1) if path[:end] in groups(model)), ())
    wrong, names = str(path[len(parent)]), list(groups(model)[parent].model_fields)
    if get_close_matches(wrong, names, n=1):
        return nearest_name(wrong, names)
    elsewhere = [".".join(map(str, p)) for p in (*keys(model), *groups(model)) if p and p[-1] == wrong]
    return "".join(f"{name}, or " for name in elsewhere[:1]) + nearest_name(wrong, names)


def select(model: type[BaseModel], name: str) -> tuple[Key, ...]:
    """The settings that a person means by ``server.http_port``, or by ``server``.

    Raises:
        UsageError: The setting is unknown; names the nearest.
    """
    path = tuple(name.split(".")) if name else ()
    selected = tuple(key for key in keys(model).values() if key.path[: len(path)] == path)
    if not selected and (inside := key_at(model, path)) is not None and inside.free:
        return (inside,)
    if not selected:
        hint = get_close_matches(name, [key.name for key in keys(model).values()], n=3, cutoff=0.4)
        raise UsageError(
            f"unknown setting {name}" + (f"; near it: {', '.join(hint)}" if hint else ""),
            remedy="See all of them: policyctl config show",
        )
    return selected
