"""Numbers of releases: their order, what a step from one to the next promises, and ranges of them.

Everything is by https://semver.org, and where that leaves a choice, here is
what was chosen:

* Before 1.0.0 the book allows anything. Here the second number then promises
  what the first promises later (as npm and Cargo read it), so ``^0.3.1`` is as
  safe as ``^1.3.1``: from 0.3 to 0.4 anything may change, within 0.3 only what
  adds.
* A pre-release comes before its release and matches only what asks for it:
  its own number, or a range that begins with a pre-release of the same three
  numbers (``^1.3.0-rc.1``).
* Build metadata says nothing about order. Two numbers that differ in it alone
  are equal, so there is never more than one of them.

Laws: a step that was made by `bump` promises what was asked for; whatever a
range ``^R`` matches is reached from R by steps that promise no more than MINOR.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from semver import Version

from policyctl.domain.names import LATEST, check_release
from policyctl.errors import UsageError

_PARTIAL: Final = re.compile(r"(0|[1-9][0-9]*)(?:\.(0|[1-9][0-9]*))?")
_LENGTH: Final = 130


class Bump(IntEnum):
    """How much a new number says that has changed; ordered."""

    PATCH = 1
    """Nothing that a client can see in the contract."""
    MINOR = 2
    """Something was added; a client of the earlier release can use this one."""
    MAJOR = 3
    """A client of the earlier release may not be able to use this one."""

    def __str__(self) -> str:
        return self.name


@lru_cache(maxsize=4096)
def parse(release: str) -> Version:
    """The number that `release` is.

    Raises:
        UsageError: It is not a semantic version, in full and canonical.
    """
    return Version.parse(check_release(release))


@lru_cache(maxsize=1 << 16)
def precedence(release: str) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
    """What orders `release` among others (semver.org, 11), as a value that is quick to compare.

    Raises:
        UsageError: It is not a semantic version, in full and canonical.
    """
    version = parse(release)
    parts = version.prerelease.split(".") if version.prerelease else ()
    identifiers = tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts)
    return (*core(version), not parts, identifiers)


def core(version: Version) -> tuple[int, int, int]:
    """Its three numbers, without what follows them."""
    return version.major, version.minor, version.patch


def promised(earlier: Version, later: Version) -> Bump:
    """What a step from `earlier` to `later` announces.

    Args:
        earlier: Any number.
        later: One that comes after it.
    """
    if earlier.major != later.major:
        return Bump.MAJOR
    if earlier.major == 0:
        return Bump.MAJOR if earlier.minor != later.minor else Bump.MINOR
    return Bump.MINOR if earlier.minor != later.minor else Bump.PATCH


def bump(version: Version, need: Bump) -> Version:
    """The lowest release, no pre-release, that comes after `version` and promises `need`."""
    major, minor, patch = core(version)
    if need is Bump.MAJOR:
        return Version(0, minor + 1, 0) if major == 0 else Version(major + 1, 0, 0)
    if need is Bump.MINOR and major > 0:
        return Version(major, minor + 1, 0)
    return Version(major, minor, patch + 1)


@dataclass(frozen=True, slots=True)
class Range:
    """Which releases somebody can do with.

    Attributes:
        text: As it was written.
        low: The lowest that matches.
        below: Three numbers that are too high; None where `low` alone matches.
    """

    text: str
    low: Version
    below: tuple[int, int, int] | None

    def matches(self, release: str) -> bool:
        """Whether `release` is one of them; other text is not."""
        try:
            found = parse(release)
        except UsageError:
            return False
        if self.below is None:
            return found == self.low and self.low.build in {None, found.build}
        if found.prerelease and not (self.low.prerelease and core(found) == core(self.low)):
            return False
        return bool(found >= self.low) and core(found) < self.below

    def __str__(self) -> str:
        return self.text


def parse_range(text: str) -> Range:
    """Read ``1.2.3``, ``^1.2`` or ``~1.2.0``.

    A caret allows whatever does not change the first number that is not zero;
    a tilde allows other patches (``~1``: other minors). Parts that are left
    out are zero.

    Raises:
        UsageError: It is something else.
    """
    operator, rest = (text[:1], text[1:]) if text[:1] in {"^", "~"} else ("", text)
    try:
        if not operator:
            return Range(text, parse(text), None)
        if len(text) > _LENGTH:
            raise UsageError("too long")
        partial = _PARTIAL.fullmatch(rest)
        low = parse(rest) if partial is None else Version(int(partial[1]), int(partial[2] or 0), 0)
        if low.build is not None:
            raise UsageError("build metadata has no order")
    except UsageError:
        raise UsageError(
            f"{text[:_LENGTH]!r} is neither a release nor a range",
            remedy="Write 1.2.3 for one release, ^1.2 for what is compatible with it, ~1.2.0 for patches of it.",
        ) from None
    given = 3 if partial is None else 1 + (partial[2] is not None)
    return Range(text, low, _caret(low, given) if operator == "^" else _tilde(low, given))


def _caret(low: Version, given: int) -> tuple[int, int, int]:
    if low.major > 0 or given == 1:
        return low.major + 1, 0, 0
    if low.minor > 0 or given == 2:
        return 0, low.minor + 1, 0
    return 0, 0, low.patch + 1


def _tilde(low: Version, given: int) -> tuple[int, int, int]:
    return (low.major + 1, 0, 0) if given == 1 else (low.major, low.minor + 1, 0)


def newest(releases: Iterable[str], *, prereleases: bool = False) -> str | None:
    """The highest of `releases`, None without any.

    Args:
        releases: Semantic versions.
        prereleases: Whether pre-releases count.
    """
    counted = (r for r in releases if prereleases or precedence(r)[3])
    return max(counted, key=precedence, default=None)


def select(text: str, releases: Collection[str], aliases: Mapping[str, str]) -> str | None:
    """The one release that `text` means; None where it means none.

    Args:
        text: A release (``1.2.3``), a range (its highest release), ``latest``
            (the highest, pre-releases left out), or an alias.
        releases: Those that are published.
        aliases: The release that each alias names.
    """
    if text in releases:
        return text
    if text == LATEST:
        return newest(releases)
    try:
        wanted = parse_range(text)
    except UsageError:
        return aliases.get(text)
    return newest((r for r in releases if wanted.matches(r)), prereleases=True)
