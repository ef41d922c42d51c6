"""Commands for keys and the trust store: trust add, list, show, revoke, rotate, keygen."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import completion, options
from policyctl.cli.call import Call
from policyctl.cli.signing import read_passphrase
from policyctl.domain.instants import utc_text
from policyctl.errors import UsageError

if TYPE_CHECKING:
    from policyctl.domain.trust import Trusted

group = typer.Typer(
    help="""Keep the list of keys whose signatures count; make keys.

    The list is one YAML file: .policyctl/trust.yaml in the repository, or where
    POLICYCTL_INTEGRITY__TRUST says. In production, nobody who publishes should be
    able to write it.

    Examples:
        policyctl trust add alice.pub --name alice
        policyctl trust list
    """,
)

TrustOption = Annotated[
    Path | None,
    typer.Option("--trust", help="The trust store. [env: POLICYCTL_INTEGRITY__TRUST] [default: in the repository]"),
]


@group.command("add")
@options.command("repository")
def trust_add(
    call: Call,
    public: Annotated[
        Path | None, typer.Argument(help="A public key; or a certificate, to trust everybody whom it certifies (PEM).")
    ] = None,
    name: Annotated[str, typer.Option("--name", "-n", help="What to call it.")] = "",
    identity: Annotated[str, typer.Option(help="Instead of a file: whom Sigstore must vouch for.")] = "",
    issuer: Annotated[str, typer.Option(metavar="URL", help="For --identity: the OIDC provider's URL.")] = "",
    not_before: Annotated[
        datetime | None, typer.Option(metavar="TIME", help="Signatures count from then on. ISO 8601.")
    ] = None,
    not_after: Annotated[
        datetime | None, typer.Option(metavar="TIME", help="Signatures count until then. ISO 8601.")
    ] = None,
    dry_run: options.DryRun = False,
    store: TrustOption = None,
) -> None:
    """Trust a key, an issuer of certificates, or an identity.

    Examples:
        policyctl trust add alice.pub --name alice --not-after 2027-12-31
        policyctl trust add company-ca.pem --name company
    """
    from policyctl.services.trust import store as service

    if not name:
        raise UsageError("a key needs a name", remedy="For example --name alice.")
    path = _store(call, store)
    entry = service.add(
        path,
        name=name,
        public=public,
        identity=identity,
        issuer=issuer,
        not_before=not_before,
        not_after=not_after,
        dry_run=dry_run,
    )
    verb = "Would trust" if dry_run else "Trusted"
    who = f"{entry.kind} {entry.fingerprint or entry.identity}"
    call.data(asdict(entry), words=f"{verb} {entry.name}: {who}, in {path}")


@group.command("list")
@options.command("repository")
def trust_list(call: Call, store: TrustOption = None) -> None:
    """Show every key, from when to when it counts, and which are revoked.

    Example:
        policyctl trust list --json
    """
    from policyctl.adapters.trust_store import read

    path = _store(call, store)
    entries = tuple(read(path))
    call.table(
        {"store": str(path), "keys": [asdict(e) for e in entries]},
        f"Trusted by {path}",
        ("name", "kind", "fingerprint", "from", "until", "revoked", "replaces"),
        [
            (
                e.name,
                e.kind,
                e.fingerprint or f"{e.identity} ({e.issuer})",
                utc_text(e.not_before) or None,
                utc_text(e.not_after) or None,
                _revoked(e),
                e.replaces or None,
            )
            for e in entries
        ],
    )


@group.command("show")
@options.command("repository")
def trust_show(
    call: Call,
    which: Annotated[str, typer.Argument(help="A name, or a fingerprint.", autocompletion=completion.trusted)],
    store: TrustOption = None,
) -> None:
    """Print a public key or certificate as PEM, for OpenSSF's own command line.

    Example:
        policyctl trust show alice
    """
    from policyctl.adapters.trust_store import read

    entry = read(_store(call, store)).named(which)
    if not entry.pem:
        raise UsageError(f"{entry.name} has no key: it is of kind {entry.kind}", remedy="See: policyctl trust list")
    sys.stdout.write(entry.pem)


@group.command("revoke")
@options.command("repository")
def trust_revoke(
    call: Call,
    which: Annotated[
        str,
        typer.Argument(help="A name, or the fingerprint of a key or certificate.", autocompletion=completion.trusted),
    ],
    reason: Annotated[str, typer.Option("--reason", "-m", help="Why.")],
    since: Annotated[
        datetime | None,
        typer.Option(metavar="TIME", help="Only for what the journal recorded from then on; else for all. ISO 8601."),
    ] = None,
    dry_run: options.DryRun = False,
    store: TrustOption = None,
) -> None:
    """Revoke a key: nothing that it ever signed counts, or nothing that was recorded since a time.

    Examples:
        policyctl trust revoke alice --reason "the laptop was stolen"
        policyctl trust revoke alice --reason "left the company" --since 2026-11-01
    """
    from policyctl.services.trust import store as service

    now = datetime.now(UTC)
    entry = service.revoke(_store(call, store), which=which, reason=reason, now=now, since=since, dry_run=dry_run)
    verb = "Would revoke" if dry_run else "Revoked"
    call.data(asdict(entry), words=f"{verb} {entry.name}: {_revoked(entry)}")
    call.say("What is served goes on being served. See what is left signed: policyctl verify")


@group.command("rotate")
@options.command("repository")
def trust_rotate(
    call: Call,
    old: Annotated[
        str, typer.Argument(help="The name of the key that is replaced.", autocompletion=completion.trusted)
    ],
    public: Annotated[Path, typer.Argument(help="The public key, or certificate, that takes its place (PEM).")],
    name: Annotated[str, typer.Option("--name", "-n", help="What to call the new one.")],
    overlap_until: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME", help="Until when signatures by the old one count as well. ISO 8601. [default: now]"
        ),
    ] = None,
    dry_run: options.DryRun = False,
    store: TrustOption = None,
) -> None:
    """Replace a key by a new one. What the old one signed until then goes on counting.

    Example:
        policyctl trust rotate alice alice-2027.pub --name alice-2027
    """
    from policyctl.services.trust import store as service

    entry = service.rotate(
        _store(call, store),
        old=old,
        name=name,
        public=public,
        at=datetime.now(UTC),
        overlap_until=overlap_until,
        dry_run=dry_run,
    )
    verb = "Would replace" if dry_run else "Replaced"
    call.data(asdict(entry), words=f"{verb} {old} by {entry.name} ({entry.fingerprint})")


@group.command()
@options.command()
def keygen(
    call: Call,
    private: Annotated[Path, typer.Argument(help="Where the private key goes, for example alice.pem.")],
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Leave the private key unencrypted: for a machine that signs alone.")
    ] = False,
) -> None:
    """Make a key pair to sign with (EC P-256, PEM): alice.pem for its owner alone, alice.pub for everybody.

    The pass phrase is POLICYCTL_INTEGRITY__PASSPHRASE, or asked for.

    Examples:
        policyctl trust keygen alice.pem
        policyctl trust keygen ci.pem --no-passphrase
    """
    from policyctl.services.trust.store import keygen as service

    settings = call.settings()
    phrase = "" if no_passphrase else read_passphrase(settings, "Pass phrase for the new key", confirm=True)
    if not phrase and not no_passphrase:
        raise UsageError("the pass phrase is empty", remedy="Give one, or --no-passphrase.")
    pair = service(private, passphrase=phrase)
    call.data(pair, words=f"{pair.private} (keep it), {pair.public} (give it away), {pair.fingerprint}")
    call.say(f"Next: policyctl trust add {pair.public} --name NAME")


def _store(call: Call, given: Path | None) -> Path:
    from policyctl.services.trust.signatures import trust_path

    return trust_path(call.settings(integrity={"trust": given}))


def _revoked(entry: Trusted) -> str | None:
    if entry.revoked is None:
        return None
    since = "all it signed" if entry.revoked.since is None else f"since {utc_text(entry.revoked.since)}"
    return f"{since}: {entry.revoked.reason}"
