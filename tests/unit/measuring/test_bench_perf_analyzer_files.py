"""The command line for perf_analyzer, and the reading of what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policyctl.domain.golden import Golden
from policyctl.domain.json_values import to_json
from policyctl.domain.parity import Tolerance
from policyctl.domain.protocol import Protocol
from policyctl.errors import ServerError, UsageError
from policyctl.measuring.measurement import (
    LoadMode,
    Measurement,
    Point,
    Requests,
    SharedMemory,
    delayed_percent,
    from_files,
)
from policyctl.measuring.perf_analyzer import Load, PerfAnalyzer, input_data_json

# As written by perf_analyzer 2.51.
REPORT = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency\n"
    "2,2881.66,2,200,181,15,184,102,1,667,860,940,1305\n"
)
WARNING = (
    "    [WARNING] Perf Analyzer was not able to keep up with the desired request rate."
    " 97.58% of the requests were delayed. \n"
)


def point_of(**changes: Any) -> Point:
    facts: dict[str, Any] = {
        "protocol": Protocol.GRPC,
        "shared_memory": SharedMemory.NONE,
        "batch_size": 1,
        "mode": LoadMode.CONCURRENCY,
        "level": 2.0,
    }
    return Point(**{**facts, **changes})


def export(latencies_us: list[list[float]], *, unanswered: int = 0) -> str:
    """A profile export of one second a window, with these latencies in each."""
    requests: list[dict[str, Any]] = [
        {"timestamp": 0, "response_timestamps": [10]},  # Ended before the first window.
        *({"timestamp": 10**9, "response_timestamps": []} for _ in range(unanswered)),
    ]
    for window, each in enumerate(latencies_us):
        middle = (window + 1) * 10**9 + 5 * 10**8
        requests += [{"timestamp": middle - int(us * 1e3), "response_timestamps": [middle]} for us in each]
    boundaries = [(n + 1) * 10**9 for n in range(len(latencies_us) + 1)]
    experiment = {
        "experiment": {"mode": "concurrency", "value": 2},
        "requests": requests,
        "window_boundaries": boundaries,
    }
    return json.dumps({"experiments": [experiment], "version": "2.51.0"})


def read(export_text: str | None, *, batch_size: int = 1, output: str = "", csv_text: str = REPORT) -> Measurement:
    point = point_of(batch_size=batch_size)
    return from_files(point, csv_text=csv_text, export_text=export_text, output=output, windows=3, interval_ms=500)


def test_percentiles_and_rates_come_from_the_requests_of_the_windows() -> None:
    """Exactly numpy's percentiles of the latencies in the windows; requests outside do not count."""
    windows = [[100.0, 200.0], [300.0], [400.0, 1000.5]]
    m = read(export(windows), batch_size=4)
    flat = [us for window in windows for us in window]
    assert [m.p50_us, m.p90_us, m.p95_us, m.p99_us] == pytest.approx(np.percentile(flat, (50, 90, 95, 99)))
    assert (m.request_count, m.windows, m.duration_s) == (5, 3, 3.0)
    assert m.requests_per_s == pytest.approx(5 / 3)
    assert m.throughput_per_s == pytest.approx(20 / 3)
    assert m.window_p50_us == (150.0, 300.0, 700.25)


def test_where_the_time_went_comes_from_the_report() -> None:
    """Queue, compute, client and network parts by their column names."""
    m = read(export([[1.0]]))
    assert (m.queue_us, m.compute_input_us, m.compute_infer_us, m.compute_output_us) == (181, 15, 184, 102)
    assert (m.client_send_us, m.client_receive_us, m.network_us, m.compute_us) == (2, 1, 200, 301)


def test_without_an_export_the_report_is_all_there_is() -> None:
    """Its percentiles, its throughput in observations, and the count that follows from both."""
    m = read(None, batch_size=2)
    assert (m.p50_us, m.p99_us, m.throughput_per_s) == (667, 1305, pytest.approx(2881.66, rel=1e-3))
    assert m.request_count == round(2881.66 / 2 * 1.5)
    assert m.window_p50_us == ()


def test_requests_without_an_answer_are_counted_as_failed() -> None:
    """They have no latency and stay out of the percentiles."""
    m = read(export([[5.0]], unanswered=3))
    assert (m.failed_requests, m.request_count, m.p99_us) == (3, 1, 5.0)


def test_requests_that_began_late_are_read_from_the_warning() -> None:
    """No warning is 0, and a value survives into the measurement."""
    assert delayed_percent("all well") == 0.0
    assert read(export([[1.0]]), output="a\n" + WARNING).delayed_percent == 97.58


@pytest.mark.parametrize(
    ("csv_text", "export_text"),
    [
        (REPORT, "{}"),
        (REPORT, "not json"),
        (REPORT, export([[], [], []])),
        (REPORT, export([])),
        (REPORT.splitlines()[0], export([[1.0]])),
        (REPORT.replace("Server Queue", "Queue"), export([[1.0]])),
        (REPORT.replace(",181,", ",soon,"), export([[1.0]])),
        ("", None),
    ],
)
def test_files_that_are_not_perf_analyzers_are_an_error(csv_text: str, export_text: str | None) -> None:
    """Never a measurement of zeros."""
    with pytest.raises(ServerError, match="perf_analyzer"):
        read(export_text, csv_text=csv_text)


def test_a_measurement_is_plain_json() -> None:
    """Every field, the mode as its word."""
    data = json.loads(json.dumps(to_json(read(export([[1.0]])))))
    assert data["mode"] == "concurrency" and data["p99_us"] == 1.0


def test_a_request_that_ends_on_a_boundary_belongs_to_a_window() -> None:
    """None is lost between two windows."""
    requests = Requests(np.array([0, 0]), np.array([10, 20]), np.array([10, 20, 30]))
    assert len(requests.latencies_us()) == 2


def words(load: Load, *, row_bytes: int = 4, finite: bool = True) -> str:
    tool = PerfAnalyzer(Path("pa"), Path(), Path("d.json"), row_bytes, finite)
    return " ".join(tool.command(load, Path("r"), Path("e")))


def test_the_command_line_takes_three_windows_and_never_judges_them() -> None:
    """One level, three trials, a stability limit that nothing exceeds."""
    line = words(Load(model="m", url="h:1", point=point_of(level=4.0), warmup_requests=7))
    assert line == (
        "pa -m m -u h:1 -i grpc -b 1 -p 1000 -s 1000000 -r 3 -f r --concurrency-range 4:4:1"
        " --warmup-request-count 7 --input-data d.json --profile-export-file e"
    )


def test_answers_that_are_infinite_are_not_written_out() -> None:
    """perf_analyzer leaves its file empty where it meets one: the score of a choice that a mask rules out."""
    assert "profile-export" not in words(Load(model="m", url="h:1", point=point_of(level=4.0)), finite=False)


def test_every_option_reaches_the_command_line() -> None:
    """Rates, shared memory, batch and protocol; images are not written out request by request.

    A rate has no warm-up, in which perf_analyzer sometimes waits for ever.
    """
    point = Point(Protocol.HTTP, SharedMemory.SYSTEM, 8, LoadMode.REQUEST_RATE, 12.5)
    line = words(Load(model="m", url="h:1", point=point, warmup_requests=7), row_bytes=28_224)
    for part in ("-i http", "-b 8", "--request-rate-range 12.5:12.5:1", "--shared-memory system"):
        assert part in line
    assert "warmup" not in line and "profile-export" not in line and "concurrency" not in line


@pytest.mark.parametrize(
    "wrong",
    [
        {"point": point_of(level=0.0)},
        {"point": point_of(mode=LoadMode.REQUEST_RATE, level=-1.0)},
        {"point": point_of(batch_size=0)},
        {"interval_ms": 0},
        {"time_limit_s": 0.0},
        {"warmup_requests": -1},
    ],
)
def test_a_load_that_cannot_be_measured_is_refused(wrong: dict[str, Any]) -> None:
    """Before a process is started."""
    with pytest.raises(UsageError, match="expected"):
        Load(**{"model": "m", "url": "h:1", "point": point_of(), **wrong})


def test_golden_observations_become_the_input_file_value_by_value() -> None:
    """Reading the file back gives the very float32 and integer values, with their shapes."""
    observations = {
        "image": np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
        "state": np.array([[0.1, -1e-30], [3.4e38, 7.0]], dtype=np.float32),
    }
    golden = Golden(observations, {"action": np.zeros((2, 1), np.float32)}, Tolerance())
    text = input_data_json(golden)
    assert "0.10000000149" not in text
    steps = json.loads(text)["data"]
    assert [step["image"]["shape"] for step in steps] == [[2, 3], [2, 3]]
    for row, step in enumerate(steps):
        for name, array in observations.items():
            np.testing.assert_array_equal(np.array(step[name]["content"], array.dtype), array[row].ravel())


def stand_in(folder: Path, *, cut_exports: int, kept_bytes: int) -> Path:
    """A program that writes perf_analyzer's files, the first exports cut off."""
    program = folder / "perf_analyzer"
    (folder / "report").write_text(REPORT)
    (folder / "export").write_text(export([[100.0] * 5]))
    (folder / "left").write_text("x" * cut_exports)
    program.write_text(
        f"""#!/bin/sh
while [ "$#" -gt 1 ]; do
  case "$1" in -f) report=$2 ;; --profile-export-file) out=$2 ;; esac
  shift
done
cd "{folder}" && cp report "$report" && left=$(cat left)
if [ -n "$left" ]; then printf %s "${{left#x}}" > left; head -c {kept_bytes} export > "$out"; else cp export "$out"; fi
"""
    )
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("kept", [0, 60])
def test_a_profile_that_came_out_cut_off_is_measured_once_more(tmp_path: Path, kept: int) -> None:
    """perf_analyzer does that now and then; twice in a row it is a separate error."""
    load = Load(model="walker", url="127.0.0.1:1", point=point_of(), time_limit_s=10.0)

    def measured(cut: int) -> Measurement:
        program = stand_in(tmp_path, cut_exports=cut, kept_bytes=kept)
        return PerfAnalyzer(program, tmp_path, tmp_path / "d.json", 4).measure(load)

    for cut in (0, 1):
        assert measured(cut).p50_us == 100.0
    with pytest.raises(ServerError, match="wrote no whole profile"):
        measured(2)


def test_a_time_out_does_not_repeat_the_settings(tmp_path: Path) -> None:
    """perf_analyzer lists them first, and mostly nothing else when it waits for a server that stands still."""
    banner = "*** Measurement Settings ***\\n  Batch size: 1\\n  Service Kind: TRITON\\n\\nRequest concurrency: 1\\n"
    program = tmp_path / "perf_analyzer"
    program.write_text(f"#!/bin/sh\nprintf '{banner}'\nexec sleep 30\n")
    program.chmod(0o755)
    load = Load(model="walker", url="127.0.0.1:1", point=point_of(), time_limit_s=0.5)
    with pytest.raises(ServerError, match="did not end in time") as caught:
        PerfAnalyzer(program, tmp_path, tmp_path / "d.json", 4).measure(load)
    assert "it said last:\nRequest concurrency: 1" in caught.value.problem
    assert "Settings" not in caught.value.problem
    assert "Batch size" not in caught.value.problem
