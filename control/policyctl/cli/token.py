"""Commands for the control API's tokens: `policyctl token create`, list, revoke."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from policyctl.cli import completion, options
from policyctl.cli.call import Call
from policyctl.domain.instants import utc_text
from policyctl.domain.tokens import Scope

group = typer.Typer(
    help="""Create, list and revoke the tokens of `policyctl api`.

    They are kept, hashed, in .policyctl/tokens.json of the repository, which its
    owner alone can read. A change counts from the next call on.

    Examples:
        policyctl token create ci --scope promote --days 90
        policyctl token list
        policyctl token revoke ci
    """,
)


@group.command("create")
@options.command("repository")
def token_create(
    call: Call,
    name: Annotated[str, typer.Argument(help="Who gets it; the journal says token:NAME@host.")],
    scope: Annotated[
        Scope,
        typer.Option(
            "--scope",
            "-s",
            help="read; promote: also promote, roll back, pin, abort; admin: also unserve, audit, tokens.",
        ),
    ] = Scope.READ,
    days: Annotated[float | None, typer.Option(help="It ends after so many. [default: never]")] = None,
    dry_run: options.DryRun = False,
) -> None:
    """Create a token and print it, this once: it cannot be shown again.

    Examples:
        policyctl token create grafana
        policyctl token create ci --scope promote --days 90
    """
    from policyctl.services.trust.tokens import create

    control = call.control()
    made = create(control, name=name, scope=scope, days=days, dry_run=dry_run)
    document = {**made.token.public(), "token": made.secret or None, "dry_run": dry_run}
    until = "" if made.token.expires is None else f", until {made.token.expires:%Y-%m-%d %H:%M} UTC"
    if dry_run:
        call.data(document, words=f"Would create token {name} for {scope.value}{until}.")
        return
    call.data(document, words=made.secret)
    call.say(f"Token {name} for {scope.value}{until}. Keep it now: what is stored cannot show it again.")


@group.command("list")
@options.command("repository")
def token_list(call: Call) -> None:
    """Show every token by name and its last four characters, those that count no more too.

    Example:
        policyctl token list --json
    """
    from policyctl.adapters.token_store import TokenFile

    now = datetime.now(UTC)
    found = TokenFile(call.control().repository).read()
    call.table(
        [{**each.public(), "state": each.state(now)} for each in found],
        "Tokens",
        ("name", "scope", "ends in", "state", "created", "by", "expires", "revoked"),
        [
            (
                each.name,
                each.scope.value,
                f"...{each.last_four}",
                each.state(now),
                utc_text(each.created),
                each.by,
                utc_text(each.expires) or None,
                utc_text(each.revoked) or None,
            )
            for each in found
        ],
    )


@group.command("revoke")
@options.command("repository")
def token_revoke(
    call: Call,
    name: Annotated[str, typer.Argument(help="Which one.", autocompletion=completion.tokens)],
    dry_run: options.DryRun = False,
) -> None:
    """Revoke a token, from the next call on. Its name is never given again.

    Example:
        policyctl token revoke ci
    """
    from policyctl.services.trust.tokens import revoke

    found = revoke(call.control(), name=name, dry_run=dry_run)
    verb = "Would revoke" if dry_run else "Revoked"
    call.data({**found.public(), "dry_run": dry_run}, words=f"{verb} token {name} (...{found.last_four}).")
