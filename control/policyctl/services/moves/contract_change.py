"""What a move changes for those who ask: two contracts compared, and a breaking release refused.

Both contracts are in the journal, inside the configurations that a move goes
from and to, so no file has to be intact for this.

A promotion to a release that breaks the incumbent's contract has to be asked
for explicitly: its clients get an error instead of an action from then
on. A rollback is never refused. It ends the harm that a release does, often
the harm of a break that came with it, and nobody may have to find an option
first; it only says what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from policyctl.adapters.pbtxt import contract_of
from policyctl.domain.compatibility import Difference, compare, needed
from policyctl.domain.contract import Contract
from policyctl.domain.moves import Placement
from policyctl.domain.versions import Bump
from policyctl.errors import GateError, IntegrityError
from policyctl.services.control import Control


def differences(incumbent: Placement | None, contract: Contract) -> tuple[Difference, ...]:
    """How `contract` differs from the incumbent's, the gravest first; none where nothing is served."""
    return () if incumbent is None else compare(contract_of(incumbent.config), contract)


def shown_differences(incumbent: Placement | None, contract: Contract) -> tuple[Difference, ...]:
    """As `differences`, to be shown alone: none where the incumbent's contract cannot be read."""
    try:
        return differences(incumbent, contract)
    except IntegrityError:
        return ()


def is_breaking(found: Sequence[Difference]) -> bool:
    """Whether clients of the earlier contract cannot ask the later one unchanged."""
    return needed(found) is Bump.MAJOR


def require_compatible(
    incumbent: Placement | None, contract: Contract, *, model: str, alias: str, release: str, breaking: bool
) -> tuple[Difference, ...]:
    """Refuse a release that breaks the contract of what is served, unless that was asked for.

    Args:
        incumbent: What the alias names now; None for nothing.
        contract: Of the release that it is to name.
        model: Which model.
        alias: Which alias.
        release: Which release.
        breaking: Whether a breaking release was asked for.

    Returns:
        Every difference, the gravest first.

    Raises:
        GateError: It breaks the contract; names every difference that does.
    """
    found = differences(incumbent, contract)
    if incumbent is not None:
        require_unbroken(found, before=incumbent.release, model=model, alias=alias, release=release, breaking=breaking)
    return found


def require_unbroken(
    found: Sequence[Difference], *, before: str, model: str, alias: str, release: str, breaking: bool
) -> None:
    """Refuse differences that break the contract of release `before`, unless that was asked for.

    Raises:
        GateError: One does; names every one that does.
    """
    if breaking or not is_breaking(found):
        return
    raise GateError(
        f"{model} {release} breaks the contract of {before}, which {alias} names:"
        f" {'; '.join(each.words for each in found if each.needs is Bump.MAJOR)}",
        remedy="Nothing was changed. Clients of the one cannot ask the other. If they are ready for it, promote with"
        f' --breaking (by the API: "breaking": true). To serve both: policyctl pin {model} {release}',
    )


def words(found: Sequence[Difference], before: str) -> str:
    """What differs from release `before`, in words; empty where nothing does."""
    if not found:
        return ""
    effect = "breaks" if is_breaking(found) else "adds to"
    return f"Its contract {effect} that of {before}: {'; '.join(each.words for each in found)}."


@dataclass(frozen=True, slots=True)
class Compared:
    """How the contract of a release differs from that of what an alias names.

    Attributes:
        alias: Which alias.
        before: The release that it names; None for nothing.
        differences: The gravest first.
    """

    alias: str
    before: str | None
    differences: tuple[Difference, ...]

    @property
    def words(self) -> str:
        """For people; empty where nothing differs."""
        said = words(self.differences, self.before or "")
        return f"{said} To promote it to {self.alias} takes --breaking." if is_breaking(self.differences) else said

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "alias": self.alias,
            "from": self.before,
            "breaking": is_breaking(self.differences),
            "differences": [difference.to_json() for difference in self.differences],
        }


def against_alias(control: Control, model: str, release: str, alias: str) -> Compared:
    """Compare a published release with what `alias` names.

    Raises:
        UsageError: No such model or release.
        IntegrityError: A contract cannot be read.
    """
    from policyctl.services.releases.numbers import contracts_of  # late: a rollback needs no numbers

    state = control.repository.journal.state()
    state.release(model, release)
    named = state.alias(model, alias)
    contract = contracts_of(state, model)(release)
    incumbent = None if named is None else named.placement
    return Compared(alias, None if incumbent is None else incumbent.release, differences(incumbent, contract))
