"""Which number a release may have: admit one, or propose one.

`domain.succession` has the rules; here is where the contracts of published
releases come from. The journal keeps the contract of each, so the rules hold
also where the files of a release are damaged or gone. A record of before that
was so names a slot, which is read and verified.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from policyctl.adapters.repository import Repository
from policyctl.domain.artifacts import CONTRACT_FILE
from policyctl.domain.contract import Contract
from policyctl.domain.names import check_model_name, check_release
from policyctl.domain.state import State
from policyctl.domain.succession import ContractOf, Proposal, object_to, propose, same_precedence
from policyctl.errors import UsageError
from policyctl.integrity import read_release
from policyctl.services.control import Control


def contracts_of(repository: Repository, state: State, model: str) -> ContractOf:
    """Looks up the contract of a published release of `model`.

    Looking one up raises IntegrityError where the journal does not hold it and
    the release's files are not intact.
    """

    @cache
    def look_up(release: str) -> Contract:
        published = state.releases[model, release]
        if published.contract is not None:
            return Contract.from_json(published.contract)
        folder = repository.slot(model, published.slot)
        found = read_release(folder, keep=(CONTRACT_FILE,), expected_digest=published.manifest_digest)
        return Contract.from_json(json.loads(found.contents[CONTRACT_FILE]))

    return look_up


def admit(repository: Repository, state: State, model: str, release: str, contract: Contract) -> None:
    """Refuse a number that is not free, or that promises less than the contract changes.

    Args:
        repository: Where the contracts of old records are.
        state: What is published.
        model: Which model.
        release: A number that is not published itself.
        contract: What the new release takes and gives.

    Raises:
        UsageError: Names every difference with the bump that it needs, and a number that would do.
    """
    numbers = [r.release for r in state.of_model(model)]
    contract_of = contracts_of(repository, state, model)
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
        model: Which model.
        proposal: The number, what it was compared with, and what was found.
        newest: The highest release that is published, pre-releases too; None for none.
    """

    model: str
    proposal: Proposal
    newest: str | None

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        found = self.proposal
        return {
            "model": self.model,
            "release": found.release,
            "after": found.after,
            "needs": found.needs.name.lower(),
            "differences": [difference.to_json() for difference in found.differences],
            "newest": self.newest,
        }


_NAME_OF_PRERELEASE: Final = "1.0.0-{}.1"


def next_release(control: Control, source: Path, *, model: str, after: str | None = None, prerelease: str = "") -> Next:
    """Propose the number under which the export in `source` can be published. Nothing is changed.

    Args:
        control: The control plane.
        source: What `policyctl export` wrote.
        model: The model's name; it need not be published yet.
        after: Selects the release to follow (`State.select`); None for the highest that is no pre-release.
        prerelease: Propose a pre-release of this name, for example ``rc``.

    Raises:
        UsageError: A name or selector that cannot be used, or `source` is no whole export.
        IntegrityError: A link, device or hidden file in `source`.
    """
    from policyctl.domain.versions import newest
    from policyctl.services.publish import check_export, read_contract

    check_model_name(model)
    if prerelease:
        check_release(_NAME_OF_PRERELEASE.format(prerelease))
    check_export(source)
    repository = control.repository
    repository.require_journal()
    state = repository.journal.state()
    followed = None if after is None else state.select(model, after).release
    numbers = [r.release for r in state.of_model(model)]
    found = propose(
        read_contract(source), numbers, contracts_of(repository, state, model), after=followed, prerelease=prerelease
    )
    return Next(model, found, newest(numbers, prereleases=True))
