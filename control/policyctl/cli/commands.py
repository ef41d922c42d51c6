"""All commands, in the panels of the help, and which module has which.

Importing every module and building its parsers takes longer than a rollback.
So the sentence that the list of all commands shows stands here as well, and a
module is imported when its command is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

import typer

from policyctl.cli.help import Command, Group, Rows

_PANELS: Final = {
    "Ship": {
        "export": ("prepare", "Turn a trained policy into files that compute the same actions."),
        "publish": ("prepare", "Give exported files a release, a slot and a manifest."),
        "validate": ("validate", "Run the gates on a release and keep their evidence."),
        "promote": ("move", "Move an alias to a release without losing a request."),
        "rollback": ("move", "Move an alias back to an earlier release."),
        "abort": ("move", "Stop the move that is under way."),
        "release": ("release", "Propose a release's number; export and import releases."),
    },
    "Look": {
        "status": ("look", "Show what is published, what each alias names, and what answers."),
        "top": ("top", "Show live what is served, how much it is asked, how it answers."),
        "logs": ("observe", "Show what the control plane and Triton logged, in order of time."),
        "history": ("history", "Show the journal: who did what, when, why, and how it ended."),
        "at": ("history", "Show what each alias served at some time in the past."),
        "metrics": ("observe", "Print once what `policyctl serve` exports to Prometheus."),
    },
    "Measure": {
        "bench": ("bench", "Measure a served alias with perf_analyzer."),
        "results": ("results", "Compare results that bench kept, and follow them over time."),
        "evaluate": ("validate", "Run an environment against the served policy."),
        "record": ("shadow", "Record observations and actions of live traffic."),
        "replay": ("shadow", "Ask a release what it would have done on recorded observations."),
        "memory": ("machine", "Measure what a served model costs in memory."),
        "tune": ("machine", "Search the serving options with the most throughput."),
        "calibrate": ("machine", "Measure how often the performance gate is wrong on this machine."),
    },
    "Trust": {
        "sign": ("signing", "Sign a published release: every file of it, and its manifest."),
        "signatures": ("signing", "Show who signed a release, since when, and whether that counts."),
        "trust": ("trust", "Keep the list of keys whose signatures count; make keys."),
        "card": ("card", "Model cards: what a release says of itself."),
    },
    "Serve": {
        "serve": ("run", "Run Triton on the repository until Ctrl-C or SIGTERM."),
        "doctor": ("run", "Check whether this machine can run the server."),
        "hardware": ("run", "Show what this machine is, and what to set on it and why."),
        "probe": ("look", "Ask each alias for a golden action."),
        "pin": ("move", "Serve a release under its own number, whatever other aliases name."),
        "unpin": ("move", "Take a pinned release out of service."),
        "unserve": ("move", "Take an alias out of service."),
        "api": ("run", "Answer the control API over HTTP until Ctrl-C or SIGTERM."),
        "console": ("run", "Open the web console of `policyctl api`."),
        "token": ("token", "Create, list and revoke the tokens of `policyctl api`."),
    },
    "Repository": {
        "verify": ("look", "Compare every file of the repository with the journal."),
        "repair": ("lifecycle", "Rebuild what is damaged."),
        "gc": ("lifecycle", "Remove the files of releases that nothing needs."),
    },
    "Configure": {
        "config": ("config", "Settings: what is configured, where each value came from."),
        "log-level": ("observe", "Show or change how much the running server logs."),
        "demo": ("demo", "Show the main job on two small policies."),
        "docs": ("docs", "Show the guides, which come with the package."),
        "version": ("run", "Print the version, as --version does."),
    },
}
PANELS: Final = tuple(
    (panel, tuple((name, sentence) for name, (_, sentence) in commands.items())) for panel, commands in _PANELS.items()
)
"""What the help shows: each panel with its commands and their sentences."""
MODULES: Final = MappingProxyType(
    {name: module for commands in _PANELS.values() for name, (module, _) in commands.items()}
)
"""The module of `policyctl.cli` of each command, in the order of the help."""


@cache
def parser_of(command: str) -> Any:
    """The parser of a command or a group; its module is imported for it."""
    module = import_module(f"policyctl.cli.{MODULES[command]}")
    app = typer.Typer(rich_markup_mode=None)
    if hasattr(module, "group"):
        app.add_typer(module.group, name=command)
    else:
        app.command(command)(getattr(module, command.replace("-", "_")))
    _use_our_help(app)
    return typer.main.get_group(app).commands[command]


def _use_our_help(app: typer.Typer) -> None:
    """Give every command and every group in `app` our help."""
    for command in app.registered_commands:
        command.cls = Command
    for group in app.registered_groups:
        group.cls = Group
        if group.typer_instance is not None:
            _use_our_help(group.typer_instance)


class _Commands(Mapping[str, Any]):
    def __getitem__(self, command: str) -> Any:
        return parser_of(command)

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


class Commands(Group):
    """The group of all commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Commands()  # type: ignore[assignment]

    def panels(self, ctx: typer.Context) -> tuple[tuple[str, Rows], ...]:
        """Each panel with its commands; no module of one is imported."""
        return PANELS
