"""Which number a release may have, given those that are published already.

Releases of a model stand in the order of their numbers. A new one takes its
place in that order, wherever that is: higher than all, or among older ones (a
patch 1.2.4 after 2.0.0 was published). It is held against both neighbours: the
step from the highest release below it must promise what changes, and so must
the step from it to the lowest release above it. Without the second, 1.3.0
could add what 1.4.0 lacks, and a client that asks for ``^1.3`` would lose it.

A pre-release is held to its three numbers against the highest *release* below
it: 1.3.0-rc.1 that breaks what 1.2.0 promised can never become 1.3.0. Nothing
is held against a pre-release, so rc.2 may differ from rc.1 as it likes.

The invariant of a repository in which every release was admitted: for any
releases a < b with b in ``^a``, a client of a can use b. (It follows from the
neighbours alone, because comparing has no cheaper way round; see
`domain.compatibility`.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from semver import Version

from policyctl.domain.compatibility import Difference, compare, needed
from policyctl.domain.contract import Contract
from policyctl.domain.versions import Bump, bump, core, newest, parse, promised

ContractOf = Callable[[str], Contract]
"""The contract of a published release."""


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a number cannot be had: a step that promises less than it changes.

    Attributes:
        earlier: The release below.
        later: The release above; one of the two is the new one.
        promises: What the step announces.
        differences: Those that need more.
    """

    earlier: str
    later: str
    promises: Bump
    differences: tuple[Difference, ...]

    @property
    def words(self) -> str:
        """What is wrong, in words."""
        said = "; ".join(difference.words for difference in self.differences)
        return f"from {self.earlier} to {self.later} is a {self.promises}, but {said}"


@dataclass(frozen=True, slots=True)
class Proposal:
    """The number that a contract may have, and why.

    Attributes:
        release: The lowest that does.
        after: The release that it was compared with; None where there was none.
        needs: What the differences need.
        differences: What was found.
    """

    release: str
    after: str | None
    needs: Bump
    differences: tuple[Difference, ...]


def same_precedence(release: str, published: Collection[str]) -> str | None:
    """A published release that equals `release` in order, which may differ in build metadata."""
    number = parse(release)
    return next((other for other in published if parse(other) == number), None)


def neighbours(release: str, published: Collection[str]) -> tuple[str | None, str | None]:
    """The releases (no pre-releases) just below and just above `release`."""
    number = parse(release)
    releases = [other for other in published if not parse(other).prerelease]
    below = [other for other in releases if parse(other) < number]
    above = [other for other in releases if parse(other) > number]
    return max(below, key=parse, default=None), min(above, key=parse, default=None)


def object_to(
    release: str, contract: Contract, published: Collection[str], contract_of: ContractOf
) -> Objection | None:
    """Why `release` may not have `contract`; None where it may.

    Args:
        release: The number that is asked for; equal in order to none that is published.
        contract: What it takes and gives.
        published: Every release of the model.
        contract_of: Looks up theirs.
    """
    below, above = neighbours(release, published)
    if below is not None and (found := _object(below, contract_of(below), release, contract)):
        return found
    if above is not None and not parse(release).prerelease:
        return _object(release, contract, above, contract_of(above))
    return None


def _object(earlier: str, before: Contract, later: str, after: Contract) -> Objection | None:
    promises = promised(parse(earlier), parse(later))
    grave = tuple(difference for difference in compare(before, after) if difference.needs > promises)
    return Objection(earlier, later, promises, grave) if grave else None


FIRST = "1.0.0"
"""What a model begins with: it is published to be served."""


def propose(
    contract: Contract,
    published: Collection[str],
    contract_of: ContractOf,
    *,
    after: str | None = None,
    prerelease: str = "",
) -> Proposal:
    """The lowest number after `after` that may have `contract`.

    Args:
        contract: What the release takes and gives.
        published: Every release of the model.
        contract_of: Looks up theirs.
        after: A published release; None for the highest, pre-releases left out.
        prerelease: Propose a pre-release of that number, of this name
            (``rc`` gives ``-rc.1``, or the first that is free after it).
    """
    base = newest(published) if after is None else after
    if base is None:
        # Pre-releases alone: the number that the highest of them announces.
        only = newest(published, prereleases=True)
        number = parse(FIRST) if only is None else Version(*core(parse(only)))
        return Proposal(_named(number, prerelease, published), None, Bump.PATCH, ())
    differences = compare(contract_of(base), contract)
    found = next(
        number
        for number in _later(base, published)
        if same_precedence(str(number), published) is None
        and object_to(str(number), contract, published, contract_of) is None
    )
    return Proposal(_named(found, prerelease, published), base, needed(differences), differences)


def _later(base: str, published: Collection[str]) -> list[Version]:
    """Numbers that come after `base`, ascending: each bump of it and of every release above it.

    The last is a MAJOR step after the highest, which nothing can be held against.
    """
    number = parse(base)
    starts = [number, *(v for v in map(parse, published) if v > number and not v.prerelease)]
    found = {bump(start, step) for start in starts for step in Bump}
    if number.prerelease:
        found.add(Version(*core(number)))  # the release that it announces
    return sorted(found)


def _named(number: Version, prerelease: str, published: Collection[str]) -> str:
    if not prerelease:
        return str(number)
    count = 1
    while same_precedence(name := f"{number}-{prerelease}.{count}", published) is not None:
        count += 1
    return name
