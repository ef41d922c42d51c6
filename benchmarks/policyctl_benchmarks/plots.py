"""Plots of a benchmark's results, as SVG that stands inside a page.

matplotlib draws them without a display and without its global state, and the
same results give the same bytes: no date, and ids salted with the plot's name
(which also keeps two plots in one page from sharing an id).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from policyctl.errors import UnsupportedError
from policyctl_benchmarks.history import Change
from policyctl_benchmarks.measurement import DISTRIBUTION_PERCENT, LoadMode
from policyctl_benchmarks.result import BenchResult, MeasuredPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

T = TypeVar("T")
_SIZE: Final = (8.0, 4.2)
_MOST_LINES: Final = 12
_TAIL_TICKS: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)


def latency_distribution(results: Sequence[BenchResult]) -> str:
    """Latency at each percentile, the tail drawn out; empty where no distribution was kept."""
    lines = [
        (_label(result, point, many=len(results) > 1), point.measurement.distribution_us)
        for result in results
        for point in result.points
        if point.measurement.distribution_us
    ]
    lines = _thinned(lines)
    if not lines:
        return ""

    def draw(axes: Axes) -> None:
        for label, latencies in lines:
            axes.plot([_drawn_out(q) for q in DISTRIBUTION_PERCENT], [v / 1e3 for v in latencies], label=label)
        axes.set_xticks([_drawn_out(q) for q in _TAIL_TICKS], [f"{q:g}" for q in _TAIL_TICKS])
        axes.set_xlabel("percentile")
        axes.set_ylabel("latency, ms")
        axes.set_yscale("log")
        _plain(axes.yaxis)

    return _svg("latency distribution", draw)


def throughput_against_latency(results: Sequence[BenchResult]) -> str:
    """P50 and P99 over observations a second, along rising load; empty where no line has two points."""
    lines = [
        (label, points)
        for result in results
        for label, points in _lines(result, many=len(results) > 1)
        if len(points) > 1
    ]
    if not lines:
        return ""

    def draw(axes: Axes) -> None:
        for label, points in _thinned(lines):
            rates = [p.measurement.throughput_per_s for p in points]
            (line,) = axes.plot(rates, [p.measurement.p50_us / 1e3 for p in points], marker="o", label=f"{label}, P50")
            tails = [p.measurement.p99_us / 1e3 for p in points]
            axes.plot(rates, tails, marker="^", linestyle="--", color=line.get_color(), label=f"{label}, P99")
        axes.set_xlabel("observations answered a second")
        axes.set_ylabel("latency, ms")
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain(axes.xaxis)
        _plain(axes.yaxis)

    return _svg("throughput against latency", draw)


def memory_over_time(results: Sequence[BenchResult]) -> str:
    """Resident memory of each process during the run; empty where it was not watched."""
    lines = [
        (f"{result.id} {name}" if len(results) > 1 else name, result, name)
        for result in results
        for name in sorted({name for sample in result.memory for name in sample.resident_mb})
    ]
    if not lines:
        return ""

    def draw(axes: Axes) -> None:
        for label, result, name in lines:
            seen = [(s.at_s, s.resident_mb[name]) for s in result.memory if name in s.resident_mb]
            axes.plot([at for at, _ in seen], [size for _, size in seen], label=label)
        axes.set_xlabel("seconds")
        axes.set_ylabel("resident memory, MB")
        axes.set_ylim(bottom=0)

    return _svg("memory over time", draw)


def returns_with_intervals(entries: Sequence[tuple[str, float, float, float]]) -> str:
    """Mean returns and where the true ones lie; empty without any.

    Args:
        entries: What was evaluated, mean, lower and upper end, one each.
    """

    def draw(axes: Axes) -> None:
        for index, (label, mean, low, high) in enumerate(entries):
            around = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
            axes.errorbar([index], [mean], yerr=around, marker="o", capsize=6, linestyle="", label=label)
        axes.set_xticks([])
        axes.margins(x=0.3)
        axes.set_ylabel("return, with its interval")

    return _svg("returns", draw) if entries else ""


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
        axes.bar(range(len(bars)), [share for _, share in bars])
        axes.set_xticks(range(len(bars)), [label for label, _ in bars], rotation=30, ha="right")
        axes.set_ylabel("share of the actions")
        axes.set_ylim(0.0, 1.0)

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
        axes.set_yticks(list(places), [label for label, _, _ in entries])
        axes.invert_yaxis()
        axes.set_xlabel("latency, ms")

    return _svg("latency by load", draw) if entries else ""


def metric_over_time(
    times: Sequence[str], values: Sequence[float], releases: Sequence[str], changes: Sequence[Change], *, metric: str
) -> str:
    """A metric over the kept results, with its changes and where the release became another one."""
    if not values:
        return ""

    def draw(axes: Axes) -> None:
        axes.plot(range(len(values)), values, marker="o", label=metric)
        for index in range(1, len(values)):
            if releases[index] != releases[index - 1]:
                axes.axvline(index - 0.5, color="grey", linestyle=":")
                axes.annotate(
                    releases[index], (index - 0.4, 0.97), xycoords=("data", "axes fraction"), fontsize=8, va="top"
                )
        for change in changes:
            axes.axvline(change.index - 0.5, color="red", label=f"change, {change.ratio:.2f} times")
        axes.set_xlabel(f"results, from {times[0][:10]} to {times[-1][:10]}")
        axes.set_ylabel(metric)
        axes.set_ylim(bottom=0)

    return _svg("metric over time", draw)


def slow_down_by_round(name: str, slow_downs: Mapping[str, Sequence[float]]) -> str:
    """How much slower the one was than the other in each round, in percent; empty where there is no round.

    Args:
        name: Of the plot; another one for each plot of a page.
        slow_downs: By metric, one a round: 0.1 is 10 % slower.
    """
    if not any(slow_downs.values()):
        return ""

    def draw(axes: Axes) -> None:
        for metric, values in slow_downs.items():
            axes.plot(range(1, len(values) + 1), [100.0 * v for v in values], marker="o", linestyle="", label=metric)
        axes.axhline(0.0, color="grey")
        axes.set_xlabel("round")
        axes.set_ylabel("slower by, %")

    return _svg(name, draw)


def _lines(result: BenchResult, *, many: bool) -> list[tuple[str, list[MeasuredPoint]]]:
    """Points that differ by their level alone, in the order of that level."""
    groups: dict[tuple[Any, ...], list[MeasuredPoint]] = {}
    for each in result.points:
        m = each.measurement
        groups.setdefault((each.protocol, each.shared_memory, m.batch_size, m.mode), []).append(each)
    found = []
    for (protocol, shared, batch, mode), points in groups.items():
        loop = "closed loop" if mode is LoadMode.CONCURRENCY else "open loop"
        memory = "" if shared == "none" else f" {shared} shm"
        label = f"{protocol}{memory}, batch {batch}, {loop}"
        ordered = sorted(points, key=lambda p: p.measurement.level)
        found.append((f"{result.id} {label}" if many else label, ordered))
    return found


def _label(result: BenchResult, point: MeasuredPoint, *, many: bool) -> str:
    return f"{result.id} {point.point.words()}" if many else point.point.words()


def _thinned(lines: Sequence[T]) -> list[T]:
    """At most `_MOST_LINES`, spread over all of them: more cannot be told apart."""
    step = max(1, -(-len(lines) // _MOST_LINES))
    return list(lines[::step])


def _drawn_out(percent: float) -> float:
    """Where a percentile stands: each further nine takes the same width; the largest of all is put behind 99.99."""
    return -math.log10(1.0 - percent / 100.0) if percent < 100.0 else 4.3


def _plain(axis: Axis) -> None:
    """Numbers instead of powers of ten."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("{x:g}")


def _svg(name: str, draw: Callable[[Axes], None]) -> str:
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            "a report with plots needs matplotlib, which is not installed", remedy="pip install 'policyctl[report]'"
        ) from error
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "text.parse_math": False}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.grid(visible=True, alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside right upper", fontsize=7)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = written.getvalue()
    return text[text.index("<svg") :]
