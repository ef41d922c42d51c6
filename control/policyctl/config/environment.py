"""Settings from the environment: which variable sets what, and which ones are unknown.

A misspelt variable is refused and not ignored: the command would work on
another repository than was meant.
"""

from __future__ import annotations

import json
import os
import re
from difflib import get_close_matches
from typing import Any, Final, get_origin

from pydantic import BaseModel

from policyctl.config.keys import FILE, groups, holds, key_at, keys
from policyctl.config.layers import Layer, LayerKind, over
from policyctl.documents.document import Path, Problem, path_words

# Kubernetes sets these by itself where a service is called policyctl.
_NOT_OURS: Final = re.compile(r"(SERVICE_HOST|SERVICE_PORT|PORT)(_.*)?")
_CONFIG: Final = "CONFIG"
PROFILE: Final = "profile"
_NOTHING: Final = "null"


def prefix(model: type[BaseModel]) -> str:
    """What every variable begins with."""
    return str(getattr(model, "ENV_PREFIX", ""))


def config_variable(model: type[BaseModel]) -> str:
    """The variable that names the base file."""
    return prefix(model) + _CONFIG


def layer(model: type[BaseModel]) -> Layer:
    """What the environment sets, and which variables are wrong."""
    data: dict[str, Any] = {}
    problems: list[Problem] = []
    variables = _by_path(model)
    # A group in JSON comes before the variables of its settings, which are laid over it.
    for path, name in sorted(variables.items(), key=lambda item: len(item[0])):
        # Compose files hand over an empty variable for one that is not set.
        if path == (PROFILE,) and not os.environ[name]:
            continue
        value: Any = _unknown(model, path, name) or _value(model, path, name)
        if isinstance(value, Problem):
            problems.append(value)
            continue
        for part in reversed(path):
            value = {part: value}
        data = over(data, value)
    # Who sets the file of a secret sets the secret.
    of_secrets = {path[:-1]: name for path, name in variables.items() if path[-1] == FILE}
    return Layer(LayerKind.ENVIRONMENT, data, variables=of_secrets | variables, problems=tuple(problems))


def _by_path(model: type[BaseModel]) -> dict[Path, str]:
    """Every variable with our prefix, by what it would set; without those that set nothing."""
    start = prefix(model)
    names = {name: name.upper().removeprefix(start) for name in sorted(os.environ) if name.upper().startswith(start)}
    return {
        tuple(rest.lower().split("__")): name
        for name, rest in names.items()
        if rest != _CONFIG and not _NOT_OURS.fullmatch(rest)
    }


def _unknown(model: type[BaseModel], path: Path, name: str) -> Problem | None:
    """What to write instead of a variable that sets nothing."""
    key = key_at(model, path)
    rest = path if key is None else path[len(key.path) :]
    if path in groups(model) or (key is not None and (not rest or key.free or (key.secret and rest == (FILE,)))):
        return None
    variables = [each.variable(prefix(model)) for each in keys(model).values()]
    near = get_close_matches(name.upper(), variables, n=1, cutoff=0.75)
    expected = f"{near[0]}, or another setting" if near else "a setting"
    named = path_words(path) if path[0] in model.model_fields else ""
    return Problem(0, named, "unknown", f"{expected}; two underscores go one level down", source=name)


def _value(model: type[BaseModel], path: Path, name: str) -> Any:
    """What a variable says; a problem, which does not show it, where it has to be JSON and is not."""
    text, group, key = os.environ[name], path in groups(model), keys(model).get(path)
    if not group and (key is None or get_origin(holds(key.info)[0]) not in {dict, tuple, list}):
        return None if text == _NOTHING else text
    expected = f"JSON; or set its parts: {name}__..." if group else "JSON"
    try:
        value = json.loads(text)
    except ValueError:
        return Problem(0, path_words(path), "a text", expected, source=name)
    if group and not isinstance(value, dict):
        return Problem(0, path_words(path), "no mapping", expected, source=name)
    return value
