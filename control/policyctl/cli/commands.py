"""Which module has which command; a module is imported when its command is asked for.

Importing all of them and building their parsers takes longer than a rollback.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

import typer
from typer.core import TyperGroup

_MODULES: Final = {
    "prepare": ("export", "publish", "validate"),
    "release": ("release",),
    "run": ("serve", "doctor", "hardware"),
    "api": ("api",),
    "token": ("token",),
    "move": ("promote", "rollback", "abort", "pin", "unpin", "unserve"),
    "look": ("status", "history", "verify"),
    "top": ("top",),
    "past": ("at",),
    "probe": ("probe",),
    "observe": ("metrics", "logs", "log-level"),
    "lifecycle": ("gc", "export-release", "import-release", "repair"),
    "measure": ("evaluate",),
    "shadow": ("record", "replay"),
    "bench": ("bench", "compare", "bench-history"),
    "memory": ("memory",),
    "tune": ("tune",),
    "calibrate": ("calibrate",),
    "card": ("card",),
    "config": ("config",),
    "signing": ("keygen", "sign", "signatures"),
    "trust": ("trust",),
}
MODULES: Final = MappingProxyType({command: module for module, commands in _MODULES.items() for command in commands})
"""The module of `policyctl.cli` of each command, in the order of the help."""
MARKUP: Final = "markdown"


@cache
def commands_of(module: str) -> Mapping[str, Any]:
    """The parsers that a module of `policyctl.cli` registers, by command."""
    app = typer.Typer(rich_markup_mode=MARKUP)
    import_module(f"policyctl.cli.{module}").register(app)
    return typer.main.get_group(app).commands


class _Commands(Mapping[str, Any]):
    def __getitem__(self, command: str) -> Any:
        return commands_of(MODULES[command])[command]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


class Commands(TyperGroup):
    """The group of all commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Commands()  # type: ignore[assignment]
