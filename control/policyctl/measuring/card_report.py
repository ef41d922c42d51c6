"""A model card for people: Markdown with Hugging Face's front matter, and one HTML page with plots.

Every word of a card comes from outside, so every word is escaped: in Markdown
nothing of it becomes a link, an image, HTML or a heading, and in HTML nothing
becomes a tag. The page loads nothing and runs nothing.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from policyctl import pages
from policyctl.card.schema import Behaviour, Card
from policyctl.documents.yaml_text import dump
from policyctl.measuring import plots
from policyctl.measuring.card_tables import Table, tables, title_of

_SPECIAL: Final = re.compile(r"([\\`*_\[\]~$#@]|:(?=//))")
_AT_THE_BEGINNING: Final = re.compile(r"([-+=]|\d+(?=[.)]))")

_TASK: Final = "reinforcement-learning"

_HUB_LICENCES: Final = """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc-by-2.0
    cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 ecl-2.0 epl-1.0
    epl-2.0 eupl-1.1 gfdl gpl-2.0 gpl-3.0 isc lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl ofl-1.1
    osl-3.0 pddl postgresql unlicense wtfpl zlib
"""
"""Of Hugging Face's identifiers those that are SPDX's in lower case, but for ``-only`` and ``-or-later``."""


def markdown(card: Card) -> str:
    """A card as Markdown that Hugging Face takes as a repository's README."""
    parts = [f"---\n{dump(front_matter(card))}---", f"# {in_markdown(title_of(card))}"]
    if card.summary:
        parts.append(_paragraph(card.summary))
    parts += [f"> {_paragraph(problem)}" for problem in _problems(card)]
    for table in tables(card, private=False):
        parts.append(f"## {in_markdown(table.title)}")
        if table.note:
            parts.append(_paragraph(table.note))
        rows = [[_plain_text(cell) for cell in row] for row in table.rows]
        parts.append(pages.markdown_table(table.columns, rows))
    return "\n\n".join(parts) + "\n"


def front_matter(card: Card) -> dict[str, Any]:
    """What Hugging Face reads: licence, library, tags and results.

    A result is the mean return with the standard deviation of the returns, as
    people write it there; the interval stands in the table.
    """
    training = card.training
    library = _printable(training.framework.name) if training and training.framework else None
    algorithm = _printable(training.algorithm) if training and training.algorithm else None
    environments = [training.environment.id] if training and training.environment else []
    environments = sorted({_printable(name) for name in [*environments, *(e.environment for e in card.evaluation)]})
    front: dict[str, Any] = {}
    if card.licence:
        front |= _licence(card.licence)
    if library:
        front["library_name"] = library
    front["pipeline_tag"] = _TASK
    tags = [_TASK, "deep-reinforcement-learning", *([library] if library else []), *environments]
    front["tags"] = list(dict.fromkeys([*tags, *([algorithm] if algorithm else []), "policyctl"]))
    if card.evaluation:
        front["model-index"] = [{"name": _printable(title_of(card)), "results": [_result(e) for e in card.evaluation]}]
    return front


def _result(entry: Any) -> dict[str, Any]:
    name = _printable(entry.environment)
    value = f"{entry.returns.mean:.2f} +/- {entry.returns.std:.2f}"
    return {
        "task": {"type": _TASK, "name": _TASK},
        "dataset": {"name": name, "type": name},
        "metrics": [{"type": "mean_reward", "value": value, "name": "mean_reward", "verified": False}],
    }


def _licence(spdx: str) -> dict[str, str]:
    name = spdx.lower().removesuffix("-only").removesuffix("-or-later")
    return (
        {"license": name}
        if name in _HUB_LICENCES.split()
        else {"license": "other", "license_name": name.replace(" ", "-")}
    )


def page(card: Card) -> str:
    """A card as one HTML page.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    drawn = _drawn(card)
    return pages.render(
        "card.html",
        title=_printable(title_of(card)),
        summary=_printable(card.summary) if card.summary else "",
        problems=[_printable(problem) for problem in _problems(card)],
        tables=[shown(table, drawn.pop(table.title.partition(" on ")[0], ())) for table in tables(card)],
    )


def shown(table: Table, plots_below: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """A table for a page, with the plots below it and their headings."""
    return {
        "title": _printable(table.title),
        "note": _printable(table.note) if table.note else "",
        "columns": [_printable(column) for column in table.columns],
        "rows": [[_printable(cell) for cell in row] for row in table.rows],
        "plots": [(_printable(heading) if heading else "", pages.raw(plot)) for heading, plot in plots_below if plot],
    }


def _drawn(card: Card) -> dict[str, list[tuple[str, str]]]:
    """Headings and plots, by the table that they stand below."""
    latencies = [
        (_label(f"{e.machine.fingerprint} {e.load}"), e.latency_us.p50, e.latency_us.p99) for e in card.performance
    ]
    returns = [
        (_label(f"{e.environment}, {e.episodes} episodes"), e.returns.mean, e.returns.low, e.returns.high)
        for e in card.evaluation
    ]
    return {
        "Evaluation": [("", plots.returns_with_intervals(returns))],
        "Actions": [_actions(f"actions {index}", entry) for index, entry in enumerate(card.behaviour)],
        "Performance": [("", plots.latency_by_load(latencies))],
    }


def _actions(name: str, entry: Behaviour) -> tuple[str, str]:
    quantiles = [(_label(c.name), c.quantiles) for c in entry.actions if c.quantiles is not None]
    shares = [
        (_label(c.name), {_label(choice): share for choice, share in c.shares.items()})
        for c in entry.actions
        if c.shares is not None
    ]
    drawn = plots.action_quantiles(f"{name} quantiles", quantiles) + plots.choice_shares(f"{name} shares", shares)
    return entry.observations, drawn


def _label(text: str) -> str:
    return _printable(text)[:60]


def _problems(card: Card) -> list[str]:
    return list(card.release.problems) if card.release else []


def _paragraph(text: str) -> str:
    """`text` as a separate paragraph, whose first characters start no list and no heading."""
    line = in_markdown(text)
    match = _AT_THE_BEGINNING.match(line)
    if match is None:
        return line
    mark = match[0]
    return f"{mark}\\{line[len(mark) :]}" if mark.isdigit() else f"\\{line}"


def in_markdown(text: str) -> str:
    """`text` on one line, so that Markdown shows just these characters outside of tables."""
    return html.escape(_plain_text(text), quote=False)


def _plain_text(text: str) -> str:
    """What is left to escape are HTML, and the bars of a table: `pages` does both."""
    return _SPECIAL.sub(r"\\\1", _printable(text))


def _printable(text: str) -> str:
    """`text` on one line, what cannot be printed written out; a dash for nothing."""
    line = " ".join(text.split()) or "-"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)


def as_yaml(card: Card) -> str:
    """The whole card as YAML."""
    return dump(_without_defaults(card.to_json()))


def _without_defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value not in (None, [], {})}
