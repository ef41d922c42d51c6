"""A benchmark's result for people: one HTML page that needs nothing else, and Markdown.

The page loads nothing and runs nothing: plots are SVG inside it, and every word
that comes from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from policyctl import pages
from policyctl.domain.instants import utc_text
from policyctl.measuring import plots
from policyctl.measuring.comparison import LIMITS, Comparison
from policyctl.measuring.history import Change
from policyctl.measuring.memory_trace import summarise
from policyctl.measuring.result import BenchResult
from policyctl.pages import Rows

POINT_COLUMNS: Final = (
    "point",
    "p50 us",
    "p90 us",
    "p95 us",
    "p99 us",
    "infer/s",
    "queue us",
    "compute us",
    "requests",
    "failed",
    "delayed %",
)
MEMORY_COLUMNS: Final = ("process", "first MB", "steady MB", "peak MB")
COMPARISON_COLUMNS: Final = ("point", "metric", "one", "other", "ratio", "drift here", "what that says")


def point_rows(result: BenchResult) -> list[tuple[str, ...]]:
    """A row a point, under `POINT_COLUMNS`."""
    rows = []
    for m in result.points:
        figures = (m.p50_us, m.p90_us, m.p95_us, m.p99_us, m.throughput_per_s, m.queue_us, m.compute_us)
        counts = (str(m.request_count), str(m.failed_requests), f"{m.delayed_percent:.1f}")
        rows.append((m.point.describe(), *(f"{value:.0f}" for value in figures), *counts))
    return rows


def memory_rows(result: BenchResult) -> list[tuple[str, ...]]:
    """A row a process, under `MEMORY_COLUMNS`."""
    return [
        (s.process, f"{s.first_mb:.1f}", f"{s.steady_mb:.1f}", f"{s.peak_mb:.1f}") for s in summarise(result.memory)
    ]


def comparison_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A row a metric and point, under `COMPARISON_COLUMNS`."""
    return [
        (
            row.point.describe(),
            row.metric,
            f"{row.one:.0f}",
            f"{row.other:.0f}",
            f"{row.ratio:.3f}",
            "unknown" if row.drift is None else f"{row.drift:.2f}",
            row.standing.value,
        )
        for row in comparison.rows
    ]


def markdown(result: BenchResult) -> str:
    """A result as Markdown."""
    facts = "\n".join(f"- {name}: {value}" for name, value in _facts(result))
    memory = memory_rows(result)
    parts = [f"# {title(result)}", facts, pages.markdown_table(POINT_COLUMNS, point_rows(result))]
    if memory:
        parts += ["## Memory", pages.markdown_table(MEMORY_COLUMNS, memory)]
    return "\n\n".join(parts) + "\n"


def comparison_markdown(comparison: Comparison) -> str:
    """A comparison as Markdown."""
    parts = [f"# {title(comparison.one)} and {title(comparison.other)}", LIMITS]
    parts += ["\n".join(f"- {caution}" for caution in comparison.cautions)] if comparison.cautions else []
    return "\n\n".join([*parts, pages.markdown_table(COMPARISON_COLUMNS, comparison_rows(comparison))]) + "\n"


def page(result: BenchResult) -> str:
    """A result as one HTML page.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    return pages.render(
        "bench.html",
        title=title(result),
        facts=_facts(result),
        point_columns=POINT_COLUMNS,
        points=point_rows(result),
        figures=_figures([result]),
        memory_columns=MEMORY_COLUMNS,
        memory=memory_rows(result),
        settings=[*result.settings.items(), *result.versions.items()],
    )


def comparison_page(comparison: Comparison) -> str:
    """Two results next to each other as one HTML page.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    both = (comparison.one, comparison.other)
    return pages.render(
        "bench_comparison.html",
        title=" and ".join(title(each) for each in both),
        limits=LIMITS,
        cautions=comparison.cautions,
        columns=COMPARISON_COLUMNS,
        rows=comparison_rows(comparison),
        figures=_figures(both),
        results=[(title(each), _facts(each)) for each in both],
    )


def history_page(
    name: str,
    results: Sequence[BenchResult],
    values: Sequence[float],
    changes: Sequence[Change],
    metric: str,
    table: tuple[Sequence[str], Rows],
) -> str:
    """One metric over kept results as one HTML page.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    drawn = plots.metric_over_time(
        [r.time for r in results], values, [r.release for r in results], changes, metric=metric
    )
    columns, rows = table
    return pages.render("bench_history.html", title=name, plot=pages.raw(drawn), columns=columns, rows=rows)


def title(result: BenchResult) -> str:
    """One line that names a result."""
    return f"{result.model} {result.release} ({result.format}), {utc_text(result.time)}, {result.id}"


def _facts(result: BenchResult) -> list[tuple[str, str]]:
    return [
        ("id", result.id),
        ("time", result.time),
        ("alias", result.alias),
        ("profile", f"{result.profile}, {result.duration_s:.0f} s"),
        ("machine", f"{result.fingerprint}: {result.hardware}"),
        ("busy before", f"{result.busy_percent:.0f} %"),
        *([("stopped", result.stopped)] if result.stopped else []),
    ]


def _figures(results: Sequence[BenchResult]) -> list[tuple[str, str]]:
    """Heading and plot; the plot is empty where there is nothing to draw."""
    drawn = {
        "Throughput against latency": plots.throughput_against_latency(results),
        "Latency distribution": plots.latency_distribution(results),
        "Memory over time": plots.memory_over_time(results),
    }
    return [(name, pages.raw(plot)) for name, plot in drawn.items()]
