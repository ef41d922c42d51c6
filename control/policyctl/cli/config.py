"""Commands about settings: config show, explain, validate, diff, schema, docs, init, migrate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.errors import UsageError

if TYPE_CHECKING:
    from policyctl.config.reading import Source
    from policyctl.services.config_diff import Difference
    from policyctl.services.config_files import Written
    from policyctl.services.configuration import Explained
    from policyctl.settings import Settings

_config = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
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


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(_config, name="config")


@_config.command()
def show(
    group: Annotated[str, typer.Argument(help="Only this group, or setting.", show_default=False)] = "",
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not as by default.")] = False,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show every setting, its value and where that came from. Secrets are masked.

    Examples:

        policyctl config show

        policyctl config show scrub

        policyctl --profile staging config show --changed --json
    """
    from policyctl.services import configuration as service

    out = Output(as_json)
    reading = options.read_layers(repository)
    reading.require()
    found = [e for e in service.explain(reading, group) if not changed or e.layers]
    out.table(
        {
            "profile": reading.profile,
            "files": [str(file.path) for file in reading.files],
            "settings": {e.key.name: {"value": e.value, "from": e.place} for e in found},
            "warnings": list(reading.warnings),
        },
        "Settings" + (f", profile {reading.profile}" if reading.profile else ""),
        ("setting", "value", "from"),
        [(e.key.name, _text(e.value), e.place) for e in found],
    )
    for words in reading.warnings:
        out.say(f"WARNING: {words}.")


@_config.command()
def explain(
    key: Annotated[str, typer.Argument(help="A setting or a group, such as server.http_port.", show_default=False)],
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Tell a setting's value, and each layer that set it, highest first.

    It answers also where settings are wrong: then with what the layers say.

    Examples:

        policyctl config explain server.http_port

        policyctl --profile production config explain integrity --json
    """
    from policyctl.services import configuration as service

    out = Output(as_json)
    reading = options.read_layers(repository)
    found = service.explain(reading, key)
    out.data([e.to_json() for e in found], words="\n\n".join(_explained(e) for e in found))
    if reading.problems:
        out.say(f"The settings have {len(reading.problems)} problems: policyctl config validate")


def _explained(found: Explained) -> str:
    lines = [f"{found.key.name} = {_text(found.value)}", f"  {found.key.info.description or ''}".rstrip()]
    for number, each in enumerate(found.layers):
        name = f"{each.name} = " if each.name else ""
        below = "" if number == 0 or each.name else "  (overruled)"
        lines.append(f"  {each.layer}, {each.place}: {name}{_text(each.value)}{below}")
    lines.append(f"  default: {_text(found.default)}")
    lines.append(f"  A change counts: {found.key.applies}. Variable: {found.to_json()['variable']}")
    return "\n".join(line for line in lines if line.strip())


@_config.command()
def validate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Only these files. [default: all, with every profile]", show_default=False),
    ] = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Say everything that is wrong, with file and line, at once. Exits with 2 if something is.

    Without arguments: what this command line and environment mean, and each
    profile that has a file, by that profile's rules. A misspelt name is told
    with the nearest that there is.

    Examples:

        policyctl config validate

        policyctl --profile production config validate --json
    """
    from policyctl.services import configuration as service

    out = Output(as_json, quiet)
    found = service.check(options.source(repository), files or ())
    what = ", ".join(found.files) or "no settings file"
    if not found.problems:
        profiles = f", profiles {', '.join(found.profiles)}" if found.profiles else ""
        out.data(found.to_json(), words=f"Nothing is wrong: {what}{profiles}.")
    else:
        rows = [(p.place or "-", p.key or "-", p.found or "-", p.expected) for p in found.problems]
        out.table(found.to_json(), "Settings", ("where", "setting", "found", "expected"), rows)
    for words in found.warnings:
        out.say(f"WARNING: {words}.")
    if found.problems:
        if as_json:
            raise typer.Exit(UsageError.exit_code)
        what = ", ".join(dict.fromkeys([*found.files, *(p.file for p in found.problems if p.file)])) or what
        count = f"{len(found.problems)} problem{'s' * (len(found.problems) > 1)}"
        raise UsageError(f"settings: {count} in {what}", remedy="Correct them; see docs/settings.md.")


@_config.command()
def diff(
    first: Annotated[
        str,
        typer.Argument(help="A profile, a file, running, current or defaults.", show_default=False),
    ],
    second: Annotated[str, typer.Argument(help="The other.")] = "running",
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Tell where two configurations differ: two profiles, two files, or one of them and what runs.

    **running** is what policyctl serve has in force, and what Triton serves
    each alias by, asked of Triton itself. **current** is what this command
    line and environment mean, as a start of the server would.

    Examples:

        policyctl config diff current running

        policyctl config diff staging production

        policyctl config diff defaults policyctl.yaml --json
    """
    from policyctl.services import config_diff as service
    from policyctl.services.control import Control

    out = Output(as_json)
    source = options.source(repository, url)
    found = service.diff(Control.of(source.read().require(), out.say), source, first, second)
    if as_json:
        out.data(found.to_json())
    elif not found.settings and not found.served:
        out.data(None, words=f"{first} and {second} do not differ.")
    for title, rows in (("Settings", found.settings), ("What is served", found.served)):
        if rows and not as_json:
            out.table(None, title, ("what", first, second, "from", "from"), [_row(d) for d in rows])


def _row(found: Difference) -> tuple[str, str, str, str, str]:
    return found.what, _text(found.first), _text(found.second), found.first_place, found.second_place


@_config.command()
def schema() -> None:
    """Print the JSON Schema of a settings file, for editors.

    Example:

        policyctl config schema > policyctl.schema.json
    """
    from policyctl.services.settings_reference import json_schema

    sys.stdout.write(json.dumps(json_schema(), indent=1) + "\n")


@_config.command()
def docs() -> None:
    """Print the reference of every setting, in Markdown.

    Example:

        policyctl config docs > settings.md
    """
    from policyctl.services.settings_reference import page

    sys.stdout.write(page())


@_config.command()
def init(
    path: Annotated[
        Path | None, typer.Argument(help="Which file. [default: policyctl.yaml]", show_default=False)
    ] = None,
    dry_run: options.DryRun = False,
    as_json: options.JsonOption = False,
) -> None:
    """Write a settings file in which every setting stands as a comment. Never overwrites one.

    With --profile before the command, the file of that profile: what its
    rules ask for is in it, and for production a bake of five minutes.

    Examples:

        policyctl config init

        policyctl config init policyctl.toml --dry-run

        policyctl --profile production config init
    """
    from policyctl.services import config_files as service

    out = Output(as_json)
    profile = options.given_profile() or ""
    where = path or Path(f"policyctl.{profile}.yaml" if profile else "policyctl.yaml")
    if where.suffix not in {".yaml", ".yml", ".toml"}:
        raise UsageError(f"{where} is neither .yaml nor .toml", remedy="Name it by what it is to hold.")
    made = service.init(where, service.starter(profile, toml=where.suffix == ".toml"), dry_run=dry_run)
    words = made.text.rstrip("\n") if dry_run else f"Wrote {made.path}."
    out.data({"file": str(made.path), "dry_run": dry_run, "text": made.text}, words=words)


@_config.command()
def migrate(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Which files. [default: all that would be read]", show_default=False)
    ] = None,
    to: Annotated[int, typer.Option("--to", help="Which schema.", min=1)] = 2,
    dry_run: options.DryRun = False,
    as_json: options.JsonOption = False,
) -> None:
    """Write settings files in today's schema, with every comment.

    Files of earlier schemas are read for ever; nobody has to migrate.

    Examples:

        policyctl config migrate --dry-run

        policyctl config migrate policyctl.yaml --to 2
    """
    from policyctl.services import config_files as service

    out = Output(as_json)
    found = files or _all_files(options.source())
    made = [service.migrate(file, to=to, dry_run=dry_run) for file in found]
    out.data([_migrated(each, to, dry_run=dry_run) for each in made])
    for each in made:
        if not each.changed:
            out.say(f"{each.path} is of schema {to} already.")
        elif dry_run:
            out.say(f"{each.path}, schema {each.schema_before} to {to}, would be:")
            if not as_json:
                sys.stdout.write(each.text)
        else:
            out.say(f"Wrote {each.path}: schema {each.schema_before} to {to}.")


def _migrated(each: Written, to: int, *, dry_run: bool) -> dict[str, Any]:
    return {
        "file": str(each.path),
        "schema_before": each.schema_before,
        "schema": to,
        "changed": each.changed,
        "dry_run": dry_run,
        "text": each.text,
    }


def _all_files(source: Source[Settings]) -> list[Path]:
    """The base file and every profile's."""
    from policyctl.config.files import find_profile, profiles_beside

    base = source.base()
    profiles = [find_profile(base, source.folder, name) for name in profiles_beside(base, source.folder)]
    found = [path for path in (base, *profiles) if path is not None]
    if not found:
        raise UsageError("there is no settings file", remedy="Write one: policyctl config init")
    return found


def _text(value: Any) -> str:
    if isinstance(value, dict | list | bool):
        return json.dumps(value)
    return "null" if value is None else "''" if value == "" else str(value)
