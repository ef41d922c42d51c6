"""Commands for signatures: sign, signatures; and how `publish` signs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.domain.instants import utc_text
from policyctl.errors import IntegrityError, PolicyctlError, UsageError

if TYPE_CHECKING:
    from policyctl.adapters.signing import Signer
    from policyctl.services.control import Control
    from policyctl.services.trust.signing import Signing
    from policyctl.settings import Settings

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


@options.command("wait", "repository")
def sign(
    call: Call,
    model: options.Model,
    release: options.Release,
    key: Annotated[Path | None, typer.Option("--key", "-k", help="The private key that signs (PEM).")] = None,
    certificate: Annotated[Path | None, typer.Option(help="For --key: its certificate, then the chain (PEM).")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Keep a bundle that was made elsewhere, for example by `model_signing sign`.")
    ] = None,
    keyless: Annotated[
        bool, typer.Option("--keyless", help="Sign by an identity, through Sigstore: needs a network.")
    ] = False,
    identity_token: Annotated[Path | None, typer.Option(help="For --keyless: a file with the OIDC token.")] = None,
    name: Annotated[str, typer.Option(help="Of the signature. [default: the key's name in the trust store]")] = "",
    dry_run: options.DryRun = False,
) -> None:
    """Sign a published release: every file of it, and its manifest. The release itself is not changed.

    The signature is an OpenSSF Model Signing bundle next to the journal, which
    records it. Several people can sign one release. The pass phrase of the key
    is POLICYCTL_INTEGRITY__PASSPHRASE, or asked for.

    Examples:
        policyctl sign walker 1.0.0 --key alice.pem
        policyctl sign walker 1.0.0 --key bob.pem --certificate bob-chain.pem
        policyctl sign walker 1.0.0 --bundle carol.sig --name carol
    """
    from policyctl.services.trust import signing as service

    if [key is not None, bundle is not None, keyless].count(True) != 1:
        raise UsageError("give one of --key, --bundle and --keyless", remedy="For example --key alice.pem.")
    control = call.control()
    given: dict[str, Any] = {"model": model, "release": release, "name": name, "dry_run": dry_run, "wait_s": call.wait}
    if bundle is not None:
        done = service.attach(control, service.read_bundle(bundle), where=str(bundle), **given)
    else:
        done = service.sign(control, read_signer(control.settings, key, certificate, identity_token, call), **given)
    verb = "Would sign" if dry_run and done.changed else "Signed" if done.changed else "Signed already:"
    call.data(
        done,
        words=f"{verb} {model} {done.release} as {done.name}: {done.covered_files} files,"
        f" {done.method} {done.key}".rstrip(),
    )
    tell_worth(call, done)


@options.command("repository")
def signatures(
    call: Call,
    model: options.Model,
    release: options.Release,
    check: Annotated[bool, typer.Option("--check", help="Exit with 3 unless one signature counts.")] = False,
) -> None:
    """Show who signed a release, since when, and whether that counts.

    Examples:
        policyctl signatures walker 1.0.0
        policyctl signatures walker 1.0.0 --check --json
    """
    from policyctl.services.control import select_release
    from policyctl.services.trust import signatures as service

    control = call.control()
    release = select_release(control, model, release)
    state = control.repository.journal.state()
    published = state.release(model, release)
    found = service.of_release(control, state, published)
    counts = any(s.counts for s in found)
    slot = control.repository.slot(model, published.slot)
    call.table(
        {
            "model": model,
            "release": release,
            "slot": str(slot),
            "signed": counts,
            "signatures": found,
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
                utc_text(s.record.time),
                s.record.actor,
                s.reason,
            )
            for s in found
        ],
    )
    call.say(f"Check one without policyctl: model_signing verify key {slot} --signature FILE --public_key PUBLIC")
    if check and not counts:
        error = IntegrityError(
            service.shortfall(published, found), remedy=f"policyctl sign {model} {release} --key KEY"
        )
        call.end_with(error)


def read_signer(
    settings: Settings, key: Path | None, certificate: Path | None, token: Path | None, call: Call
) -> Signer:
    """The signer: by a private key, else by an identity.

    Raises:
        UsageError: The key cannot be used, or the pass phrase is wrong or not given.
    """
    from policyctl.adapters import signing, signing_keys

    if key is None:
        if certificate is not None:
            raise UsageError("a certificate needs its private key", remedy="Give --key as well.")
        return signing.keyless_signer("" if token is None else signing_keys.read_text(token).strip())
    if token is not None:
        raise UsageError("--identity-token belongs to --keyless", remedy="Leave it out, or give --keyless.")
    signer = signing.open_signer(
        key,
        certificate=certificate,
        passphrase=lambda: read_passphrase(settings, f"Pass phrase of {key}", confirm=False),
    )
    if key.stat().st_mode & 0o077:
        call.say(f"WARNING: others can read {key}. Make it yours alone: chmod 600 {key}")
    return signer


def sign_published(control: Control, signer: Signer, model: str, release: str) -> Signing:
    """Sign what was published just now.

    Raises:
        PolicyctlError: It was published, and is not signed; the remedy says so.
    """
    from policyctl.services.trust.signing import sign as service

    try:
        return service(control, signer, model=model, release=release, wait_s=_PATIENCE_S)
    except PolicyctlError as error:
        problem = f"{model} {release} was published, but not signed: {error.problem}"
        remedy = f"{error.remedy} Then sign it: policyctl sign {model} {release} --key KEY".strip()
        raise type(error)(problem, remedy=remedy) from error


def tell_worth(call: Call, done: Signing) -> None:
    """Whether a signature counts here."""
    if done.judged is None:
        return
    if done.judged.standing == "trusted":
        call.say(f"It counts: {done.judged.reason}.")
    else:
        call.say(f"It does not count here yet ({done.judged.standing}): {done.judged.reason}. See: policyctl trust")


def read_passphrase(settings: Settings, question: str, *, confirm: bool) -> str:
    """The pass phrase of a key: a setting, or the answer to `question`.

    Raises:
        UsageError: No setting has it, and no terminal is there to ask.
    """
    if given := settings.integrity.passphrase.get_secret_value():
        return given
    if not sys.stdin.isatty():
        raise UsageError(
            "a pass phrase is needed and there is nobody to ask",
            remedy="Set POLICYCTL_INTEGRITY__PASSPHRASE for this one command.",
        )
    return str(typer.prompt(question, hide_input=True, confirmation_prompt=confirm, err=True))
