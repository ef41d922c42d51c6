"""Plots of a benchmark's results, as SVG that stands inside a page.

matplotlib draws them without a display and without its global state, and the
same results give the same bytes: no date, and ids salted with the plot's name
(which also keeps two plots in one page from sharing an id).
"""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from policyctl.errors import UnsupportedError
from policyctl.measuring.comparison import METRICS
from policyctl.measuring.history import Change
from policyctl.measuring.measurement import DISTRIBUTION_PERCENT, LoadMode, Measurement
from policyctl.measuring.result import BenchResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_WIDTH: Final = 8.0
_HEIGHT: Final = 4.2
_LEGEND_ROW: Final = 0.24
_LEGEND_CHARACTERS: Final = 96
"""That fit side by side below a plot."""
_MOST_LINES: Final = 10
"""As many as there are colours."""
_MOST_DATES: Final = 7
_RELEASE_CHARACTERS: Final = 90
"""That fit side by side above a plot."""
_TAIL_TICKS: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)
_STYLES: Final = ("-", "--", ":", "-.")
"""Of the lines of one result; another result has another."""


class _Line(NamedTuple):
    """Values of one result; lines of one kind have one colour, lines of one result one style."""

    result: int
    kind: str
    xs: Sequence[float]
    ys: Sequence[float]


def latency_distribution(results: Sequence[BenchResult]) -> str:
    """Latency at each percentile, the tail drawn out; empty where no distribution was kept."""
    places = [_drawn_out(q) for q in DISTRIBUTION_PERCENT]
    lines = [
        _Line(number, m.point.describe(), places, [value / 1e3 for value in m.distribution_us])
        for number, result in enumerate(results)
        for m in result.points
        if m.distribution_us
    ]

    def draw(axes: Axes) -> None:
        _draw_lines(axes, results, _thinned(lines, len(results)))
        axes.set_xticks([_drawn_out(q) for q in _TAIL_TICKS], [f"{q:g}" for q in _TAIL_TICKS])
        axes.set_xlabel("percentile")
        axes.set_ylabel("latency, ms")
        axes.set_yscale("log")
        _readable(axes.yaxis)

    return _svg("latency distribution", draw) if lines else ""


def throughput_against_latency(results: Sequence[BenchResult]) -> str:
    """P50 and P99 over observations a second, along rising load; empty where no line has two points."""
    median, tail = (
        [
            _Line(number, kind, [p.throughput_per_s for p in points], [read(p) / 1e3 for p in points])
            for number, result in enumerate(results)
            for kind, points in _by_level(result)
            if len(points) > 1
        ]
        for read in (METRICS["p50_us"], METRICS["p99_us"])
    )

    def draw(axes: Axes) -> None:
        _draw_lines(axes, results, _thinned(median, len(results)), marker="o")
        _draw_lines(axes, results, _thinned(tail, len(results)), named=False, marker="^", alpha=0.55)
        axes.set_xlabel("observations answered a second")
        axes.set_ylabel("latency, ms: P50 (circles), P99 (triangles)")
        axes.set_xscale("log")
        axes.set_yscale("log")
        _readable(axes.xaxis)
        _readable(axes.yaxis)

    return _svg("throughput against latency", draw) if median else ""


def memory_over_time(results: Sequence[BenchResult]) -> str:
    """Resident memory of each process during the run; empty where it was not watched."""
    longest_s = max((sample.at_s for result in results for sample in result.memory), default=0.0)
    unit, length_s = next(
        (u, s) for u, s in (("hours", 3600), ("minutes", 60), ("seconds", 1)) if longest_s >= 3 * s or s == 1
    )
    lines = []
    for number, result in enumerate(results):
        for process in sorted({name for sample in result.memory for name in sample.resident_mb}):
            there = [sample for sample in result.memory if process in sample.resident_mb]
            times, sizes = [sample.at_s / length_s for sample in there], [s.resident_mb[process] for s in there]
            lines.append(_Line(number, process, times, sizes))

    def draw(axes: Axes) -> None:
        _draw_lines(axes, results, lines)
        axes.set_xlim(0.0, max(longest_s, 1.0) / length_s)
        axes.set_xlabel(f"{unit} since the beginning")
        axes.set_ylabel("resident memory, MB")
        _from_zero(axes, [size for line in lines for size in line.ys])

    return _svg("memory over time", draw) if lines else ""


def returns_with_intervals(entries: Sequence[tuple[str, float, float, float]]) -> str:
    """Mean returns and where the true ones lie; empty without any.

    Args:
        entries: What was evaluated, mean, lower and upper end, one each.
    """

    def draw(axes: Axes) -> None:
        for index, (_, mean, low, high) in enumerate(entries):
            around = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
            axes.errorbar([mean], [index], xerr=around, marker="o", capsize=6, linestyle="")
        axes.set_yticks(range(len(entries)), [_folded(label) for label, *_ in entries])
        axes.margins(y=0.5 / len(entries))
        axes.invert_yaxis()
        axes.set_xlabel("return, with its interval")

    return _svg("returns", draw, height=_rows_height(len(entries))) if entries else ""


def action_quantiles(name: str, entries: Sequence[tuple[str, Sequence[float]]]) -> str:
    """How continuous actions spread: a box from 25 to 75 %, a line from 5 to 95 %; empty without any.

    Args:
        name: Of the plot; another one for each plot of a page.
        entries: What an element is called, its values at 0, 5, 25, 50, 75, 95 and 100 %.
    """

    def draw(axes: Axes) -> None:
        keys = ("whislo", "q1", "med", "q3", "whishi")
        boxes: list[dict[str, Any]] = [dict(zip(keys, values[1:6], strict=True)) for _, values in entries]
        axes.bxp(boxes, showfliers=False)
        axes.set_xticks(range(1, len(entries) + 1), [label for label, _ in entries], rotation=30, ha="right")
        axes.set_ylabel("action")

    return _svg(name, draw) if entries else ""


def choice_shares(name: str, entries: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """How often each choice was taken; empty without any.

    Args:
        name: Of the plot; another one for each plot of a page.
        entries: What an element is called, the share of each choice.
    """
    bars = [
        (f"{label} {choice}" if len(entries) > 1 else choice, share)
        for label, shares in entries
        for choice, share in shares.items()
    ]

    def draw(axes: Axes) -> None:
        axes.bar(range(len(bars)), [100.0 * share for _, share in bars])
        axes.set_xticks(range(len(bars)), [label for label, _ in bars], rotation=30, ha="right")
        axes.set_ylabel("% of the actions")
        _from_zero(axes, [100.0 * share for _, share in bars])

    return _svg(name, draw) if bars else ""


def latency_by_load(entries: Sequence[tuple[str, float, float]]) -> str:
    """P50 and P99 of each measurement, milliseconds; empty without any.

    Args:
        entries: What was measured, P50 and P99 in microseconds.
    """

    def draw(axes: Axes) -> None:
        places = range(len(entries))
        for offset, label, values in (
            (-0.2, "P50", [p50 for _, p50, _ in entries]),
            (0.2, "P99", [p99 for _, _, p99 in entries]),
        ):
            axes.barh([place + offset for place in places], [value / 1e3 for value in values], 0.38, label=label)
        axes.set_yticks(list(places), [_folded(label) for label, _, _ in entries])
        axes.invert_yaxis()
        axes.set_xlabel("latency, ms")

    return _svg("latency by load", draw, height=_rows_height(len(entries))) if entries else ""


def metric_over_time(
    times: Sequence[str], values: Sequence[float], releases: Sequence[str], changes: Sequence[Change], *, metric: str
) -> str:
    """A metric over the kept results, with its changes and where the release became another one."""
    if not values:
        return ""
    marks = _date_marks(times)
    begins = [index for index in range(len(values)) if index == 0 or releases[index] != releases[index - 1]]

    def draw(axes: Axes) -> None:
        axes.plot(range(len(values)), values, marker="o", markersize=4)
        width = len(values) * (max(map(len, releases)) + 2) / _RELEASE_CHARACTERS
        last = [-math.inf, -math.inf]
        for at in begins:
            if at:
                axes.axvline(at - 0.5, color="grey", linestyle=":", linewidth=0.8)
            # On two levels, and none where it would print over the one before.
            level = 0 if at - last[0] >= width else 1
            if at - last[level] >= width:
                last[level] = at
                place = (at - 0.4, 1.02 + 0.06 * level)
                axes.annotate(
                    releases[at], place, xycoords=("data", "axes fraction"), fontsize=9, annotation_clip=False
                )
        for change in changes:
            axes.axvline(change.index - 0.5, color="red", label=f"change, {change.ratio:.2f} times")
        axes.set_xticks([index for index, _ in marks], [mark for _, mark in marks])
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xlabel("when each result was measured; above: the release")
        axes.set_ylabel(metric)
        _from_zero(axes, values)

    return _svg("metric over time", draw)


def _names(results: Sequence[BenchResult]) -> list[str]:
    """How each result differs from the others, as a prefix of its lines; empty for a single result."""
    if len(results) == 1:
        return [""]
    ways: tuple[Callable[[BenchResult], str], ...] = (
        lambda r: r.release,
        lambda r: f"{r.release} ({r.format})",
        lambda r: f"{r.release}, {r.time[:16].replace('T', ' ')}",
    )
    for way in ways:
        names = [way(result) for result in results]
        if len(set(names)) == len(names):
            return [f"{name}: " for name in names]
    return [f"{result.release}, {result.id}: " for result in results]


def _draw_lines(
    axes: Axes, results: Sequence[BenchResult], lines: Sequence[_Line], *, named: bool = True, **look: Any
) -> None:
    names, kinds = _names(results), list(dict.fromkeys(line.kind for line in lines))
    for line in lines:
        axes.plot(
            line.xs,
            line.ys,
            label=f"{names[line.result]}{line.kind}" if named else None,
            color=f"C{kinds.index(line.kind)}",
            linestyle=_STYLES[line.result % len(_STYLES)],
            **{"marker": "o" if len(line.xs) < 3 else "", **look},
        )


def _by_level(result: BenchResult) -> list[tuple[str, list[Measurement]]]:
    """Points that differ by their level alone, in the order of that level."""
    groups: dict[str, list[Measurement]] = {}
    for each in sorted(result.points, key=lambda m: m.level):
        loop = "closed loop" if each.mode is LoadMode.CONCURRENCY else "open loop"
        memory = "" if each.shared_memory == "none" else f" {each.shared_memory} shm"
        groups.setdefault(f"{each.protocol}{memory}, batch {each.batch_size}, {loop}", []).append(each)
    return list(groups.items())


def _thinned(lines: Sequence[_Line], results: int) -> list[_Line]:
    """So many kinds of lines that `_MOST_LINES` hold them for every result, spread over all of them."""
    kinds = list(dict.fromkeys(line.kind for line in lines))
    most = max(1, _MOST_LINES // results)
    chosen = kinds[:: max(1, -(-len(kinds) // most))]
    return [line for line in lines if line.kind in chosen]


def _date_marks(times: Sequence[str]) -> list[tuple[int, str]]:
    """Which results stand under a tick, and when they were measured; the time of day where all are of one day."""
    step = max(1, -(-len(times) // _MOST_DATES))
    one_day = len({time[:10] for time in times}) == 1
    return [(index, (times[index][11:16] if one_day else times[index][:10])) for index in range(0, len(times), step)]


def _drawn_out(percent: float) -> float:
    """Where a percentile stands: each further nine takes the same width; the largest of all is put behind 99.99."""
    return -math.log10(1.0 - percent / 100.0) if percent < 100.0 else 4.3


def _readable(axis: Axis) -> None:
    """Ticks of a logarithmic axis that do not print over one another, as numbers instead of powers of ten."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    if decades < 1.0:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 3.0 else (1.0,)))
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_formatter(NullFormatter())


def _from_zero(axes: Axes, values: Sequence[float]) -> None:
    """A scale that shows how large the values are, with room above the largest."""
    axes.set_ylim(0.0, 1.08 * max((v for v in values if math.isfinite(v)), default=0.0) or 1.0)


def _folded(label: str) -> str:
    """A long label on two lines, so that it leaves room for what it is about."""
    import textwrap

    return "\n".join(textwrap.wrap(label, 34))


def _rows_height(count: int) -> float:
    return max(1.6, 0.9 + 0.55 * count)


def require_installed() -> None:
    """Before minutes of measuring: whether plots can be drawn.

    Raises:
        UnsupportedError: Matplotlib is not installed.
    """
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise UnsupportedError(
            "a report with plots needs matplotlib, which is not installed", remedy="pip install 'policyctl[report]'"
        ) from error


def _svg(name: str, draw: Callable[[Axes], None], *, height: float = _HEIGHT) -> str:
    require_installed()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "text.parse_math": False, "font.size": 10.5}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.grid(visible=True, alpha=0.3)
        if labels := axes.get_legend_handles_labels()[1]:
            columns = max(1, min(4, len(labels), _LEGEND_CHARACTERS // (8 + max(map(len, labels)))))
            figure.legend(loc="outside lower center", ncols=columns, fontsize=9.5, frameon=False)
            figure.set_figheight(height + _LEGEND_ROW * -(-len(labels) // columns))
        return f"<figure>{_written(figure)}</figure>"


def _written(figure: Figure) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    written = io.StringIO()
    FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = written.getvalue()
    return text[text.index("<svg") :]
