"""Which names a model, an alias and a release may have.

A model or alias name becomes a folder and a part of a URL, so the alphabet is
small and lower case: no name can leave the repository, hide, or collide with
another on a file system that ignores case. The dot is kept for joining: the
model that Triton serves for alias ``staging`` of ``walker`` is
``walker.staging``; ``production`` is plain ``walker``. A pin is an alias that
has a release's own number for a name and never moves: ``walker.1.2.0``. Every
number has dots and no other alias has one, so the two cannot collide.
"""

from __future__ import annotations

import re

import semver

from policyctl.errors import UsageError

PRODUCTION = "production"
CANDIDATE = "candidate"
LATEST = "latest"
"""Selects the highest release, pre-releases left out; see `domain.versions.select`."""

# A release becomes a folder of evidence, and folder names end at 255 bytes.
_RELEASE_LENGTH = 128
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")


def check_model_name(name: str) -> str:
    """Return `name` if it may name a model.

    Raises:
        UsageError: It is not 1 to 64 characters of ``a-z 0-9 _ -`` that begin
            and end with a letter or digit.
    """
    return _check("model", name)


def check_alias(name: str) -> str:
    """Return `name` if it may name an alias, or is the name of a pin.

    Raises:
        UsageError: Not in the alphabet, or ``candidate``, which is the name
            under which a release is certified before any alias names it, or
            ``latest``, which selects a release wherever one is named.
    """
    if name == CANDIDATE:
        raise UsageError(
            f"alias {name!r} is reserved for the release under certification",
            remedy="Choose another alias, for example staging.",
        )
    if name == LATEST:
        raise UsageError(
            f"alias {name!r} is reserved: it selects the highest release wherever one is named",
            remedy="Choose another alias, for example newest.",
        )
    return name if is_pin(name) else _check("alias", name)


def check_movable_alias(name: str) -> str:
    """Return `name` if it may name an alias that is moved from release to release.

    Raises:
        UsageError: As `check_alias`, or it is the name of a pin.
    """
    if is_pin(name):
        raise UsageError(
            f"{name} is the name of a pinned release, which never moves",
            remedy=f"Pin or unpin it: policyctl pin MODEL {name}. Or choose an alias, for example staging.",
        )
    return check_alias(name)


def pin_name(release: str) -> str:
    """The alias that serves `release` and never another: its number.

    Build metadata is left out, because no two releases of a model differ in it alone.
    """
    return check_release(release).partition("+")[0]


def is_pin(alias: str) -> bool:
    """Whether `alias` is the name of a pin, that is, the number of a release."""
    return "+" not in alias and is_release(alias)


def is_release(text: str) -> bool:
    """Whether `text` is a semantic version, in full and canonical."""
    try:
        return check_release(text) == text
    except UsageError:
        return False


def check_signer_name(name: str) -> str:
    """Return `name` if it may name a key, or a signature of a release, which becomes a file.

    Raises:
        UsageError: It is not in the alphabet of a model's name.
    """
    return _check("signer", name)


def _check(kind: str, name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{kind} name {name!r} is not allowed",
            remedy="Use 1 to 64 of a-z, 0-9, '_' and '-', beginning and ending with a letter or digit.",
        )
    return name


def check_release(text: str) -> str:
    """Return `text` if it is a semantic version, in full and canonical.

    Raises:
        UsageError: It is not one by https://semver.org (three numbers, no
            ``v``, ASCII), or longer than 128 characters.
    """
    try:
        if len(text) > _RELEASE_LENGTH or not text.isascii() or str(semver.Version.parse(text)) != text:
            raise ValueError(text)
    except (ValueError, TypeError):
        shown = text if len(text) <= _RELEASE_LENGTH else f"{text[:_RELEASE_LENGTH]}..."
        raise UsageError(
            f"release {shown!r} is not a semantic version",
            remedy="Use MAJOR.MINOR.PATCH, for example 1.0.0 or 1.2.0-rc.1 (see https://semver.org),"
            " at most 128 characters.",
        ) from None
    return text


def served_name(model: str, alias: str) -> str:
    """Name of the Triton model that answers for `alias` of `model`."""
    return model if alias == PRODUCTION else f"{model}.{alias}"


def split_served_name(name: str) -> tuple[str, str]:
    """Model and alias of a Triton model name; the inverse of `served_name`."""
    model, dot, alias = name.partition(".")
    return (model, alias) if dot else (model, PRODUCTION)
