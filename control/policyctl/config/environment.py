"""Settings from the environment: which variable sets what, and which ones are none.

Pydantic's own reader takes the values. What it ignores is looked for here: a
misspelt variable would be passed over, and the command would work on another
repository than was meant.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, get_origin

from pydantic_settings import BaseSettings, EnvSettingsSource

from policyctl.config.keys import FILE, flat, groups, holds, keys
from policyctl.config.layers import Layer, LayerKind
from policyctl.config.problems import SettingProblem
from policyctl.documents.document import Path

# Kubernetes sets these by itself where a service is called policyctl.
_NOT_OURS: Final = re.compile(r"(SERVICE_HOST|SERVICE_PORT|PORT)(_.*)?")
_CONFIG: Final = "CONFIG"
PROFILE: Final = "profile"


def prefix(model: type[BaseSettings]) -> str:
    """What every variable begins with."""
    return str(model.model_config.get("env_prefix", ""))


def config_variable(model: type[BaseSettings]) -> str:
    """The variable that names the base file."""
    return prefix(model) + _CONFIG


def layer(model: type[BaseSettings]) -> tuple[Layer, list[SettingProblem]]:
    """What the environment sets, and which variables are wrong."""
    unreadable = {problem.source: problem for problem in _unreadable(model)}
    source = EnvSettingsSource(model)
    # The reader stops at the first that is no JSON, so those are set aside before.
    aside = {name.lower() for name in unreadable}
    source.env_vars = {name: value for name, value in source.env_vars.items() if name.lower() not in aside}
    data: Mapping[str, Any] = source()
    # Compose files hand over an empty variable for one that is not set.
    data = {key: value for key, value in data.items() if (key, value) != (PROFILE, "")}
    variables = _by_path(model)
    places = {}
    for path in flat(model, data):
        for end in range(len(path), 0, -1):
            if path[:end] in variables:
                places[path] = variables[path[:end]]
                break
    return Layer(LayerKind.ENVIRONMENT, data, variables=variables | places), [*_unknown(model), *unreadable.values()]


def _by_path(model: type[BaseSettings]) -> dict[Path, str]:
    """Every variable with our prefix, by what it would set."""
    start = prefix(model)
    return {
        tuple(name.upper().removeprefix(start).lower().split("__")): name
        for name in sorted(os.environ)
        if name.upper().startswith(start)
    }


def _unknown(model: type[BaseSettings]) -> Iterator[SettingProblem]:
    start, known = prefix(model), keys(model)
    for path, name in _by_path(model).items():
        words = name.upper().removeprefix(start)
        if words == _CONFIG or _NOT_OURS.fullmatch(words) or _may_be(model, path):
            continue
        variables = [key.variable(start) for key in known.values()]
        near = get_close_matches(name.upper(), variables, n=1, cutoff=0.75)
        expected = f"{near[0]}, or another setting" if near else "a setting"
        key = "" if path[0] not in model.model_fields else ".".join(map(str, path))
        yield SettingProblem("", 0, key, "unknown", f"{expected}; two underscores go one level down", source=name)


def _may_be(model: type[BaseSettings], path: Path) -> bool:
    """Whether a variable for `path` sets something."""
    known = keys(model)
    for end in range(len(path), 0, -1):
        if (key := known.get(path[:end])) is not None:
            rest = path[end:]
            return not rest or key.free or (key.secret and rest == (FILE,))
    return path in groups(model)


def _unreadable(model: type[BaseSettings]) -> Iterator[SettingProblem]:
    """Variables that are no JSON where only JSON will do; what stands in them is not shown."""
    for path, name in _by_path(model).items():
        if path not in groups(model) and not _is_complex(model, path):
            continue
        expected = f"JSON; or set its parts: {name}__..." if path in groups(model) else "JSON"
        try:
            found = json.loads(os.environ[name])
        except ValueError:
            yield SettingProblem("", 0, ".".join(map(str, path)), "a text", expected, source=name)
            continue
        if path in groups(model) and not isinstance(found, dict):
            yield SettingProblem("", 0, ".".join(map(str, path)), "no mapping", expected, source=name)


def _is_complex(model: type[BaseSettings], path: Path) -> bool:
    key = keys(model).get(path)
    return key is not None and get_origin(holds(key.info)[0]) in {dict, tuple, list}
