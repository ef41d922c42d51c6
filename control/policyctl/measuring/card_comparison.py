"""What differs between the cards of two releases: each figure of one next to that of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from policyctl.card.schema import Card, Evaluation
from policyctl.measuring.card_tables import Table, tables

_LEFT_OUT: Final = frozenset({"Release", "Contract", "Gates"})
"""What is of each release alone, or is compared by what the journal says."""
_SHOWN_WHOLE: Final = frozenset({"Evaluation", "Parity"})
"""What people decide by; it is shown also where nothing differs."""
_KEYS: Final[Mapping[str, Sequence[str]]] = {
    "Evaluation": ("environment", "artifact"),
    "Actions": ("observations", "element"),
    "Performance": ("load", "artifact"),
}
"""The columns that say what a row is about, where it is not the first one alone."""
_NO_FIGURES: Final = frozenset({"evidence", "key", "since"})
NOT_STATED: Final = "not stated"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both releases."""

    what: str
    one: str
    other: str


@dataclass(frozen=True, slots=True)
class Section:
    """The figures of one table of a card."""

    title: str
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Earned:
    """The mean return that a release earned, with its interval.

    Attributes:
        release: Which release.
        evaluation: As its card states it.
        low: Where the interval begins in a drawing that is 100 wide.
        mean: Where the mean lies in it.
        high: Where the interval ends in it.
    """

    release: str
    evaluation: Evaluation
    low: float
    mean: float
    high: float

    @property
    def words(self) -> str:
        """The figures, in words."""
        returns = self.evaluation.returns
        interval = f"{100 * returns.confidence:g} % interval {returns.low:g} .. {returns.high:g}"
        episodes = f"{self.evaluation.episodes} episodes"
        artifact = f", {self.evaluation.format}" if self.evaluation.format else ""
        return f"{self.release}{artifact}: mean {returns.mean:g}, {interval}, {episodes}"


@dataclass(frozen=True, slots=True)
class CardDifferences:
    """Two cards next to each other.

    Attributes:
        sections: What differs, and what people decide by.
        same: The titles of what is stated and does not differ.
        earned: Returns by environment, of artifacts that both were evaluated with.
    """

    sections: tuple[Section, ...]
    same: tuple[str, ...]
    earned: Mapping[str, tuple[Earned, ...]]


def compare_cards(one: Card, other: Card) -> CardDifferences:
    """What differs between two full cards.

    Args:
        one: Of the first release; it has the section ``release``.
        other: Of the second one, likewise.
    """
    first, second = (
        {table.title: table for table in tables(card) if table.title not in _LEFT_OUT} for card in (one, other)
    )
    sections, same = list[Section](), list[str]()
    for title in dict.fromkeys((*first, *second)):
        rows, differs = _rows(first.get(title), second.get(title), whole=title in _SHOWN_WHOLE)
        if not differs:
            same.append(title)
        if rows:
            sections.append(Section(title, rows, (first.get(title) or second[title]).note))
    return CardDifferences(tuple(sections), tuple(same), _earned(one, other))


def _rows(one: Table | None, other: Table | None, *, whole: bool) -> tuple[tuple[Row, ...], bool]:
    """The rows of one section, and whether any of them differs."""
    first, second = _figures(one), _figures(other)
    rows = [
        Row(what, first.get(what, NOT_STATED), second.get(what, NOT_STATED))
        for what in dict.fromkeys((*first, *second))
    ]
    different = [row for row in rows if row.one != row.other]
    return tuple(rows if whole else different), bool(different)


def _figures(table: Table | None) -> dict[str, str]:
    """Each figure by what it is of; of one that was measured again the last, of facts with one name all."""
    if table is None:
        return {}
    names = _KEYS.get(table.title.partition(" on ")[0], table.columns[:1])
    figures = [name for name in table.columns if name not in names and name not in _NO_FIGURES]
    found: dict[str, str] = {}
    for row in table.rows:
        cells = dict(zip(table.columns, row, strict=True))
        about = ", ".join(cells[name] for name in names)
        if len(figures) == 1:
            found[about] = f"{found[about]}; {cells[figures[0]]}" if about in found else cells[figures[0]]
        else:
            found |= {f"{about}: {name}": cells[name] for name in figures}
    return found


def _earned(one: Card, other: Card) -> dict[str, tuple[Earned, ...]]:
    """The last evaluation of each artifact that both releases have, drawn on one scale for each environment."""
    first, second = ({(entry.environment, entry.format): entry for entry in card.evaluation} for card in (one, other))
    pairs = dict[str, list[tuple[str, Evaluation]]]()
    for artifact in (key for key in first if key in second):
        pairs.setdefault(artifact[0], []).extend(
            [(_release(one), first[artifact]), (_release(other), second[artifact])]
        )
    return {name: _drawn(entries) for name, entries in pairs.items()}


def _drawn(entries: Sequence[tuple[str, Evaluation]]) -> tuple[Earned, ...]:
    returns = [entry.returns for _, entry in entries]
    lowest, highest = min(each.low for each in returns), max(each.high for each in returns)

    def at(value: float) -> float:
        return 50.0 if lowest == highest else round(4.0 + 92.0 * (value - lowest) / (highest - lowest), 2)

    return tuple(
        Earned(release, entry, at(entry.returns.low), at(entry.returns.mean), at(entry.returns.high))
        for release, entry in entries
    )


def _release(card: Card) -> str:
    return "" if card.release is None else card.release.release
