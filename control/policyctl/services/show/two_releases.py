"""Two releases of one model next to each other: contracts, gates, cards, and kept benchmarks.

The contracts and verdicts come from the journal, so they are there also where
the files of a release are not. A card is shown only where it is intact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from policyctl.domain.compatibility import Difference, compare
from policyctl.domain.state import State
from policyctl.errors import PolicyctlError
from policyctl.services.control import Control
from policyctl.services.evidence import EvidenceEntry, kept
from policyctl.services.moves.contract_change import is_breaking
from policyctl.services.releases.numbers import contracts_of

if TYPE_CHECKING:
    from policyctl.measuring.card_comparison import CardDifferences
    from policyctl.measuring.comparison import Comparison


@dataclass(frozen=True, slots=True)
class EvidencePair:
    """The last evidence of one kind about both releases; None where a release has no such evidence."""

    what: str
    one: EvidenceEntry | None
    other: EvidenceEntry | None


@dataclass(frozen=True, slots=True)
class TwoReleases:
    """What is known of two releases.

    Attributes:
        model: Of which model.
        one: A release's number.
        other: The other's.
        differences: How the contract of `other` differs from that of `one`, the gravest first.
        evidence: What gates said and what was measured, by name.
        cards: What their cards say; None where one of them cannot be shown.
        measured: Their last benchmarks on this machine; None where they cannot be compared.
        problems: Why a card cannot be shown, and what it does not show.
        unmeasured: Why there is no comparison of benchmarks; empty where there is one.
    """

    model: str
    one: str
    other: str
    differences: tuple[Difference, ...]
    evidence: tuple[EvidencePair, ...]
    cards: CardDifferences | None
    measured: Comparison | None
    problems: tuple[str, ...]
    unmeasured: str

    @property
    def words(self) -> str:
        """What the contracts mean for clients."""
        if not self.differences:
            return f"The contracts of {self.one} and {self.other} are the same."
        can = "cannot ask" if is_breaking(self.differences) else "can ask"
        return f"Clients of {self.one} {can} {self.other} unchanged."


def two_releases(control: Control, *, model: str, one: str, other: str) -> TwoReleases:
    """Compare two published releases.

    Args:
        control: The control plane.
        model: Which model.
        one: Selects a release (`State.select`), or is the number of one whose files were collected.
        other: Likewise.

    Raises:
        UsageError: No such model or release.
        IntegrityError: The journal was tampered with.
    """
    state = control.known(model)
    one, other = _number(state, model, one), _number(state, model, other)
    contract_of = contracts_of(state, model)
    cards, problems = _cards(control, model, (one, other))
    measured, unmeasured = _measured(control, model, one, other)
    return TwoReleases(
        model=model,
        one=one,
        other=other,
        differences=compare(contract_of(one), contract_of(other)),
        evidence=_paired(kept(control, model, one), kept(control, model, other)),
        cards=cards,
        measured=measured,
        problems=problems,
        unmeasured=unmeasured,
    )


def _number(state: State, model: str, text: str) -> str:
    return text if (model, text) in state.releases else state.select(model, text).release


def _paired(one: Iterable[EvidenceEntry], other: Iterable[EvidenceEntry]) -> tuple[EvidencePair, ...]:
    first, second = ({entry.what: entry for entry in entries} for entries in (one, other))
    return tuple(EvidencePair(what, first.get(what), second.get(what)) for what in sorted({*first, *second}))


def _cards(control: Control, model: str, releases: tuple[str, str]) -> tuple[CardDifferences | None, tuple[str, ...]]:
    from policyctl.card.schema import Card
    from policyctl.measuring.card_comparison import compare_cards
    from policyctl.services.cards.full_card import full

    intact, problems = list[Card](), list[str]()
    for release in releases:
        try:
            card = full(control, model=model, release=release)
        except PolicyctlError as error:
            problems.append(f"The card of {release} cannot be shown: {error.problem}. {error.remedy}")
            continue
        intact.append(card)
        problems += [f"{release}: {problem}" for problem in (card.release.problems if card.release else ())]
    return compare_cards(intact[0], intact[1]) if len(intact) == len(releases) else None, tuple(problems)


def _measured(control: Control, model: str, one: str, other: str) -> tuple[Comparison | None, str]:
    from policyctl.services.measure.results import compare as compare_results

    try:
        return compare_results(control, f"{model}@{one}", f"{model}@{other}"), ""
    except PolicyctlError as error:
        return None, error.problem
