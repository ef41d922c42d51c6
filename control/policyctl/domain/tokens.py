"""Tokens of the control API: who may ask for what, and until when.

A token is 256 random bits. What is kept is its SHA-256: nobody can guess a
preimage of a value that was drawn from 2**256, so a slow hash, which protects
passwords because people choose them, would protect nothing here and cost every
request its time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from policyctl.domain.json_values import to_json

PREFIX: Final = "policyctl_"
"""By which a person, or a scanner of files, knows what it is."""
_RANDOM_BYTES: Final = 32
_SHAPE: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")
SCHEMA: Final = 1


class Scope(StrEnum):
    """What a token lets its owner do; each allows what those before it allow."""

    READ = "read"
    """Look."""
    PROMOTE = "promote"
    """Move aliases: promote, roll back, pin and unpin, abort."""
    ADMIN = "admin"
    """See the audit and the tokens, revoke one, take an alias out of service, and promote past the settings' gates and
    bake."""

    def allows(self, needed: Scope) -> bool:
        """Whether it is enough where `needed` is asked."""
        order = tuple(Scope)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Token:
    """One token, without its secret.

    Attributes:
        name: Names it in the journal and the audit; never given twice.
        scope: What it is good for.
        digest: SHA-256 of the secret, in hexadecimal.
        last_four: The secret's last characters, to tell which one somebody holds.
        created: When.
        by: Who created it.
        expires: When it ends; None for never.
        revoked: When it was revoked; None where it was not.
    """

    name: str
    scope: Scope
    digest: str
    last_four: str
    created: datetime
    by: str
    expires: datetime | None = None
    revoked: datetime | None = None

    def good(self, now: datetime) -> bool:
        """Whether it counts at that time."""
        return self.revoked is None and (self.expires is None or now < self.expires)

    def state(self, now: datetime) -> str:
        """``good``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "good" if self.good(now) else "expired"

    def public(self) -> dict[str, Any]:
        """A JSON object for people and programs: everything but the digest."""
        return {key: value for key, value in to_json(self).items() if key != "digest"}


def fresh_secret() -> str:
    """A new secret: 256 bits from the operating system."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest_of_secret(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def find(tokens: Iterable[Token], secret: str) -> Token | None:
    """The token of that secret, whether it still counts or not.

    Every token is compared, each in a time that does not depend on where it
    differs.
    """
    if _SHAPE.fullmatch(secret) is None:
        return None
    digest, found = digest_of_secret(secret), None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found
