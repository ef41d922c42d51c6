"""Write settings files: a first one to fill in, and an old one in today's schema."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from policyctl.adapters.files import storage_error, write_atomically
from policyctl.config import rules
from policyctl.config.files import STEM, read_file
from policyctl.config.keys import Key, groups, keys, masked
from policyctl.config.lineage import SCHEMA, lineage
from policyctl.config.migrating import migrated, toml_value
from policyctl.documents.yaml_text import dump
from policyctl.errors import UsageError
from policyctl.settings import Settings

NEWEST: Final = lineage(Settings).newest
_HEAD: Final = """\
## Settings of policyctl. What stands behind one # is a default: take the # away to change it.
## policyctl config validate says what is wrong, policyctl config explain KEY what a setting does.
"""
_PROFILE_HEAD: Final = """\
## Settings of policyctl in the profile {profile}; they lie over {base}.
{rules}"""


@dataclass(frozen=True, slots=True)
class Written:
    """A settings file that was, or would be, written.

    Attributes:
        path: Which.
        text: All of it.
        schema_before: Of a migrated one: what it was written in.
        changed: Whether it is another than before.
    """

    path: Path
    text: str
    schema_before: int = NEWEST
    changed: bool = True


def starter(profile: str = "", *, toml: bool = False) -> str:
    """The text of a settings file to fill in.

    Args:
        profile: Whose file; empty for the base file.
        toml: TOML instead of YAML.
    """
    if profile:
        return _profile_starter(profile, toml=toml)
    lines = [_HEAD, f"{SCHEMA} = {NEWEST}\n" if toml else f"{SCHEMA}: {NEWEST}\n"]
    # In TOML what belongs to no group has to come first.
    nested = groups(Settings)
    for group in nested:
        own = [key for key in keys(Settings).values() if key.path[:-1] == group]
        if own:
            lines.append(_group(group, nested[group], own, toml=toml))
    return "\n".join(lines)


def _group(path: tuple[Any, ...], group: type[BaseModel], own: list[Key], *, toml: bool) -> str:
    defaults = masked(Settings())
    indent = "" if toml else "  " * len(path)
    head = ""
    if path:
        doc = (group.__doc__ or "").strip().splitlines()[0]
        name = ".".join(map(str, path))
        head = f"## {doc}\n[{name}]\n" if toml else f"{indent[2:]}## {doc}\n{indent[2:]}{path[-1]}:\n"
    lines = [
        f"{indent}## {key.info.description or ''}\n{indent}{_assigned(key, defaults[key.path], toml=toml)}\n"
        for key in own
    ]
    return head + "".join(lines)


def _assigned(key: Key, value: Any, *, toml: bool) -> str:
    name = str(key.path[-1])
    if key.secret:
        return f'## {name} = {{file = "PATH"}}' if toml else f"## {name}: {{file: PATH}}"
    if toml:
        return f"# {name} = {toml_value(value)}"
    return f"# {name}: {toml_value(value)}" if isinstance(value, list) else f"# {dump({name: value}).rstrip()}"


def _profile_starter(profile: str, *, toml: bool) -> str:
    told = "".join(f"## It asks: {rule.words}.\n" for rule in rules.RULES.get(profile, ()))
    base = f"{STEM}.toml" if toml else f"{STEM}.yaml"
    parts = [_PROFILE_HEAD.format(profile=profile, base=base, rules=told)]
    if profile in rules.NO_PLAIN_SECRETS:
        parts.append("## Secrets stand in files of their own: {file: PATH}.\n")
    data: dict[str, Any] = {}
    for path, value in rules.STARTER.get(profile, {}).items():
        data.setdefault(str(path[0]), {})[str(path[1])] = value
    if toml:
        parts.append(f"{SCHEMA} = {NEWEST}\n")
        parts += [
            f"\n[{group}]\n" + "".join(f"{k} = {toml_value(v)}\n" for k, v in values.items())
            for group, values in data.items()
        ]
    else:
        parts.append(dump({SCHEMA: NEWEST, **data}))
    return "".join(parts)


def init(path: Path, text: str, *, dry_run: bool) -> Written:
    """Write a settings file where there is none.

    Raises:
        UsageError: There is one, or the disk refuses.
    """
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} is there already, and is not overwritten", remedy="Name another, or edit that one.")
    if not dry_run:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error
        # For its owner alone: somebody will write a key into it.
        write_atomically(path, text.encode(), mode=0o600)
    return Written(path, text)


def migrate(path: Path, *, to: int = NEWEST, dry_run: bool) -> Written:
    """Write a settings file in another schema, with its comments and its permissions.

    Raises:
        UsageError: It is no settings file, or the disk refuses; it is as it was.
    """
    target = path.resolve()
    found = read_file(Settings, target)
    text = migrated(Settings, found.content, suffix=path.suffix, to=to)
    changed = text.encode() != found.content
    if changed and not dry_run:
        write_atomically(target, text.encode(), mode=stat.S_IMODE(target.stat().st_mode))
    return Written(path, text, found.schema, changed)
