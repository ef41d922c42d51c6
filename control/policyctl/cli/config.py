"""Commands about settings: config show, explain, validate, diff, schema, docs, init."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.call import Call, given_profile
from policyctl.domain.json_values import to_json
from policyctl.errors import UsageError

if TYPE_CHECKING:
    from policyctl.services.settings.explained import Explained

group = typer.Typer(
    help="""Settings: what is configured, where each value came from, and what is wrong.

A setting comes from the command line, else from the environment, else from the
file of the profile, else from the base file (policyctl.yaml or .toml), else
from its default.

Examples:
    policyctl config show
    policyctl config explain server.http_port
    policyctl --profile production config validate
""",
)


@group.command()
@options.command("repository")
def show(
    call: Call,
    which: Annotated[str, typer.Argument(metavar="GROUP", help="Only this group, or setting.")] = "",
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not as by default.")] = False,
) -> None:
    """Show every setting, its value and where that came from. Secrets are masked.

    Examples:
        policyctl config show
        policyctl config show scrub
        policyctl --profile staging config show --changed --json
    """
    from policyctl.services.settings import explained as service

    reading = call.layers()
    reading.require()
    settings = [each for each in service.explain(reading, which) if not changed or each.layers]
    call.table(
        {
            "profile": reading.profile,
            "files": [str(path) for path in reading.files],
            "settings": {each.key.name: {"value": each.value, "from": each.place} for each in settings},
            "warnings": list(reading.warnings),
        },
        "Settings" + (f", profile {reading.profile}" if reading.profile else ""),
        ("setting", "value", "from"),
        [(each.key.name, _text(each.value), each.place) for each in settings],
    )
    _warn(call, reading.warnings)


@group.command()
@options.command("repository")
def explain(
    call: Call,
    key: Annotated[str, typer.Argument(help="A setting or a group, such as server.http_port.")],
) -> None:
    """Show a setting's value, and each layer that set it, highest first.

    It answers also where settings are wrong: then with what the layers say.

    Examples:
        policyctl config explain server.http_port
        policyctl --profile production config explain integrity --json
    """
    from policyctl.services.settings import explained as service

    reading = call.layers()
    settings = service.explain(reading, key)
    call.data(to_json(settings), words="\n\n".join(map(_explained, settings)))
    if reading.problems:
        call.say(f"The settings have {len(reading.problems)} problems: policyctl config validate")


def _explained(setting: Explained) -> str:
    key = setting.key
    lines = [f"{key.name} = {_text(setting.value)}", f"  {key.info.description}"]
    for number, each in enumerate(setting.layers):
        name = f"{each.name} = " if each.name else ""
        below = "" if number == 0 or each.name else "  (overruled)"
        lines.append(f"  {each.layer}, {each.place}: {name}{_text(each.value)}{below}")
    lines.append(f"  default: {_text(setting.default)}")
    lines.append(f"  A change counts: {key.applies}. Variable: {setting.variable}")
    return "\n".join(lines)


@group.command()
@options.command("repository")
def validate(
    call: Call,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Only these files. [default: all, with every profile]"),
    ] = None,
) -> None:
    """Say everything that is wrong, with file and line, at once. Exits with 2 if something is.

    Without arguments: what this command line and environment mean, and each
    profile that has a file, by that profile's rules. The nearest setting is named
    for a misspelt one.

    Examples:
        policyctl config validate
        policyctl --profile production config validate --json
    """
    from policyctl.services.settings import explained as service

    checked = service.check(call.source(), files or ())
    problems, document = checked.problems, to_json(checked)
    if problems:
        rows = [(p.place or "-", p.path or "-", p.found or "-", p.expected) for p in problems]
        call.table(document, "Settings", ("where", "setting", "found", "expected"), rows)
    else:
        profiles = f", profiles {', '.join(checked.profiles)}" if checked.profiles else ""
        call.data(document, words=f"Nothing is wrong: {', '.join(checked.files) or 'no settings file'}{profiles}.")
    _warn(call, checked.warnings)
    if problems:
        named = ", ".join(dict.fromkeys([*checked.files, *(p.file for p in problems if p.file)]))
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        remedy = "Correct them; see policyctl docs settings."
        call.end_with(UsageError(f"settings: {count}{f' in {named}' * bool(named)}", remedy=remedy))


@group.command()
@options.command("repository", "url")
def diff(
    call: Call,
    first: Annotated[
        str,
        typer.Argument(help="A profile, a file, running, current or defaults."),
    ],
    second: Annotated[str, typer.Argument(help="The other.")] = "running",
) -> None:
    """Show where two configurations differ: two profiles, two files, or one of them and what runs.

    "running" is what policyctl serve has in force, and what Triton serves
    each alias by, asked of Triton itself. "current" is what this command
    line and environment mean, as a start of the server would.

    Examples:
        policyctl config diff current running
        policyctl config diff staging production
        policyctl config diff defaults policyctl.yaml --json
    """
    from policyctl.services.control import Control
    from policyctl.services.settings import diff as service

    source = call.source()
    differences = service.diff(Control.of(source.read().require(), call.say), source, first, second)
    if call.as_json:
        call.data(to_json(differences))
    elif not differences.settings and not differences.served:
        call.data(None, words=f"{first} and {second} do not differ.")
    for sentence in differences.refused:
        call.say(f"Caution: {sentence}.")
    for title, listed in (("Settings", differences.settings), ("What is served", differences.served)):
        rows = [(d.what, _text(d.first), _text(d.second), d.first_place, d.second_place) for d in listed]
        if rows:
            call.table(None, title, ("what", first, second, "from", "from"), rows)


@group.command()
def schema() -> None:
    """Print the JSON Schema of a settings file, for editors.

    Example:
        policyctl config schema > policyctl.schema.json
    """
    from policyctl.services.settings.files import json_schema

    sys.stdout.write(json.dumps(json_schema(), indent=1) + "\n")


@group.command()
def docs() -> None:
    """Print the reference of every setting, in Markdown.

    Example:
        policyctl config docs > settings.md
    """
    from policyctl.services.settings.files import page

    sys.stdout.write(page())


@group.command()
@options.command()
def init(
    call: Call,
    path: Annotated[Path | None, typer.Argument(help="Which file. [default: policyctl.yaml]")] = None,
    dry_run: options.DryRun = False,
) -> None:
    """Write a settings file in which every setting stands as a comment. Never overwrites one.

    With --profile before the command, the file of that profile: what its
    rules ask for is in it, and for production a bake of five minutes.

    Examples:
        policyctl config init
        policyctl config init policyctl.toml --dry-run
        policyctl --profile production config init
    """
    from policyctl.services.settings import files as service

    profile = given_profile() or ""
    where = path or Path(f"policyctl.{profile}.yaml" if profile else "policyctl.yaml")
    text = service.starter(profile, toml=where.suffix == ".toml")
    service.init(where, text, dry_run=dry_run)
    words = text.rstrip("\n") if dry_run else f"Wrote {where}."
    call.data({"file": str(where), "dry_run": dry_run, "text": text}, words=words)


def _warn(call: Call, warnings: Iterable[str]) -> None:
    for sentence in warnings:
        call.say(f"WARNING: {sentence}.")


def _text(value: Any) -> str:
    if isinstance(value, dict | list | bool):
        return json.dumps(value)
    return "null" if value is None else "''" if value == "" else str(value)
