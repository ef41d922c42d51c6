"""Write a first settings file to fill in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from policyctl.adapters.files import storing, write_atomically
from policyctl.config import rules
from policyctl.config.files import SCHEMA, SCHEMA_VERSION, STEM, SUFFIXES
from policyctl.config.keys import Key, groups, masked, settings_of
from policyctl.documents.toml_text import value_text
from policyctl.documents.yaml_text import dump
from policyctl.errors import UsageError
from policyctl.settings import Settings

_HEAD: Final = """\
## Settings of policyctl. What stands behind one # is a default: take the # away to change it.
## policyctl config validate says what is wrong, policyctl config explain KEY what a setting does.
"""
_PROFILE_HEAD: Final = """\
## Settings of policyctl in the profile {profile}; they lie over {base}.
{rules}"""


def starter(profile: str = "", *, toml: bool = False) -> str:
    """The text of a settings file to fill in.

    Args:
        profile: Whose file; empty for the base file.
    """
    if profile:
        return _profile_starter(profile, toml=toml)
    lines = [_HEAD, f"{SCHEMA} = {SCHEMA_VERSION}\n" if toml else f"{SCHEMA}: {SCHEMA_VERSION}\n"]
    # The settings of no group come first, as TOML asks.
    for path, group in groups(Settings).items():
        if direct := settings_of(Settings, path):
            lines.append(_group(path, group, direct, toml=toml))
    return "\n".join(lines)


def _group(path: tuple[Any, ...], group: type[BaseModel], direct: list[Key], *, toml: bool) -> str:
    defaults = masked(Settings())
    indent = "" if toml else "  " * len(path)
    head = ""
    if path:
        doc = (group.__doc__ or "").strip().splitlines()[0]
        name = ".".join(map(str, path))
        head = f"## {doc}\n[{name}]\n" if toml else f"{indent[2:]}## {doc}\n{indent[2:]}{path[-1]}:\n"
    lines = [
        f"{indent}## {key.info.description or ''}\n{indent}{_assigned(key, defaults[key.path], toml=toml)}\n"
        for key in direct
    ]
    return head + "".join(lines)


def _assigned(key: Key, value: Any, *, toml: bool) -> str:
    name = str(key.path[-1])
    if key.secret:
        return f'## {name} = {{file = "PATH"}}' if toml else f"## {name}: {{file: PATH}}"
    if toml:
        return f"# {name} = {value_text(value)}"
    return f"# {name}: {value_text(value)}" if isinstance(value, list) else f"# {dump({name: value}).rstrip()}"


def _profile_starter(profile: str, *, toml: bool) -> str:
    asked = "".join(f"## It asks: {rule.words}.\n" for rule in rules.RULES.get(profile, ()))
    base = f"{STEM}.toml" if toml else f"{STEM}.yaml"
    parts = [_PROFILE_HEAD.format(profile=profile, base=base, rules=asked)]
    if profile in rules.NO_PLAIN_SECRETS:
        parts.append("## Secrets stand in separate files: {file: PATH}.\n")
    data: dict[str, Any] = {}
    for path, value in rules.STARTER.get(profile, {}).items():
        data.setdefault(str(path[0]), {})[str(path[1])] = value
    if toml:
        parts.append(f"{SCHEMA} = {SCHEMA_VERSION}\n")
        parts += [
            f"\n[{group}]\n" + "".join(f"{k} = {value_text(v)}\n" for k, v in values.items())
            for group, values in data.items()
        ]
    else:
        parts.append(dump({SCHEMA: SCHEMA_VERSION, **data}))
    return "".join(parts)


def init(path: Path, text: str, *, dry_run: bool) -> None:
    """Write a settings file that does not exist yet.

    Raises:
        UsageError: There is one, its name does not say what it holds, or the disk refuses.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} is neither .yaml nor .toml", remedy="Name it by what it is to hold.")
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists already, and is not overwritten", remedy="Name another, or edit that one.")
    if not dry_run:
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        # For its owner alone: somebody will write a key into it.
        write_atomically(path, text.encode(), mode=0o600)
