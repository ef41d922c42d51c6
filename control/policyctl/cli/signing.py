"""Commands for signatures: keygen, sign, signatures; and how `publish` signs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.errors import IntegrityError, PolicyctlError, UsageError
from policyctl.settings import Settings

if TYPE_CHECKING:
    from policyctl.adapters.signing import Signer
    from policyctl.services.control import Control
    from policyctl.services.signing import Signing

_PATIENCE_S = 30.0
"""How long signing what was published waits for another writer."""

SignKey = Annotated[
    Path | None,
    typer.Option(
        "--sign-key",
        help="Sign it with this private key (PEM) as soon as it is published."
        " [pass phrase: POLICYCTL_INTEGRITY__PASSPHRASE, or asked]",
    ),
]
SignCertificate = Annotated[
    Path | None, typer.Option("--sign-certificate", help="For --sign-key: its certificate, then the chain (PEM).")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(keygen)
    app.command()(sign)
    app.command()(signatures)


def keygen(
    private: Annotated[Path, typer.Argument(help="Where the private key goes, for example alice.pem.")],
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Leave the private key unencrypted: for a machine that signs alone.")
    ] = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Make a key pair to sign with (EC P-256, PEM): alice.pem for its owner alone, alice.pub for everybody.

    The pass phrase is POLICYCTL_INTEGRITY__PASSPHRASE, or asked for.

    Examples:

        policyctl keygen alice.pem

        policyctl keygen ci.pem --no-passphrase
    """
    from policyctl.services.keys import keygen as service

    out = Output(as_json, quiet)
    settings = options.read_settings()
    phrase = "" if no_passphrase else _passphrase(settings, "Pass phrase for the new key", confirm=True)
    if not phrase and not no_passphrase:
        raise UsageError("the pass phrase is empty", remedy="Give one, or --no-passphrase.")
    pair = service(private, passphrase=phrase)
    document = {
        "private": str(pair.private),
        "public": str(pair.public),
        "fingerprint": pair.fingerprint,
        "encrypted": pair.encrypted,
    }
    out.data(document, words=f"{pair.private} (keep it), {pair.public} (give it away), {pair.fingerprint}")
    out.say(f"Next: policyctl trust add {pair.public} --name NAME")


def sign(
    model: options.Model,
    release: options.Release,
    key: Annotated[Path | None, typer.Option("--key", "-k", help="The private key that signs (PEM).")] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="For --key: its certificate, then the chain (PEM).")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="Keep a bundle that was made elsewhere, for example by `model_signing sign`."),
    ] = None,
    keyless: Annotated[
        bool, typer.Option("--keyless", help="Sign by an identity, through Sigstore: needs a network.")
    ] = False,
    identity_token: Annotated[
        Path | None, typer.Option("--identity-token", help="For --keyless: a file with the OIDC token.")
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="Of the signature. [default: the key's name in the trust store]")
    ] = "",
    dry_run: options.DryRun = False,
    wait: options.Wait = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Sign a published release: every file of it, and its manifest. The release itself is not changed.

    The signature is an OpenSSF Model Signing bundle beside the journal, which
    records it. Several people can sign one release. The pass phrase of the key
    is POLICYCTL_INTEGRITY__PASSPHRASE, or asked for.

    Examples:

        policyctl sign walker 1.0.0 --key alice.pem

        policyctl sign walker 1.0.0 --key bob.pem --certificate bob-chain.pem

        policyctl sign walker 1.0.0 --bundle carol.sig --name carol
    """
    from policyctl.services import signing as service

    out = Output(as_json, quiet)
    settings = options.read_settings(repository, lock_wait_s=wait)
    if [key is not None, bundle is not None, keyless].count(True) != 1:
        raise UsageError("give one of --key, --bundle and --keyless", remedy="For example --key alice.pem.")
    control = options.control_of(settings, out)
    given: dict[str, Any] = {"model": model, "release": release, "name": name, "dry_run": dry_run, "wait_s": wait}
    if bundle is not None:
        done = service.attach(control, service.read_bundle(bundle), where=str(bundle), **given)
    else:
        done = service.sign(control, read_signer(settings, key, certificate, identity_token, out), **given)
    verb = "Would sign" if dry_run and done.changed else "Signed" if done.changed else "Signed already:"
    out.data(
        done.to_json(),
        words=f"{verb} {model} {release} as {done.name}: {done.covered} files, {done.method} {done.key or 'not named'}",
    )
    tell_worth(out, done)


def signatures(
    model: options.Model,
    release: options.Release,
    check: Annotated[bool, typer.Option("--check", help="Exit with 3 unless one signature counts.")] = False,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show who signed a release, since when, and whether that counts.

    Examples:

        policyctl signatures walker 1.0.0

        policyctl signatures walker 1.0.0 --check --json
    """
    from policyctl.services import signatures as service

    out = Output(as_json)
    control = options.control_of(options.read_settings(repository), out)
    control.repository.require()
    state = control.repository.journal.state()
    published = state.release(model, release)
    found = service.of_release(control, state, published)
    counts = any(s.counts for s in found)
    slot = control.repository.slot(model, published.slot)
    out.table(
        {
            "model": model,
            "release": release,
            "slot": str(slot),
            "signed": counts,
            "signatures": [s.to_json() for s in found],
        },
        f"Signatures of {model} {release}",
        ("name", "counts", "signer", "method", "key", "since", "by", "why"),
        [
            (
                s.record.name,
                "yes" if s.counts else f"NO, {s.standing}",
                s.signer or None,
                s.record.method,
                s.record.key[:23],
                s.record.time[:19],
                s.record.actor,
                s.reason,
            )
            for s in found
        ],
    )
    out.say(f"Check one without policyctl: model_signing verify key {slot} --signature FILE --public_key PUBLIC")
    if check and not counts:
        error = IntegrityError(
            service.shortfall(published, found), remedy=f"policyctl sign {model} {release} --key KEY"
        )
        if as_json:
            raise typer.Exit(error.exit_code)
        raise error


def read_signer(
    settings: Settings, key: Path | None, certificate: Path | None, token: Path | None, out: Output
) -> Signer:
    """Whoever signs: by a private key, else by an identity.

    Raises:
        UsageError: The key cannot be used, or the pass phrase is wrong or not given.
    """
    from policyctl.adapters import signing

    if key is None:
        if certificate is not None:
            raise UsageError("a certificate needs its private key", remedy="Give --key as well.")
        return signing.keyless_signer("" if token is None else token.read_text().strip())
    if token is not None:
        raise UsageError("--identity-token belongs to --keyless", remedy="Leave it out, or give --keyless.")
    signer = signing.open_signer(
        key, certificate=certificate, passphrase=lambda: _passphrase(settings, f"Pass phrase of {key}", confirm=False)
    )
    if key.stat().st_mode & 0o077:
        out.say(f"WARNING: others can read {key}. Make it yours alone: chmod 600 {key}")
    return signer


def signer_of_publish(settings: Settings, key: Path | None, certificate: Path | None, out: Output) -> Signer | None:
    """Whoever signs what is published; None where nobody was named."""
    return None if key is None and certificate is None else read_signer(settings, key, certificate, None, out)


def sign_published(control: Control, signer: Signer, model: str, release: str) -> Signing:
    """Sign what was published just now.

    Raises:
        PolicyctlError: It was published, and is not signed; the remedy says so.
    """
    from policyctl.services.signing import sign as service

    try:
        return service(control, signer, model=model, release=release, wait_s=_PATIENCE_S)
    except PolicyctlError as error:
        problem = f"{model} {release} was published, but not signed: {error.problem}"
        remedy = f"{error.remedy} Then sign it: policyctl sign {model} {release} --key KEY".strip()
        raise type(error)(problem, remedy=remedy) from error


def tell_worth(out: Output, done: Signing) -> None:
    """Whether a signature counts here."""
    if done.judged is None:
        return
    if done.judged.standing == "trusted":
        out.say(f"It counts: {done.judged.reason}.")
    else:
        out.say(f"It does not count here yet ({done.judged.standing}): {done.judged.reason}. See: policyctl trust")


def _passphrase(settings: Settings, words: str, *, confirm: bool) -> str:
    if given := settings.integrity.passphrase.get_secret_value():
        return given
    if not sys.stdin.isatty():
        raise UsageError(
            "a pass phrase is needed and there is nobody to ask",
            remedy="Set POLICYCTL_INTEGRITY__PASSPHRASE for this one command.",
        )
    return str(typer.prompt(words, hide_input=True, confirmation_prompt=confirm, err=True))
