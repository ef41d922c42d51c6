"""Commands for the trust store: `policyctl trust add`, list, show, revoke, rotate."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.errors import UsageError

if TYPE_CHECKING:
    from policyctl.domain.trust import Trusted

trust = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Keep the list of keys whose signatures count.

    It is one YAML file: .policyctl/trust.yaml in the repository, or where
    POLICYCTL_INTEGRITY__TRUST says. In production let it be a file that whoever
    publishes cannot write.

    Examples:

        policyctl trust add alice.pub --name alice

        policyctl trust list
    """,
)

TrustOption = Annotated[
    Path | None,
    typer.Option("--trust", help="The trust store. [env: POLICYCTL_INTEGRITY__TRUST] [default: in the repository]"),
]
Since = Annotated[
    str | None,
    typer.Option("--since", help="Only for what the journal recorded from then on; else for all of it. ISO 8601."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(trust, name="trust")


@trust.command("add")
def trust_add(
    public: Annotated[
        Path | None, typer.Argument(help="A public key; or a certificate, to trust whoever it issued one to (PEM).")
    ] = None,
    name: Annotated[str, typer.Option("--name", "-n", help="What to call it.", show_default=False)] = "",
    identity: Annotated[str, typer.Option(help="Instead of a file: whom Sigstore must vouch for.")] = "",
    issuer: Annotated[str, typer.Option(help="For --identity: the OIDC provider's URL.")] = "",
    not_before: Annotated[str | None, typer.Option(help="Signatures count from then on. ISO 8601.")] = None,
    not_after: Annotated[str | None, typer.Option(help="Signatures count until then. ISO 8601.")] = None,
    dry_run: options.DryRun = False,
    store: TrustOption = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Trust a key, an issuer of certificates, or an identity.

    Examples:

        policyctl trust add alice.pub --name alice --not-after 2027-12-31

        policyctl trust add company-ca.pem --name company
    """
    from policyctl.services import trust as service

    out = Output(as_json)
    if not name:
        raise UsageError("a key needs a name", remedy="For example --name alice.")
    path = _store(store, repository)
    entry = service.add(
        path,
        name=name,
        public=public,
        identity=identity,
        issuer=issuer,
        not_before=_time(not_before, "--not-before"),
        not_after=_time(not_after, "--not-after"),
        dry_run=dry_run,
    )
    verb = "Would trust" if dry_run else "Trusted"
    out.data(_entry(entry), words=f"{verb} {entry.name}: {entry.kind} {entry.fingerprint or entry.identity}, in {path}")


@trust.command("list")
def trust_list(
    store: TrustOption = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show every key, from when to when it counts, and which are revoked.

    Example:

        policyctl trust list --json
    """
    from policyctl.adapters.trust_store import read

    path = _store(store, repository)
    entries = tuple(read(path))
    Output(as_json).table(
        {"store": str(path), "keys": [_entry(e) for e in entries]},
        f"Trusted by {path}",
        ("name", "kind", "fingerprint", "from", "until", "revoked", "replaces"),
        [
            (
                e.name,
                e.kind,
                e.fingerprint or f"{e.identity} ({e.issuer})",
                None if e.not_before is None else e.not_before.isoformat(),
                None if e.not_after is None else e.not_after.isoformat(),
                _revoked(e),
                e.replaces or None,
            )
            for e in entries
        ],
    )


@trust.command("show")
def trust_show(
    which: Annotated[str, typer.Argument(help="A name, or a fingerprint.")],
    store: TrustOption = None,
    repository: options.RepositoryOption = None,
) -> None:
    """Print a public key or certificate as PEM, for OpenSSF's own command line.

    Example:

        policyctl trust show alice
    """
    from policyctl.adapters.trust_store import read

    entry = read(_store(store, repository)).named(which)
    if not entry.pem:
        raise UsageError(f"{entry.name} has no key of its own: it is of kind {entry.kind}")
    sys.stdout.write(entry.pem)


@trust.command("revoke")
def trust_revoke(
    which: Annotated[str, typer.Argument(help="A name, or the fingerprint of a key or certificate.")],
    reason: Annotated[str, typer.Option("--reason", "-m", help="Why.", show_default=False)],
    since: Since = None,
    dry_run: options.DryRun = False,
    store: TrustOption = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Let a key count no more: nothing that it ever signed, or nothing that was recorded since a time.

    Examples:

        policyctl trust revoke alice --reason "the laptop was stolen"

        policyctl trust revoke alice --reason "left the company" --since 2026-11-01
    """
    from policyctl.services import trust as service

    out = Output(as_json)
    now = datetime.now(UTC)
    entry = service.revoke(
        _store(store, repository), which=which, reason=reason, now=now, since=_time(since, "--since"), dry_run=dry_run
    )
    verb = "Would revoke" if dry_run else "Revoked"
    out.data(_entry(entry), words=f"{verb} {entry.name}: {_revoked(entry)}")
    out.say("What is served goes on being served. See what is left signed: policyctl verify")


@trust.command("rotate")
def trust_rotate(
    old: Annotated[str, typer.Argument(help="The name of the key that is replaced.")],
    public: Annotated[Path, typer.Argument(help="The public key, or certificate, that takes its place (PEM).")],
    name: Annotated[str, typer.Option("--name", "-n", help="What to call the new one.", show_default=False)],
    overlap_until: Annotated[
        str | None, typer.Option(help="Until when signatures by the old one count as well. ISO 8601. [default: now]")
    ] = None,
    dry_run: options.DryRun = False,
    store: TrustOption = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Let a new key take the place of an old one. What the old one signed until then goes on counting.

    Example:

        policyctl trust rotate alice alice-2027.pub --name alice-2027
    """
    from policyctl.services import trust as service

    entry = service.rotate(
        _store(store, repository),
        old=old,
        name=name,
        public=public,
        at=datetime.now(UTC),
        overlap_until=_time(overlap_until, "--overlap-until"),
        dry_run=dry_run,
    )
    verb = "Would replace" if dry_run else "Replaced"
    Output(as_json).data(_entry(entry), words=f"{verb} {old} by {entry.name} ({entry.fingerprint})")


def _store(given: Path | None, repository: Path | None) -> Path:
    from policyctl.services.signatures import trust_path

    return trust_path(options.read_settings(repository, integrity={"trust": given}))


def _time(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r} is no time", remedy="For example 2026-11-20 or 2026-11-20T10:00Z."
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _revoked(entry: Trusted) -> str | None:
    if entry.revoked is None:
        return None
    since = "all it signed" if entry.revoked.since is None else f"since {entry.revoked.since.isoformat()}"
    return f"{since}: {entry.revoked.reason}"


def _entry(entry: Trusted) -> dict[str, Any]:
    revoked = entry.revoked
    return {
        "name": entry.name,
        "kind": entry.kind.value,
        "fingerprint": entry.fingerprint,
        "pem": entry.pem,
        "identity": entry.identity,
        "issuer": entry.issuer,
        "not_before": entry.not_before,
        "not_after": entry.not_after,
        "revoked": None
        if revoked is None
        else {"declared": revoked.declared, "since": revoked.since, "reason": revoked.reason},
        "replaces": entry.replaces,
    }
