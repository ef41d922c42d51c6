"""Commands for the control API's tokens: `policyctl token create`, list, revoke."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.domain.tokens import Scope

token = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Give and take the tokens of `policyctl api`.

    They are kept, hashed, in .policyctl/tokens.json of the repository, which its
    owner alone can read. A change counts from the next call on; the API need not
    be started again.

    Examples:

        policyctl token create ci --scope promote --days 90

        policyctl token list

        policyctl token revoke ci
    """,
)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(token, name="token")


@token.command("create")
def token_create(
    name: Annotated[str, typer.Argument(help="Who gets it; the journal says token:NAME@host.", show_default=False)],
    scope: Annotated[
        Scope,
        typer.Option(
            "--scope",
            "-s",
            help="read; promote: also promote, roll back, pin, abort; admin: also unserve, audit, tokens.",
        ),
    ] = Scope.READ,
    days: Annotated[
        float | None, typer.Option("--days", help="It ends after so many. [default: never]", show_default=False)
    ] = None,
    dry_run: options.DryRun = False,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Create a token and print it, this once: it cannot be shown again.

    Examples:

        policyctl token create grafana

        policyctl token create ci --scope promote --days 90
    """
    from policyctl.services.tokens import create

    output = Output(as_json, quiet)
    control = options.control_of(options.read_settings(repository), output)
    made = create(control, name=name, scope=scope, days=days, dry_run=dry_run)
    document = {**made.token.public(), "token": made.secret or None, "dry_run": dry_run}
    until = "" if made.token.expires is None else f", until {made.token.expires:%Y-%m-%d %H:%M} UTC"
    if dry_run:
        output.data(document, words=f"Would create token {name} for {scope.value}{until}.")
        return
    output.data(document, words=made.secret)
    output.say(f"Token {name} for {scope.value}{until}. Keep it now: what is stored cannot show it again.")


@token.command("list")
def token_list(
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show every token by name and its last four characters, those that count no more too.

    Example:

        policyctl token list --json
    """
    from policyctl.services.tokens import listed

    output, now = Output(as_json), datetime.now(UTC)
    found = listed(options.control_of(options.read_settings(repository), output))
    output.table(
        [{**each.public(), "state": each.state(now)} for each in found],
        "Tokens",
        ("name", "scope", "ends in", "state", "created", "by", "expires", "revoked"),
        [
            (
                each.name,
                each.scope.value,
                f"...{each.last_four}",
                each.state(now),
                _time(each.created),
                each.by,
                _time(each.expires),
                _time(each.revoked),
            )
            for each in found
        ],
    )


@token.command("revoke")
def token_revoke(
    name: Annotated[str, typer.Argument(help="Which one.", show_default=False)],
    dry_run: options.DryRun = False,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Let a token count no more, from the next call on. Its name is never given again.

    Example:

        policyctl token revoke ci
    """
    from policyctl.services.tokens import revoke

    output = Output(as_json)
    found = revoke(options.control_of(options.read_settings(repository), output), name=name, dry_run=dry_run)
    verb = "Would revoke" if dry_run else "Revoked"
    output.data({**found.public(), "dry_run": dry_run}, words=f"{verb} token {name} (...{found.last_four}).")


def _time(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat(timespec="seconds")
