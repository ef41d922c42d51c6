"""Make a gymnasium environment: its id, its arguments and the wrappers around it.

All three are other people's code. Whatever they raise is a refusal that names
the environment, with how to install what is missing where that is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policyctl.errors import UnsupportedError, UsageError
from policyctl.foreign_code import callable_named, importable


@dataclass(frozen=True, slots=True)
class Environment:
    """Which environment to play.

    Attributes:
        arguments: For ``gymnasium.make``.
        wrappers: Each ``package.module:callable``; called with the environment
            so far, the first one innermost, and gives the wrapped one.
    """

    id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """All of it in one line: returns compare only where this is the same."""
        given = ", ".join(f"{name}={value!r}" for name, value in sorted(self.arguments.items()))
        return " + ".join([f"{self.id}({given})" if given else self.id, *self.wrappers])

    def make(self) -> Any:
        """The environment.

        Raises:
            UsageError: There is no such environment, argument or wrapper; names the version that there is.
            UnsupportedError: Gymnasium, or what the environment needs, is not installed.
        """
        made = self._unwrapped()
        for name in self.wrappers:
            wrap = callable_named(name)
            try:
                made = wrap(made)
            # Whatever the wrapper's own code raises.
            except Exception as error:
                raise UsageError(
                    f"wrapper {name} raised {type(error).__name__}: {error}",
                    remedy="It is called with the environment alone, and gives the wrapped one.",
                ) from error
            if not all(hasattr(made, part) for part in ("reset", "step", "observation_space", "action_space")):
                raise UsageError(f"wrapper {name} gives {type(made).__name__}, expected an environment")
        return made

    def _unwrapped(self) -> Any:
        try:
            import gymnasium
        except ImportError as error:
            raise UnsupportedError("gymnasium is not installed, which plays the episodes", remedy=_INSTALL) from error
        try:
            with importable(Path.cwd()):
                return gymnasium.make(self.id, **self.arguments)
        except gymnasium.error.DependencyNotInstalled as error:
            # gymnasium names the command itself; where it names several, the last is its own package.
            named = re.findall(r"pip install [^`']+", str(error))
            remedy = f"Install it: {named[-1]}" if named else _INSTALL
            raise UnsupportedError(f"environment {self.id} needs more: {_plain(error)}", remedy=remedy) from error
        except ImportError as error:
            raise _not_importable(self.id, error) from error
        except gymnasium.error.Error as error:
            raise UsageError(
                f"environment {self.id!r} cannot be made: {_plain(error)}", remedy=_suggestion(self.id)
            ) from error
        # Whatever the environment's own code raises.
        except Exception as error:
            raise UsageError(
                f"environment {self.description} cannot be made: {type(error).__name__}: {_plain(error)}",
                remedy="Check its arguments: --env-arg NAME=VALUE.",
            ) from error


def _not_importable(env_id: str, error: ImportError) -> UnsupportedError:
    absent = next((e for e in (error, error.__cause__) if isinstance(e, ModuleNotFoundError) and e.name), None)
    if absent is None:
        # Something is there, but not what the environment wants of it, and nobody says which package that is.
        return UnsupportedError(
            f"environment {env_id} cannot be imported: {_plain(error)}",
            remedy="Install the versions of its packages that it was written for.",
        )
    name = str(absent.name).partition(".")[0]
    return UnsupportedError(
        f"environment {env_id} needs {name}, which is not installed",
        remedy=f"Install it: pip install '{_PACKAGES.get(name, name)}'",
    )


_INSTALL = "Install it: pip install 'policyctl[evaluate]'"

_PLUG_INS = {"ALE": "ale_py", "MiniGrid": "minigrid", "BabyAI": "minigrid", "dm_control": "shimmy", "PyFlyt": "PyFlyt"}
"""The module that registers environments whose ids begin so; gymnasium imports it where the id names it."""

_PACKAGES = {"ale_py": "ale-py", "shimmy": "shimmy[dm-control]", "PyFlyt": "pyflyt", "jax": "gymnasium[jax]"}
"""What to install for a module, where that is called otherwise."""


def _suggestion(env_id: str) -> str:
    """Which environment of this name there is, newest first."""
    from gymnasium.envs.registration import registry

    named, _, own = env_id.rpartition(":")
    name = re.sub(r"-v\d+$", "", own)
    versions = [spec.version for spec in registry.values() if spec.name == name.rpartition("/")[2]]
    numbers = sorted(version for version in versions if version is not None)
    if not numbers:
        if named:
            return f"Check the name: {named} registers no {own}."
        module = _PLUG_INS.get(re.split(r"[/-]", own)[0])
        package = f"pip install '{_PACKAGES.get(module, module)}'" if module else "find the package that registers it"
        return (
            f"Check the name. Where it belongs to another package: {package},"
            f" and name the module with it, {module or 'MODULE'}:{env_id}"
        )
    return (
        f"This gymnasium has {name}-v{numbers[-1]}. Where the two versions differ in dynamics,"
        " returns do not compare with those of the training."
    )


def _plain(error: Exception) -> str:
    return re.sub(r"\x1b\[\d+m", "", str(error))
