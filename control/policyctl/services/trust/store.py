"""Make keys to sign with, and keep the trust store: add, revoke and rotate keys.

Every change is one atomic write of one file, and nothing else: who keeps that
file under review and version control decides who may sign.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from policyctl.adapters import files, trust_store
from policyctl.adapters.signing_keys import generate, read_public
from policyctl.domain.names import check_signer_name
from policyctl.domain.trust import Revocation, Trusted, TrustKind, TrustStore, fingerprint, moment
from policyctl.errors import UsageError


def add(
    path: Path,
    *,
    name: str,
    public: Path | None = None,
    identity: str = "",
    issuer: str = "",
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    dry_run: bool = False,
) -> Trusted:
    """Trust a key, all certificates of an issuer, or an identity.

    Args:
        public: A public key, or a certificate as the root of trust, in PEM.
        identity: Whom Sigstore must vouch for, instead.
        issuer: Who must have vouched for it to Sigstore.
        not_before: From when signatures that the journal records count.

    Raises:
        UsageError: The file cannot be used, or the name or the key is there already.
    """
    entry = _entry(name, public, identity, issuer)
    entry = replace(entry, not_before=not_before, not_after=not_after)
    _change(path, lambda store: _adding(store, entry), dry_run=dry_run)
    return entry


def revoke(
    path: Path,
    *,
    which: str,
    reason: str,
    now: datetime,
    since: datetime | None = None,
    dry_run: bool = False,
) -> Trusted:
    """Let a key count no more.

    Args:
        which: A name, or the fingerprint of a key or certificate that need not be there.
        since: What the journal recorded from then on counts no more; None for all of it.

    Raises:
        UsageError: There is no such key, it is revoked already and further back, or no reason is given.
    """
    if not reason.strip():
        raise UsageError("a revocation needs a reason", remedy="For example --reason 'the laptop was stolen'.")
    revoked = Revocation(now, reason, since)
    done: list[Trusted] = []

    def change(store: TrustStore) -> TrustStore:
        if which.startswith("sha256:") and store.with_fingerprint(which) is None:
            name = f"revoked-{which.removeprefix('sha256:')[:16]}"
            done.append(Trusted(name, TrustKind.NONE, which, revoked=revoked))
            return store.adding(done[0])
        entry = store.named(which)
        before = entry.revoked
        if before is not None and (before.since is None or (since is not None and since >= before.since)):
            raise UsageError(
                f"{entry.name} is revoked already ({moment(before.declared)}: {before.reason})",
                remedy="A revocation is made to reach further back, never taken back.",
            )
        done.append(replace(entry, revoked=revoked))
        return store.changing(entry.name, revoked=revoked)

    _change(path, change, dry_run=dry_run)
    return done[0]


def rotate(
    path: Path,
    *,
    old: str,
    name: str,
    public: Path,
    at: datetime,
    overlap_until: datetime | None = None,
    dry_run: bool = False,
) -> Trusted:
    """Let a new key take the place of an old one. What the old one signed goes on counting.

    Args:
        at: From when the new one counts.
        overlap_until: Until when the old one counts as well; None for `at`.

    Raises:
        UsageError: No such key, or it is revoked; the name or the new key is there already.
    """
    until = at if overlap_until is None else overlap_until
    if until < at:
        raise UsageError(f"the old key would end {moment(until)}, before the new one begins {moment(at)}")
    fresh = replace(_entry(name, public, "", ""), not_before=at, replaces=old)

    def change(store: TrustStore) -> TrustStore:
        entry = store.named(old)
        if entry.revoked is not None:
            raise UsageError(
                f"{entry.name} is revoked: it is not rotated", remedy="Add the new key: policyctl trust add"
            )
        if entry.not_after is not None and entry.not_after <= until:
            return _adding(store, replace(fresh, replaces=entry.name))
        return _adding(store.changing(entry.name, not_after=until), replace(fresh, replaces=entry.name))

    _change(path, change, dry_run=dry_run)
    return fresh


def _entry(name: str, public: Path | None, identity: str, issuer: str) -> Trusted:
    check_signer_name(name)
    if public is not None and not identity and not issuer:
        pem, kind = read_public(public)
        return Trusted(name, kind, fingerprint(pem), pem)
    if public is None and identity and issuer:
        return Trusted(name, TrustKind.IDENTITY, identity=identity, issuer=issuer)
    raise UsageError(
        "trusting needs a PEM file, or an identity with its issuer",
        remedy="policyctl trust add alice.pub --name alice, or --identity MAIL --issuer URL.",
    )


def _adding(store: TrustStore, entry: Trusted) -> TrustStore:
    for there in store:
        if there.name == entry.name:
            raise UsageError(f"the trust store holds {entry.name} already", remedy="Choose another --name.")
        if entry.fingerprint and there.fingerprint == entry.fingerprint:
            revoked = ", which is revoked" if there.revoked is not None else ""
            raise UsageError(f"this key is in the trust store already, as {there.name}{revoked}")
    return store.adding(entry)


def _change(path: Path, change: Callable[[TrustStore], TrustStore], *, dry_run: bool) -> None:
    with nullcontext(trust_store.read(path)) if dry_run else trust_store.editing(path) as store:
        changed = change(store)
        if not dry_run:
            trust_store.write(path, changed)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key pair on disk.

    Attributes:
        private: Its owner's alone (mode 0600).
        fingerprint: Of the public key: what `sha256sum` says of its file.
    """

    private: Path
    public: Path
    fingerprint: str
    encrypted: bool


def keygen(private: Path, *, passphrase: str) -> KeyPair:
    """Make a key pair on the curve P-256; the public key stands next to `private`, with the ending ``.pub``.

    Args:
        private: Where the private key goes; never overwritten.
        passphrase: Encrypts the private key; empty for none.

    Raises:
        UsageError: A file is there already, or cannot be written.
        UnsupportedError: The extra `sign` is not installed.
    """
    public = private.with_suffix(".pub")
    if public == private:
        raise UsageError(f"{private} would be the public key's name", remedy="End it with .pem, for example alice.pem.")
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} is there already", remedy="A key is never overwritten. Choose another name.")
    secret, open_half = generate(passphrase)
    files.write_atomically(private, secret, mode=0o600)
    files.write_atomically(public, open_half)
    return KeyPair(private, public, fingerprint(open_half.decode()), bool(passphrase))
