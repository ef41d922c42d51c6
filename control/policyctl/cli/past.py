"""The command that looks back: at."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.domain.moves import MoveKind

if TYPE_CHECKING:
    from policyctl.domain.timeline import AliasThen, Moment, MoveSeen


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(at)


def at(
    when: Annotated[str, typer.Argument(help="ISO 8601 with a time zone, or now.", show_default=False)],
    model: options.OptionalModel = None,
    timezone: Annotated[
        str | None,
        typer.Option("--timezone", "-z", help="Zone of WHEN, and of the times that are shown. [default: UTC]"),
    ] = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show what each alias served at some time in the past, by whose doing, and what let it.

    The answer comes from the journal, whose chain is checked. In the middle of
    a switch two releases may have answered; then both are shown.

    Examples:

        policyctl at 2026-11-20T10:00Z

        policyctl at "2026-11-20 11:00" walker --timezone Europe/Zurich

        policyctl at now --json
    """
    from policyctl.domain.instants import zone_of
    from policyctl.services.journal import at as service

    output = Output(as_json)
    control = options.control_of(options.read_settings(repository), output)
    found = service(control, when, model=model, timezone=timezone)
    zone = None if timezone is None else zone_of(timezone)
    asked = found.when if zone is None else found.when.astimezone(zone)
    output.table(
        {**found.to_json(), "when": asked.isoformat()},
        f"At {asked.isoformat()}",
        ("model", "alias", "release", "slot", "format", "since", "by", "why", "gates", "manifest"),
        [row for alias in found.aliases for row in _rows(alias, zone)],
    )
    _say(output, found, zone)


def _rows(alias: AliasThen, zone: tzinfo | None) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for placement in alias.possible:
        doing = alias.by if placement is alias.named else alias.moving
        since = alias.since if placement is alias.named else f"being switched since {_time(_switching(alias), zone)}"
        rows.append(
            (
                alias.model,
                alias.alias,
                placement.release,
                placement.slot,
                placement.format,
                _time(since, zone) if placement is alias.named else since,
                "" if doing is None else doing.actor,
                "" if doing is None else doing.move.reason,
                ", ".join(f"{g.gate} {g.verdict}" for g in alias.gates) if placement is alias.named else "",
                placement.manifest_digest,
            )
        )
    return rows


def _say(output: Output, found: Moment, zone: tzinfo | None) -> None:
    if not found.records:
        output.say("The journal had no record then: nothing was published, and nothing served.")
    elif not found.aliases:
        output.say("No alias named a release then: nothing was served.")
    for alias in found.aliases:
        if alias.moving is not None:
            output.say(_moving(alias, alias.moving, zone))
        if alias.certified is not None:
            server, time = alias.certified
            output.say(
                f"{alias.model}.{alias.alias}: server {server or '(not ours)'} had certified it, {_time(time, zone)}."
            )
    for caution in found.cautions:
        output.say(f"Caution: {caution}.")


def _moving(alias: AliasThen, moving: MoveSeen, zone: tzinfo | None) -> str:
    ended = "it is still open" if moving.ended is None else f"it ended {_time(moving.ended, zone)}: {moving.result}"
    begun = f"Under way: the {moving.move.words}, by {moving.actor}, begun {_time(moving.started, zone)}"
    if not alias.switching:
        return f"{begun}. Its switch had not begun, so no client was answered by {moving.move.target.release}; {ended}."
    since = _time(_switching(alias), zone)
    if moving.move.kind is MoveKind.REMOVAL:
        return f"{begun}, being removed since {since}: it may have answered, or nothing; {ended}."
    return f"{begun}, being switched since {since}: either may have answered; {ended}."


def _switching(alias: AliasThen) -> str:
    return "" if alias.moving is None or alias.moving.switching is None else alias.moving.switching


def _time(text: str, zone: tzinfo | None) -> str:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return (found if zone is None else found.astimezone(zone)).isoformat(timespec="seconds")
