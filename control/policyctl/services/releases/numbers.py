"""Which number a release may have: admit one, or propose one.

`domain.succession` has the rules; here is where the contracts of published
releases come from. The journal keeps the contract of each, so the rules hold
also where the files of a release are damaged or gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from policyctl.domain.contract import Contract
from policyctl.domain.json_values import to_json
from policyctl.domain.names import check_model_name, check_release
from policyctl.domain.state import State
from policyctl.domain.succession import ContractOf, Proposal, object_to, propose, same_precedence
from policyctl.domain.versions import newest, parse
from policyctl.errors import UsageError
from policyctl.integrity import build_manifest
from policyctl.services.control import Control


def contracts_of(state: State, model: str) -> ContractOf:
    """Looks up the contract of a published release of `model`, as the journal keeps it."""

    @cache
    def look_up(release: str) -> Contract:
        return Contract.from_json(state.releases[model, release].contract)

    return look_up


def admit(state: State, model: str, release: str, contract: Contract) -> None:
    """Refuse a number that is not free, or that promises less than the contract changes.

    Args:
        release: A number that is not published itself.
        contract: What the new release takes and gives.
    """
    numbers = [r.release for r in state.of_model(model)]
    contract_of = contracts_of(state, model)
    if twin := same_precedence(release, numbers):
        raise UsageError(
            f"{model} {release} equals {twin}, which is published: build metadata does not count in the order"
            " of releases (semver.org, 10)",
            remedy=f"Choose another number: {propose(contract, numbers, contract_of).release} would do.",
        )
    if objection := object_to(release, contract, numbers, contract_of):
        would_do = propose(contract, numbers, contract_of).release
        raise UsageError(
            f"{model} {release} promises less than it changes: {objection.words}",
            remedy=f"Publish it as {would_do}, or see why: policyctl release next {model} DIR",
        )


@dataclass(frozen=True, slots=True)
class Next:
    """The number that an export may be published as, and why.

    Attributes:
        proposal: The number, what it was compared with, and what was found.
        newest: The highest release that is published, pre-releases too; None for none.
        published_as: The highest release that has these very bytes; None for none.
    """

    model: str
    proposal: Proposal
    newest: str | None
    published_as: str | None

    @property
    def release(self) -> str:
        """The number to publish under: the one that has these bytes, if it is of the wanted kind."""
        proposed, there = self.proposal.release, self.published_as
        same_kind = there is not None and bool(parse(there).prerelease) == bool(parse(proposed).prerelease)
        return there if there is not None and same_kind else proposed

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        found = self.proposal
        return {
            "model": self.model,
            "release": self.release,
            "after": found.after,
            "needs": found.needs.name.lower(),
            "differences": to_json(found.differences),
            "newest": self.newest,
            "published_as": self.published_as,
        }


_NAME_OF_PRERELEASE: Final = "1.0.0-{}.1"


def next_release(control: Control, source: Path, *, model: str, after: str | None = None, prerelease: str = "") -> Next:
    """Propose the number under which the export in `source` can be published. Nothing is changed.

    Args:
        model: The model's name; it need not be published yet.
        after: Selects the release to follow (`State.select`), also where these bytes are published; None for the
            highest that is not a pre-release.
        prerelease: Propose a pre-release of this name, for example ``rc``.

    Raises:
        UsageError: A name or selector that cannot be used, or `source` is not a whole export.
        IntegrityError: A link, device or hidden file in `source`.
    """
    from policyctl.services.releases.exported import check_export, read_contract

    check_model_name(model)
    if prerelease:
        check_release(_NAME_OF_PRERELEASE.format(prerelease))
    check_export(source)
    repository = control.repository
    state = repository.journal.state()
    followed = None if after is None else state.select(model, after).release
    numbers = [r.release for r in state.of_model(model)]
    found = propose(read_contract(source), numbers, contracts_of(state, model), after=followed, prerelease=prerelease)
    manifest = build_manifest(source, model=model, release=found.release)
    same = [
        r.release for r in state.of_model(model) if replace(manifest, release=r.release).digest == r.manifest_digest
    ]
    return Next(model, found, newest(numbers, prereleases=True), None if after else newest(same, prereleases=True))
