"""The real perf_analyzer against the real Triton, also when the server dies or falls silent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from embedded import PATIENCE_S
from toy_triton import SLEEPY, ToyModel, ToyTriton, discrete_contract, toy_triton

from policyctl.client import Protocol
from policyctl.domain.golden import Golden
from policyctl.domain.json_values import to_json
from policyctl.domain.parity import Tolerance
from policyctl.errors import ServerError
from policyctl.measuring.measurement import LoadMode, Measurement, Point, SharedMemory
from policyctl.measuring.perf_analyzer import WINDOWS, Load, PerfAnalyzer

pytestmark = pytest.mark.server

WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float32)
WALKER = ToyModel(discrete_contract(), {1: WEIGHTS}, {1: "1.0.0"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyTriton]:
    with toy_triton(tmp_path_factory.mktemp("perf")) as running:
        running.serve("walker", WALKER, 1)
        yield running


def golden(*observations: list[float]) -> Golden:
    rows = np.array(observations, dtype=np.float32)
    return Golden({"observation": rows}, WALKER.outputs(1, rows), Tolerance())


@pytest.fixture(scope="module")
def tool() -> Iterator[PerfAnalyzer]:
    """perf_analyzer with two observations."""
    with PerfAnalyzer.asking(golden([0, 1, 0, 0], [0, 0, 1, 0])) as found:
        yield found


def load(server: ToyTriton, level: float = 1.0, *, model: str = "walker", **more: Any) -> Load:
    """A closed loop on `model`, with other fields of the point or the load."""
    facts = {"protocol": Protocol.GRPC, "shared_memory": SharedMemory.NONE, "batch_size": 1}
    facts |= {"mode": LoadMode.CONCURRENCY}
    point = Point(level=level, **{name: more.pop(name, value) for name, value in facts.items()})
    return Load(model=model, url=server.url(point.protocol), point=point, **more)


@pytest.mark.parametrize("protocol", [Protocol.GRPC, Protocol.HTTP])
def test_each_level_of_concurrency_becomes_a_measurement(
    server: ToyTriton, tool: PerfAnalyzer, protocol: Protocol
) -> None:
    """Every window counts, percentiles are ordered, and the parts do not exceed the whole."""
    loads = [load(server, level, protocol=protocol, interval_ms=250, warmup_requests=20) for level in (1.0, 2.0)]
    measurements: list[Measurement] = [tool.measure(each) for each in loads]
    assert [m.point for m in measurements] == [each.point for each in loads]
    for m in measurements:
        assert (m.windows, len(m.window_p50_us), len(m.window_p99_us)) == (3, 3, 3)
        assert 0 < m.p50_us <= m.p90_us <= m.p95_us <= m.p99_us
        assert m.queue_us + m.compute_us < m.p99_us
        assert m.compute_infer_us > 0
        assert m.request_count == pytest.approx(m.requests_per_s * m.duration_s)
        assert m.duration_s > 0.7
        # Little's law holds a closed loop together: clients = rate x mean latency. A
        # median is below the mean, the more so on a busy machine, and never far above.
        assert 0.05 * m.level < m.requests_per_s * m.p50_us / 1e6 < 1.5 * m.level
        assert (m.failed_requests, m.delayed_percent) == (0, 0.0)
        json.dumps(to_json(m))


@pytest.mark.alone  # perf_analyzer's regions in /dev/shm have the same names in every process
def test_a_batch_counts_observations_beside_requests(server: ToyTriton, tool: PerfAnalyzer) -> None:
    """At batch 4, four observations are answered for each request; here through shared memory."""
    m = tool.measure(load(server, batch_size=4, interval_ms=200, shared_memory=SharedMemory.SYSTEM))
    assert m.throughput_per_s == pytest.approx(4 * m.requests_per_s)
    assert m.windows == WINDOWS


def test_a_rate_that_cannot_be_kept_is_reported_as_delayed(server: ToyTriton, tool: PerfAnalyzer) -> None:
    """A modest rate is kept and says so; an absurd one shows in the requests that began late."""
    kept, missed = (
        tool.measure(load(server, rate, mode=LoadMode.REQUEST_RATE, interval_ms=400, warmup_requests=10))
        for rate in (50.0, 50_000.0)
    )
    assert (kept.mode, kept.level) == (LoadMode.REQUEST_RATE, 50.0)
    assert 0 < kept.requests_per_s < 100
    assert missed.delayed_percent > 50
    assert missed.requests_per_s < 40_000


def test_without_the_export_percentiles_come_from_the_report(server: ToyTriton, tool: PerfAnalyzer) -> None:
    """For image observations: whole microseconds, no windows of their own, the same parts."""
    m = replace(tool, row_bytes=28_224).measure(load(server, interval_ms=200))
    assert m.window_p50_us == ()
    assert m.p50_us == int(m.p50_us) > 0
    assert m.request_count > 0


def test_a_model_that_is_not_served_is_an_error_with_its_reason(server: ToyTriton, tool: PerfAnalyzer) -> None:
    """What perf_analyzer said last is in the message."""
    with pytest.raises(ServerError, match="unknown model"):
        tool.measure(load(server, model="nobody"))


@pytest.mark.parametrize("fate", ["kill", "stop"])
def test_a_server_that_dies_or_falls_silent_cannot_hold_it_up(server: ToyTriton, tool: PerfAnalyzer, fate: str) -> None:
    """Killed midway, or stopped midway: an error, by the time limit at the latest, and no process is left."""
    # A killed server ends it long before; the stopped one when the time is up.
    asked = load(server, 2.0, interval_ms=3000, time_limit_s=PATIENCE_S if fate == "kill" else 4.0)
    blow = threading.Timer(1.5, getattr(server, fate))
    begin = time.monotonic()
    blow.start()
    try:
        with pytest.raises(ServerError, match="perf_analyzer") as caught:
            tool.measure(asked)
        assert time.monotonic() - begin < asked.time_limit_s + 60.0
        assert ("did not end in time" in str(caught.value)) == (fate == "stop")
    finally:
        blow.join()
        if fate == "kill":
            server.start()
            server.serve("walker", WALKER, 1)
        else:
            server.resume()


def test_a_full_queue_is_an_error_and_not_a_wait(server: ToyTriton) -> None:
    """Requests that the server turns away end the run before its limit, with the server's own reason."""
    full = "dynamic_batching { default_queue_policy { max_queue_size: 1 } }"
    server.serve("full", WALKER, 1, edit=lambda text: text.replace("dynamic_batching { }", full))
    asked = load(server, 8.0, model="full", warmup_requests=0, interval_ms=500, time_limit_s=PATIENCE_S)
    begin = time.monotonic()
    with PerfAnalyzer.asking(golden([SLEEPY] * 4)) as tool, pytest.raises(ServerError, match="maximum queue size"):
        tool.measure(asked)
    assert time.monotonic() - begin < asked.time_limit_s
