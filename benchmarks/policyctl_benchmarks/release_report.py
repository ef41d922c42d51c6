"""What was seen of two commits that were served side by side: verdict, JSON, Markdown and one HTML page.

A commit is failed only where it failed twice, the second time with both servers
started anew. Two processes of one and the same build are not equally fast
(where the loader puts things decides), which no number of rounds would show:
every round asks the same two processes.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from policyctl.domain import pages
from policyctl.domain.artifacts import Format
from policyctl.domain.paired import Burst, Metric, Round
from policyctl.domain.verdict import GateResult, Verdict, worst
from policyctl.errors import UsageError
from policyctl.settings import MOST_CLIENTS
from policyctl_benchmarks import plots

COLUMNS: Final = ("way", "metric", "base", "this tree", "worse by", "interval", "margin", "rounds", "verdict")
FIGURE_COLUMNS: Final = ("not judged", "base", "this tree")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask for actions.

    Attributes:
        format: Of the artifact that answers; it decides the backend.
        clients: That ask one after another.
    """

    format: Format
    clients: int

    @property
    def words(self) -> str:
        """For people, and back again by `parse`."""
        return f"{self.format.value}:{self.clients}"

    @classmethod
    def parse(cls, text: str) -> Way:
        """Read ``openvino:8``.

        Raises:
            UsageError: It is not one.
        """
        name, _, clients = text.partition(":")
        found: Way | None
        try:
            found = cls(Format(name), int(clients or "1"))
        except ValueError:
            found = None
        if found is None or not 1 <= found.clients <= MOST_CLIENTS:
            raise UsageError(
                f"{text!r} is no way to ask",
                remedy=f"Use FORMAT:CLIENTS, for example openvino:1; formats: {', '.join(Format)};"
                f" clients: 1 to {MOST_CLIENTS}.",
            )
        return found


@dataclass(frozen=True, slots=True)
class Compared:
    """What was said of one way.

    Attributes:
        way: Which.
        attempts: The gate's verdicts; the second, if any, with both servers started anew.
    """

    way: Way
    attempts: tuple[GateResult, ...]

    @property
    def verdict(self) -> Verdict:
        """Failed only if it failed twice."""
        first, last = self.attempts[0].verdict, self.attempts[-1].verdict
        if first is not Verdict.FAILED:
            return first
        if len(self.attempts) > 1 and last in {Verdict.FAILED, Verdict.ERROR}:
            return last
        return Verdict.INCONCLUSIVE

    @property
    def reason(self) -> str:
        """In words."""
        first, last = self.attempts[0], self.attempts[-1]
        if first.verdict is not Verdict.FAILED:
            return first.reason
        if len(self.attempts) == 1:
            return f"{first.reason}; there was no time to see whether servers started anew show it too"
        if last.verdict is Verdict.FAILED:
            return f"{last.reason}; and before, with other processes: {first.reason}"
        return f"it was {first.reason}; with both servers started anew: {last.verdict}, {last.reason}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "way": self.way.words,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "attempts": [each.to_json() for each in self.attempts],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two commits beside each other.

    Attributes:
        base: What was compared with, in words; empty where there is nothing.
        candidate: What was judged, in words.
        compared: One a way.
        stopped: Why nothing, or no more, was compared; None where everything was.
        cautions: What to know when reading it.
        figures: What is told and not judged: base and candidate, by name with unit.
        context: Machine, versions, time, command.
    """

    base: str
    candidate: str
    compared: tuple[Compared, ...] = ()
    stopped: GateResult | None = None
    cautions: tuple[str, ...] = ()
    figures: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The worst of all; without anything to compare, inconclusive."""
        said = [each.verdict for each in self.compared]
        return worst((*said, self.stopped.verdict) if self.stopped else tuple(said))

    @property
    def reason(self) -> str:
        """Why, in words."""
        decided = [f"{each.way.words}: {each.reason}" for each in self.compared if each.verdict is self.verdict]
        if self.stopped is not None and self.stopped.verdict is self.verdict:
            decided.append(self.stopped.reason)
        return ". ".join(decided) or "nothing was compared"

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with every burst."""
        return {
            "verdict": self.verdict.value,
            "reason": self.reason,
            "base": self.base,
            "candidate": self.candidate,
            "cautions": list(self.cautions),
            "figures": {name: {"base": one, "candidate": other} for name, (one, other) in self.figures.items()},
            **self.context,
            "compared": [each.to_json() for each in self.compared],
        }


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A row a metric, way and attempt, under `COLUMNS`."""
    return [row for each in comparison.compared for attempt in enumerate(each.attempts) for row in _rows(each, attempt)]


def markdown(comparison: Comparison) -> str:
    """A comparison as Markdown."""
    parts = [f"# {_title(comparison)}", f"{comparison.reason}."]
    parts.append("\n".join(f"- {name}: {value}" for name, value in _facts(comparison)))
    if found := rows(comparison):
        parts.append(pages.markdown_table(COLUMNS, found))
    if comparison.figures:
        parts.append(pages.markdown_table(FIGURE_COLUMNS, _figure_rows(comparison)))
    return "\n\n".join(parts) + "\n"


def page(comparison: Comparison) -> str:
    """A comparison as one HTML page.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    body = [f'<p class="note">{html.escape(comparison.reason)}.</p>']
    body.append(pages.table(("fact", "value"), _facts(comparison), kind="words"))
    body.append(pages.table(COLUMNS, rows(comparison)))
    for each in comparison.compared:
        for number, attempt in enumerate(each.attempts):
            name = f"{each.way.words}{_again(number)}"
            if svg := plots.slow_down_by_round(name, _slow_downs(_rounds(attempt))):
                body.append(f"<h2>{html.escape(name)}, round by round</h2>{svg}")
    if comparison.figures:
        body.append(pages.table(FIGURE_COLUMNS, _figure_rows(comparison)))
    return pages.page(_title(comparison), body)


def _title(comparison: Comparison) -> str:
    return f"{comparison.candidate} beside {comparison.base or 'nothing'}: {comparison.verdict}"


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    facts = [("base", comparison.base or "none"), ("this tree", comparison.candidate)]
    facts += [(name, str(value)) for name, value in comparison.context.items() if isinstance(value, str | float)]
    return facts + [("caution", words) for words in comparison.cautions]


def _rows(each: Compared, attempt: tuple[int, GateResult]) -> list[tuple[str, ...]]:
    number, result = attempt
    looks = result.evidence.get("looks") or []
    if not looks:
        return []
    margins, found = result.evidence["plan"]["margins"], _rounds(result)
    lines: list[tuple[str, ...]] = []
    for name, interval in looks[-1]["log_slow_down"].items():
        metric = Metric(name)
        low, middle, high = (_percent(metric, interval[key]) for key in ("low", "median", "high"))
        lines.append(
            (
                f"{each.way.words}{_again(number)}",
                name,
                _median([b for r in found for b in r.incumbent], metric),
                _median([b for r in found for b in r.candidate], metric),
                middle,
                f"{low} to {high}",
                f"{100 * margins[name]:g} %",
                str(looks[-1]["rounds"]),
                result.verdict.value,
            )
        )
    return lines


def _again(number: int) -> str:
    return " (started anew)" if number else ""


def _rounds(result: GateResult) -> list[Round]:
    return [Round.from_json(each) for each in result.evidence.get("rounds", ())]


def _slow_downs(found: Sequence[Round]) -> dict[str, list[float]]:
    return {metric.value: [metric.change(r.log_slow_down(metric)) for r in found] for metric in Metric}


def _percent(metric: Metric, log_slow_down: float | None) -> str:
    return "?" if log_slow_down is None else f"{100 * metric.change(log_slow_down):+.1f} %"


def _median(bursts: Sequence[Burst], metric: Metric) -> str:
    value = float(np.median([burst.value(metric) for burst in bursts]))
    return f"{1 / value:.0f}/s" if metric is Metric.THROUGHPUT else f"{value:.0f} us"


def _figure_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    return [(name, f"{one:.0f}", f"{other:.0f}") for name, (one, other) in comparison.figures.items()]
