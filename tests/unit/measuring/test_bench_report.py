"""Reports: whole, safe, and the same twice."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from bench_results import result_of

from policyctl.measuring import plots
from policyctl.measuring.comparison import compare
from policyctl.measuring.report import comparison_markdown, comparison_page, history_page, markdown, page

EVIL = '<script>alert(1)</script>"&|$\\frac$'


class Tags(HTMLParser):
    """Every tag with what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "data"}]


def test_a_page_needs_and_runs_nothing_else() -> None:
    """Three plots inside it; no script, and every reference points into the page."""
    tags = Tags(page(result_of()))
    assert tags.names.count("svg") == 3
    assert not {"script", "link", "img", "iframe", "object"} & set(tags.names)
    assert all(reference.startswith("#") for reference in tags.references)


def test_words_from_outside_stay_words() -> None:
    """In HTML and, as far as tables go, in Markdown; also in what the plots say."""
    memory = tuple(replace(sample, resident_mb={EVIL: 1.0}) for sample in result_of().memory)
    result = result_of(alias=EVIL, hardware=EVIL, release=EVIL, versions={EVIL: EVIL}, memory=memory)
    drawn = plots.metric_over_time(["2026"] * 2, [1.0, 2.0], ["1.0.0", EVIL], (), metric="p50_us")
    for text in (page(result), comparison_page(compare(result_of(), result)), drawn):
        assert "script" not in Tags(text).names
    rows = [line for line in markdown(result).splitlines() if line.startswith("| grpc")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {12}


def test_one_result_gives_one_report() -> None:
    """Byte for byte, so that a report can be kept next to what it shows; two plots share no id."""
    assert page(result_of()) == page(result_of())
    ids = [set(re.findall(r'(?<= id=")(?:m|p)[0-9a-f]{6,}(?=")', plot(result_of()))) for plot in (_curve, _spread)]
    assert not ids[0] & ids[1]


def _curve(result) -> str:
    return plots.throughput_against_latency([result])


def _spread(result) -> str:
    return plots.latency_distribution([result])


def test_what_was_not_measured_is_not_drawn() -> None:
    """No memory where the server is not ours, no curve of a single level."""
    bare = result_of(points=result_of().points[:1], memory=())
    assert Tags(page(bare)).names.count("svg") == 1
    assert "Memory" not in markdown(bare)


def test_the_figures_are_in_every_form() -> None:
    """Tables in HTML and Markdown hold what was measured; a comparison says what it cannot."""
    result = result_of()
    assert all(">500</td>" in text for text in (page(result), comparison_page(compare(result, result_of(600.0)))))
    assert "| 500 |" in markdown(result)
    assert "not paired" in comparison_markdown(compare(result, result_of(600.0)))
    shown = history_page("walker", [result] * 2, [500.0, 510.0], (), "p50_us", (("id",), [(result.id,)] * 2))
    assert Tags(shown).names.count("svg") == 1
