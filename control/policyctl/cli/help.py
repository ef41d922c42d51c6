"""Help and mistyped commands, in the manner of a shell.

Usage, sentences, examples that can be copied, arguments and options: plain text
that any terminal and any pipe shows. A renderer of Markdown would take most of
the time that a command needs to start.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from policyctl.cli.tables import cells, width_of, wrapped
from policyctl.cli.values import take_over
from policyctl.errors import UsageError

_MOST = 100
"""Columns of text: longer lines are hard to read."""
_LEFT = 28
"""Columns for names; a longer name takes a whole line."""
_USUAL = 80

Rows = Sequence[tuple[str, str]]
"""Names, each with what it means."""

RENAMED: Final = MappingProxyType(
    {
        "bench-history": "results history",
        "compare": "results compare",
        "export-release": "release export",
        "import-release": "release import",
        "keygen": "trust keygen",
    }
)
"""Earlier spellings of commands, and today's."""

OTHER_WORDS: Final = MappingProxyType(
    {
        "status": "describe info inspect list ls models ps releases show view",
        "show": "describe info inspect list ls view",
        "list": "list ls",
        "top": "monitor ps watch",
        "logs": "log",
        "history": "audit journal log",
        "metrics": "monitor",
        "export": "convert",
        "publish": "add new push register upload",
        "validate": "test",
        "promote": "activate canary deploy load switch",
        "rollback": "restore revert switch undo",
        "abort": "cancel kill stop",
        "release": "download pull push",
        "bench": "benchmark perf",
        "results": "diff",
        "diff": "diff",
        "evaluate": "eval",
        "card": "describe inspect show",
        "serve": "deploy run server start up",
        "doctor": "health",
        "hardware": "info",
        "probe": "health predict test",
        "pin": "load",
        "unserve": "delete kill remove rm stop unload",
        "unpin": "unload",
        "token": "tokens",
        "verify": "audit",
        "repair": "fix restore",
        "gc": "clean delete prune remove rm",
        "config": "settings",
        "init": "new set",
        "create": "add new",
        "add": "add new",
        "revoke": "delete remove rm",
    }
)
"""Our commands, with what people type instead who know other tools."""


def synonyms() -> dict[str, list[str]]:
    """The words of other tools, each with our commands that do it."""
    meant: dict[str, list[str]] = {}
    for command, words in OTHER_WORDS.items():
        for word in words.split():
            meant.setdefault(word, []).append(command)
    return meant


class Help(NamedTuple):
    """What the help of a command or a group says: for a terminal, the manual page and the guides.

    Attributes:
        panels: The commands of a group: titles, each with names and sentences.
        arguments: Names, each with what it means; so are the options, with their limits and defaults.
    """

    usage: str
    paragraphs: Sequence[str]
    examples: Sequence[str]
    panels: Sequence[tuple[str, Rows]]
    arguments: Rows
    options: Rows
    epilog: str


class Command(TyperCommand):
    """A command whose help is ours."""

    def __init__(self, name: str | None, **options: Any) -> None:
        super().__init__(name, **options)
        for argument in _arguments(self.params):
            argument.metavar = (argument.metavar or argument.name).upper()

    def get_params(self, ctx: Any) -> list[Any]:
        """Options and arguments, read by our rules."""
        return take_over(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """``[OPTIONS] MODEL [RELEASE]``."""
        found = ["[OPTIONS]"]
        for argument in _arguments(self.params):
            name = f"{argument.metavar}..." if argument.nargs != 1 else str(argument.metavar)
            found.append(name if argument.required else f"[{name}]")
        return found

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write its page."""
        formatter.write(page(self, ctx))


class Group(TyperGroup):
    """A group of commands whose help is ours, and which knows other tools' words for its commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Options, read by our rules."""
        return take_over(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write its page."""
        formatter.write(page(self, ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Where nothing is asked for, show the help on stderr: that is wrong usage."""
        if not args and not ctx.resilient_parsing and not self.invoke_without_command:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(UsageError.exit_code)
        return super().parse_args(ctx, args)

    def panels(self, ctx: typer.Context) -> tuple[tuple[str, Rows], ...]:
        """The titles under which commands are listed, each with its commands and what they do."""
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, summary(command.help or "")) for name, command in named if command and not command.hidden]
        return (("Commands", rows),)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """The command that `args` begin with; where none exists, name those that could be meant."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            raise UsageError(f"unknown command: {ctx.command_path} {name}", remedy=self._remedy(ctx, name.lower()))
        return super().resolve_command(ctx, args)

    def _remedy(self, ctx: Any, name: str) -> str:
        """Which commands somebody may mean who types `name`."""
        from difflib import get_close_matches

        if ctx.parent is None and name in RENAMED:
            return f"It is now: {ctx.command_path} {RENAMED[name]}"
        known = synonyms()
        near = [name] if name in known else get_close_matches(name, [*known, *self.commands], n=3, cutoff=0.75)
        meant = dict.fromkeys(command for word in near for command in known.get(word, (word,)))
        sentences = dict(row for _, rows in self.panels(ctx) for row in rows)
        lines = [f"\n  {ctx.command_path} {each}: {sentences[each]}" for each in meant if each in sentences]
        if not lines and ctx.parent is not None and name in known:
            return str(ctx.parent.command._remedy(ctx.parent, name))
        if not lines:
            return f"{ctx.command_path} --help lists all commands."
        return f"Did you mean:{''.join(lines)}"


def summary(text: str) -> str:
    """The first paragraph of a help text, on one line."""
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())


def described(command: TyperCommand | TyperGroup, ctx: typer.Context) -> Help:
    """What the help of a command or a group says."""
    paragraphs, examples = _parted(command.help or "")
    parameters = [p for p in command.get_params(ctx) if not getattr(p, "hidden", False)]
    return Help(
        usage=" ".join([ctx.command_path, *command.collect_usage_pieces(ctx)]),
        paragraphs=paragraphs,
        examples=examples,
        panels=command.panels(ctx) if isinstance(command, Group) else (),
        arguments=[(str(p.metavar), p.help or "") for p in _arguments(parameters)],
        options=[(_option(p), _explained(p)) for p in parameters if isinstance(p, TyperOption)],
        epilog=command.epilog or "",
    )


def everything(
    command: TyperCommand | TyperGroup, name: str, parent: typer.Context | None = None
) -> Iterator[tuple[str, Help]]:
    """What is typed for a command and for all below it, each with its help, in the order of the lists."""
    ctx = typer.Context(command, info_name=name, parent=parent, **command.context_settings)
    yield ctx.command_path, described(command, ctx)
    if isinstance(command, Group):
        for each in command.list_commands(ctx):
            below = command.get_command(ctx, each)
            if isinstance(below, Command | Group) and not below.hidden:
                yield from everything(below, each, ctx)


def page(command: TyperCommand | TyperGroup, ctx: typer.Context) -> str:
    """The help of a command or a group, for a terminal."""
    width = min(width_of(sys.stdout) or _USUAL, _MOST)
    shown = described(command, ctx)
    lines = wrapped(f"Usage: {shown.usage}", width)
    for paragraph in shown.paragraphs:
        lines += ["", *wrapped(paragraph, width)]
    if shown.examples:
        lines += ["", "Examples:", *(f"  {example}" for example in shown.examples)]
    longest = max((cells(name) for _, rows in shown.panels for name, _ in rows), default=0)
    for title, rows in (*shown.panels, ("Arguments", shown.arguments), ("Options", shown.options)):
        if rows:
            lines += ["", f"{title}:", *_definitions(rows, width, at_least=longest)]
    if shown.epilog:
        lines += ["", *wrapped(shown.epilog, width)]
    return "\n".join(lines) + "\n"


def _arguments(parameters: Iterable[object]) -> list[TyperArgument]:
    return [p for p in parameters if isinstance(p, TyperArgument) and not p.hidden]


def _parted(text: str) -> tuple[list[str], list[str]]:
    """The paragraphs of a help text, each on one line, and its examples."""
    text, _, after = inspect.cleandoc(text).partition("\n\nExample")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph]
    return paragraphs, [line.strip() for line in after.splitlines()[1:] if line.strip()]


def _option(option: TyperOption) -> str:
    """``-a, --alias ALIAS``."""
    names = ", ".join(sorted([*option.opts, *option.secondary_opts], key=lambda name: len(name) > len("-x")))
    return names if option.is_flag else f"{names} {_value(option)}"


def _value(option: TyperOption) -> str:
    """What stands for the value of an option: its choices, else a word in capitals."""
    described = option.type_descriptor
    if option.metavar:
        return option.metavar
    if described.is_choice and described.choices is not None:
        return "|".join(_shown(choice) for choice in described.choices)
    if described.is_path:
        return "PATH"
    if described.annotation in (int, float):
        return "N"
    return max(option.opts, key=len).lstrip("-").replace("-", "_").upper()


def _explained(option: TyperOption) -> str:
    """The help of an option, with its limits and its default."""
    notes = [option.help or ""]
    limits = [f"{words} {limit:g}" for words, limit in (("at least", option.min), ("at most", option.max)) if limit]
    if limits:
        notes.append(f"[{', '.join(limits)}]")
    if option.show_default and (default := _default(option)):
        notes.append(f"[default: {default}]")
    if option.required:
        notes.append("[required]")
    return " ".join(notes)


def _default(option: TyperOption) -> str:
    if option.is_flag:
        return option.opts[0] if option.default else ""
    return "" if option.default is None else _shown(option.default)


def _shown(value: object) -> str:
    return str(value.value if isinstance(value, Enum) else value)


def _definitions(rows: Rows, width: int, *, at_least: int = 0) -> Iterator[str]:
    left = min(_LEFT, width // 3, max(at_least, *(cells(name) for name, _ in rows)))
    indent = " " * (left + 4)
    for name, text in rows:
        first, *rest = wrapped(text, width - len(indent))
        if cells(name) > left:
            yield f"  {name}"
            yield f"{indent}{first}"
        else:
            yield f"  {name.ljust(left)}  {first}"
        yield from (indent + line for line in rest)
