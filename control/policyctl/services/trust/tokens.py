"""Create, list and revoke tokens of the control API."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from policyctl.adapters.journal import actor
from policyctl.adapters.token_store import TokenFile
from policyctl.domain.names import check_signer_name
from policyctl.domain.tokens import Scope, Token, digest_of_secret, fresh_secret
from policyctl.errors import UsageError
from policyctl.services.control import Control

MOST: Final = 1000
_MOST_DAYS: Final = 36_500


@dataclass(frozen=True, slots=True)
class Created:
    """A token that was just created.

    Attributes:
        secret: What its owner keeps, seen this once; empty for a dry run.
    """

    token: Token
    secret: str


def create(control: Control, *, name: str, scope: Scope, days: float | None = None, dry_run: bool = False) -> Created:
    """Create a token.

    Args:
        name: Names it in the journal (``token:NAME@host``); never given twice, revoked ones included.
        days: After which it ends; None for never.

    Raises:
        UsageError: The name is not allowed or taken, or the time is invalid.
        IntegrityError: The file of tokens cannot be understood.
    """
    check_signer_name(name)
    if days is not None and not 0 < days <= _MOST_DAYS:
        raise UsageError(f"{days} days is not a valid time for a token", remedy=f"More than 0, at most {_MOST_DAYS}.")
    now = datetime.now(UTC)
    secret = fresh_secret()
    token = Token(
        name=name,
        scope=scope,
        digest=digest_of_secret(secret),
        last_four=secret[-4:],
        created=now,
        by=actor(),
        expires=None if days is None else now + timedelta(days=days),
    )
    file = TokenFile(control.repository)
    if dry_run:
        _check_free(file.read(), name)
        return Created(replace(token, last_four=""), "")
    control.repository.create()
    with file.editing() as tokens:
        _check_free(tokens, name)
        tokens.append(token)
    return Created(token, secret)


def revoke(control: Control, *, name: str, dry_run: bool = False) -> Token:
    """Let a token count no more, from the next call on. Revoking it again changes nothing.

    Raises:
        UsageError: There is no such token; names those that are there.
        IntegrityError: The file of tokens cannot be understood.
    """
    file = TokenFile(control.repository)
    found = _named(file.read(), name)
    if found.revoked is not None:
        return found
    revoked = replace(found, revoked=datetime.now(UTC))
    if dry_run:
        return revoked
    with file.editing() as tokens:
        tokens[:] = [revoked if token.name == name else token for token in tokens]
    return revoked


def _check_free(tokens: tuple[Token, ...] | list[Token], name: str) -> None:
    for token in tokens:
        if token.name == name:
            raise UsageError(
                f"there is a token {name} already ({token.state(datetime.now(UTC))})",
                remedy="Choose another name: the journal names people by it, so each name is used once.",
            )
    if len(tokens) >= MOST:
        raise UsageError(f"there are {MOST} tokens already", remedy="Give fewer people and machines one each.")


def _named(tokens: tuple[Token, ...], name: str) -> Token:
    for token in tokens:
        if token.name == name:
            return token
    have = ", ".join(token.name for token in tokens) or "none"
    raise UsageError(f"there is no token {name!r}", remedy=f"There are: {have}. See: policyctl token list")
