"""Every picture can be read, of short runs and of long ones: nothing prints over anything else, names are known."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np
import pytest
from bench_results import measurement_of, points_of, result_of

pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from policyctl.domain.protocol import Protocol
from policyctl.measuring import plots
from policyctl.measuring.history import Change
from policyctl.measuring.measurement import SharedMemory
from policyctl.measuring.memory_trace import MemorySample
from policyctl.measuring.result import BenchResult


def _result(clients: tuple[int, ...], p50_us: float = 300.0, seconds: float = 60.0, **more: object) -> BenchResult:
    memory = tuple(MemorySample(at, {"tritonserver": 94.0, "a_0_0": 61.0}) for at in np.linspace(0.0, seconds, 20))
    return result_of(points=points_of(p50_us, clients), memory=memory, **more)


def _swept() -> BenchResult:
    """As many points as two protocols, shared memory and several batches give."""
    kinds = itertools.product(Protocol, (SharedMemory.NONE, SharedMemory.SYSTEM), (1, 8, 64), (1, 2, 4, 8, 16, 32))
    points = tuple(
        measurement_of(
            300.0 * clients**0.5, protocol=protocol, shared_memory=shared, level=float(clients), batch_size=batch
        )
        for protocol, shared, batch, clients in kinds
    )
    return result_of(points=points, memory=(MemorySample(0.0, {"tritonserver": 94.0}),))


RESULTS = {
    "one point": [_result((1,), seconds=1.0)],
    "two points of one size": [_result((1, 2), p50_us=9.0)],
    "many points": [_result((1, 2, 4, 8, 16, 32), seconds=5 * 3600.0)],
    "a sweep": [_swept()],
    "two releases": [_result((1, 8, 32)), _result((1, 8, 32), release="1.1.0-rc.1+build.5")],
    "slow": [_result((1, 32), p50_us=2e6)],
}
OVER_TIME = {
    "one": (["2026-01-31T10:00:00+00:00"], ["1.0.0"], []),
    "a day": ([f"2026-01-31T{hour:02}:00:00+00:00" for hour in range(9)], ["1.0.0"] * 9, []),
    "long": (
        [f"20{year:02}-{month:02}-01T10:00:00+00:00" for year in range(20, 27) for month in range(1, 13)],
        [f"{major}.{minor}.0-rc.{minor}" for major in range(7) for minor in range(12)],
        [Change(40, 500.0, 600.0, 1.2, 0.01)],
    ),
}


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Every figure, as it is written."""
    found: list[Figure] = []
    genuine = plots._written

    def written(figure: Figure) -> str:
        found.append(figure)
        return genuine(figure)

    monkeypatch.setattr(plots, "_written", written)
    return found


def _texts(figure: Figure) -> Iterator[tuple[str, object]]:
    """Each text of a figure, and the room that it takes."""
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    shown = [*axes.texts, axes.xaxis.label, axes.yaxis.label, *(t for each in figure.legends for t in each.get_texts())]
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        low, high = sorted(limits)
        shown += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
        shown += [t.label1 for t in axis.get_minor_ticks() if low <= t.get_loc() <= high]
    for text in shown:
        if text.get_text() and text.get_visible():
            yield text.get_text(), text.get_window_extent()


def _check(figure: Figure) -> None:
    texts = list(_texts(figure))
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        assert not (a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1), (one, other)
    for text, room in texts:
        assert room.x0 >= -1, text
        assert room.x1 <= figure.bbox.x1 + 1, text
    width = figure.axes[0].get_window_extent().width
    assert width > 0.5 * figure.bbox.width


def _check_ticks(figure: Figure) -> None:
    axes = figure.axes[0]
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        low, high = sorted(limits)
        labels = [t.label1.get_text() for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
        assert len([label for label in labels if label]) >= 2, labels


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("plot", [plots.latency_distribution, plots.throughput_against_latency, plots.memory_over_time])
def test_nothing_prints_over_anything_else(drawn, name: str, plot) -> None:
    """Neither ticks nor legends, and a scale has ticks enough to be read."""
    svg = plot(RESULTS[name])
    assert bool(svg) == bool(drawn)
    for figure in drawn:
        _check(figure)
        _check_ticks(figure)


@pytest.mark.parametrize("kind", OVER_TIME)
def test_what_is_drawn_over_time_has_times_below_it(drawn, kind: str) -> None:
    """Days, or the time of day where all are of one; releases stand above, and do not print over one another."""
    times, releases, changes = OVER_TIME[kind]
    values = [500.0 + index % 7 for index in range(len(times))]
    plots.metric_over_time(times, values, releases, changes, metric="p50_us")
    (figure,) = drawn
    _check(figure)
    axes = figure.axes[0]
    marks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d" if kind == "long" else r"\d\d:\d\d", mark) for mark in marks)
    assert min(len(times), 4) <= len(marks) <= 7
    assert axes.get_ylim()[1] > max(values)


@pytest.mark.parametrize("count", [1, 5, 12])
def test_what_is_evaluated_is_named_beside_its_bar(drawn, count: int) -> None:
    """However long its name is."""
    names = [f"SomeVeryLongEnvironmentName-v{index}, 100 episodes" for index in range(count)]
    plots.returns_with_intervals([(name, 10.0 * index, -5.0, 12.0 * index) for index, name in enumerate(names)])
    plots.latency_by_load(
        [(f"0123456789ab grpc, batch {index}, 8 clients, standard", 300.0, 900.0) for index in range(count)]
    )
    plots.action_quantiles("q", [(f"joint_{index}", [-1, -0.8, -0.2, 0.1, 0.4, 0.9, 1]) for index in range(count)])
    plots.choice_shares("c", [("action", {str(index): 1 / count for index in range(count)})])
    for figure in drawn[:2]:
        _check(figure)
    assert len(drawn) == 4


def test_two_results_are_told_apart_by_what_a_person_knows_them_by() -> None:
    """By release; by release and format, or by time, where that is the same; never by a digest alone."""
    one, other = _result((1, 8)), _result((1, 8), release="1.1.0")
    later = _result((1, 8), time="2026-03-01T10:00:00+00:00")
    onnx = _result((1, 8), format="onnx")
    for pair, names in (
        ((one, other), ("1.0.0: grpc", "1.1.0: grpc")),
        ((one, onnx), ("1.0.0 (openvino): grpc", "1.0.0 (onnx): grpc")),
        ((one, later), ("1.0.0, 2026-01-31 23:59: grpc", "1.0.0, 2026-03-01 10:00: grpc")),
    ):
        svg = plots.latency_distribution(pair) + plots.throughput_against_latency(pair)
        assert all(name in svg for name in names)
        assert not any(result.id in svg for result in pair)
    assert "1.0.0: " not in plots.latency_distribution([one])


def test_memory_of_a_long_run_is_drawn_in_minutes_or_hours(drawn) -> None:
    """Nobody counts 18,000 seconds."""
    for seconds, unit, last in ((1.2, "seconds", 1.2), (600.0, "minutes", 10.0), (5 * 3600.0, "hours", 5.0)):
        plots.memory_over_time([_result((1,), seconds=seconds)])
        axes = drawn.pop().axes[0]
        assert axes.get_xlabel() == f"{unit} since the beginning"
        assert axes.get_xlim() == (0.0, pytest.approx(last))
