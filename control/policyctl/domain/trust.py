"""Whom to believe: keys with names, the time in which they count, and what ends them.

A signature counts if it was made by a key that is trusted *now*, and the
journal recorded it while that key was valid. So

- a key that is not in the trust store, or no longer, never counts;
- a key that expired, or was replaced, still vouches for what the journal
  recorded before that, and for nothing recorded later;
- a revoked key vouches for nothing, or, where the revocation says since when,
  for nothing recorded from then on.

The time is the journal's, never the signer's: a bundle made with a key carries
no time that anybody vouches for. What a thief recorded before the revocation's
"since" counts as his victim's; where that is not known, revoke without it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from policyctl.domain.json_values import OMIT_DEFAULT
from policyctl.errors import IntegrityError, UsageError


class TrustKind(StrEnum):
    """What is trusted."""

    KEY = "key"
    """A public key."""
    CERTIFICATE = "certificate"
    """Everybody to whom it issued a certificate: a root of trust."""
    IDENTITY = "identity"
    """An identity that Sigstore vouches for."""
    NONE = "none"
    """Nothing: a key or certificate that is named only to be revoked."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """That a key counts no more.

    Attributes:
        declared: When it was said.
        reason: Why.
        since: What the journal recorded from then on does not count; None for all of it.
    """

    declared: datetime
    reason: str
    since: datetime | None = field(default=None, metadata=OMIT_DEFAULT)


@dataclass(frozen=True, slots=True)
class Trusted:
    """One entry of the trust store.

    Attributes:
        name: What people call it.
        kind: What is trusted.
        fingerprint: Of the public key's PEM text, or of the certificate's DER; empty for an identity.
        pem: The public key or certificate; empty for an identity, or where nothing is trusted.
        identity: Whom Sigstore must vouch for, for example a mail address.
        issuer: Which provider must have confirmed that to Sigstore.
        not_before: What the journal recorded earlier does not count.
        not_after: What the journal recorded from then on does not count.
        revoked: That it was revoked.
        replaces: The name of the key that it took the place of.
    """

    name: str
    kind: TrustKind
    fingerprint: str = field(default="", metadata=OMIT_DEFAULT)
    pem: str = field(default="", metadata=OMIT_DEFAULT)
    identity: str = field(default="", metadata=OMIT_DEFAULT)
    issuer: str = field(default="", metadata=OMIT_DEFAULT)
    not_before: datetime | None = field(default=None, metadata=OMIT_DEFAULT)
    not_after: datetime | None = field(default=None, metadata=OMIT_DEFAULT)
    revoked: Revocation | None = field(default=None, metadata=OMIT_DEFAULT)
    replaces: str = field(default="", metadata=OMIT_DEFAULT)

    def objection(self, recorded: datetime) -> str:
        """Why what the journal recorded at `recorded` does not count; empty where it does."""
        revoked = self.revoked
        if revoked is not None and (revoked.since is None or recorded >= revoked.since):
            since = "" if revoked.since is None else f" since {moment(revoked.since)}"
            return f"{self.name} is revoked{since}: {revoked.reason}"
        if self.not_before is not None and recorded < self.not_before:
            return f"{self.name} is valid from {moment(self.not_before)}, this was recorded {moment(recorded)}"
        if self.not_after is not None and recorded >= self.not_after:
            return f"{self.name} was valid until {moment(self.not_after)}, this was recorded {moment(recorded)}"
        return "" if self.kind is not TrustKind.NONE else f"{self.name} is not trusted"


@dataclass(frozen=True, slots=True)
class TrustStore:
    """Everybody who is trusted, and who no longer is.

    Raises:
        UsageError: Two entries share a name or fingerprint, an entry replaces
            one that is not there, or a key is not what its fingerprint says.
    """

    entries: tuple[Trusted, ...] = ()

    def __post_init__(self) -> None:
        names = [e.name for e in self.entries]
        prints = [e.fingerprint for e in self.entries if e.fingerprint]
        for what, values in (("name", names), ("fingerprint", prints)):
            if twice := sorted({v for v in values if values.count(v) > 1}):
                raise UsageError(f"trust store: the {what} {twice[0]} stands there twice", remedy="Remove one of them.")
        for entry in self.entries:
            if entry.replaces and entry.replaces not in names:
                raise UsageError(f"trust store: {entry.name} replaces {entry.replaces}, which is not there")
            if entry.pem and fingerprint(entry.pem) != entry.fingerprint:
                raise UsageError(
                    f"trust store: {entry.name} has the fingerprint {entry.fingerprint}, but its PEM text has"
                    f" {fingerprint(entry.pem)}",
                    remedy="Find out who changed it; then remove the entry and add it again: policyctl trust add",
                )

    def __iter__(self) -> Iterator[Trusted]:
        return iter(self.entries)

    def named(self, name: str) -> Trusted:
        """The entry of that name, or with that fingerprint.

        Raises:
            UsageError: No entry has it; names those that are there.
        """
        for entry in self.entries:
            if name in {entry.name, entry.fingerprint}:
                return entry
        have = ", ".join(e.name for e in self.entries) or "nobody"
        raise UsageError(f"the trust store holds no {name!r}", remedy=f"It holds: {have}.")

    def with_fingerprint(self, *wanted: str) -> Trusted | None:
        """The first entry with one of these fingerprints."""
        return next((e for e in self.entries if e.fingerprint and e.fingerprint in wanted), None)

    def adding(self, entry: Trusted) -> TrustStore:
        """This store and one entry more."""
        return TrustStore((*self.entries, entry))

    def changing(self, name: str, **changes: object) -> TrustStore:
        """This store with one entry changed."""
        return TrustStore(tuple(replace(e, **changes) if e.name == name else e for e in self.entries))  # type: ignore[arg-type]


def fingerprint(pem: str) -> str:
    """``sha256:`` and the digest of a public key's PEM text, or of a certificate's DER.

    For a key it is what `sha256sum` says of the file that openssl writes, and
    the hint in a bundle; for a certificate what `openssl x509 -fingerprint
    -sha256` says.

    Raises:
        IntegrityError: It is neither.
    """
    lines = [line.strip() for line in pem.strip().splitlines()]
    if lines[:1] == ["-----BEGIN PUBLIC KEY-----"] and lines[-1] == "-----END PUBLIC KEY-----":
        return "sha256:" + hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()
    if lines[:1] == ["-----BEGIN CERTIFICATE-----"] and lines[-1] == "-----END CERTIFICATE-----":
        try:
            return fingerprint_of_der(base64.b64decode("".join(lines[1:-1]), validate=True))
        except binascii.Error as error:
            raise IntegrityError(f"a certificate whose PEM text is not base64 ({error})") from error
    raise IntegrityError(
        "neither a public key nor a certificate in PEM",
        remedy="It begins with -----BEGIN PUBLIC KEY----- or -----BEGIN CERTIFICATE-----, and holds one of them.",
    )


def fingerprint_of_der(der: bytes) -> str:
    """The fingerprint of a certificate in DER."""
    return "sha256:" + hashlib.sha256(der).hexdigest()


def moment(time: datetime) -> str:
    """A time for people, to the second."""
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")
