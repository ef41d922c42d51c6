"""Read what perf_analyzer wrote: one `Measurement` for each level of load.

Two files say it. The CSV has where the time went, as means over the windows;
the profile export has every request, from which the percentiles here are
computed exactly (the CSV rounds them to whole microseconds, and has none of a
single window).
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.protocol import Protocol
from policyctl.errors import ServerError

_QUANTILES = (50, 90, 95, 99)
DISTRIBUTION_PERCENT = (
    0.0,
    1.0,
    5.0,
    *map(float, range(10, 90, 5)),
    *map(float, range(90, 100)),
    99.5,
    99.9,
    99.99,
    100.0,
)
"""Where `Measurement.distribution_us` has its points."""

_DELAYED = re.compile(r"([0-9.]+)% of the requests were delayed")


class LoadMode(StrEnum):
    """What a level of load counts."""

    CONCURRENCY = "concurrency"
    """Requests that are always under way (closed loop)."""
    REQUEST_RATE = "request_rate"
    """Requests begun each second, whether or not others have ended (open loop)."""


class SharedMemory(StrEnum):
    """How tensors travel between perf_analyzer and a server on the same machine."""

    NONE = "none"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One thing to measure; the same in two results means that they can be compared."""

    protocol: Protocol
    shared_memory: SharedMemory
    batch_size: int
    mode: LoadMode
    level: float

    def describe(self) -> str:
        """For people and for plots."""
        shared = "" if self.shared_memory is SharedMemory.NONE else f" {self.shared_memory} shm"
        load = f"{self.level:g} clients" if self.mode is LoadMode.CONCURRENCY else f"{self.level:g}/s"
        return f"{self.protocol}{shared}, batch {self.batch_size}, {load}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What clients saw at one point, and where the server spent it.

    Attributes:
        level: Concurrency, or requests a second that were asked for.
        duration_s: Their length together.
        request_count: Requests that ended in them.
        failed_requests: Requests in them that never got an answer.
        throughput_per_s: Observations answered a second.
        p50_us: Latency by the client's clock, and so on; all microseconds.
        queue_us: Mean wait for an instance, by the server's clock.
        compute_input_us: Mean time to gather inputs, by the server's clock.
        compute_infer_us: Mean time in the backend, by the server's clock.
        compute_output_us: Mean time to hand outputs over, by the server's clock.
        client_send_us: Mean time to build and send a request.
        client_receive_us: Mean time to read an answer.
        network_us: What is left of the mean latency: network and both ends of it.
        delayed_percent: Requests that began late, at a request rate, where
            that is more than perf_analyzer keeps to itself; else 0. With many
            of these the rate was not reached and latencies mean little.
        window_p50_us: One a window, and so on; empty where only the CSV was read.
        distribution_us: The latency at each of `DISTRIBUTION_PERCENT`; empty
            where only the CSV was read.
    """

    protocol: Protocol
    shared_memory: SharedMemory
    mode: LoadMode
    level: float
    batch_size: int
    windows: int
    duration_s: float
    request_count: int
    failed_requests: int
    requests_per_s: float
    throughput_per_s: float
    p50_us: float
    p90_us: float
    p95_us: float
    p99_us: float
    queue_us: float
    compute_input_us: float
    compute_infer_us: float
    compute_output_us: float
    client_send_us: float
    client_receive_us: float
    network_us: float
    delayed_percent: float = 0.0
    window_p50_us: tuple[float, ...] = ()
    window_p99_us: tuple[float, ...] = ()
    window_requests_per_s: tuple[float, ...] = ()
    distribution_us: tuple[float, ...] = ()

    @property
    def point(self) -> Point:
        """Where it was measured."""
        return Point(self.protocol, self.shared_memory, self.batch_size, self.mode, self.level)

    @property
    def compute_us(self) -> float:
        """Mean time of input, inference and output together."""
        return self.compute_input_us + self.compute_infer_us + self.compute_output_us


@dataclass(frozen=True, slots=True)
class Requests:
    """Every request of the measured windows.

    Attributes:
        begin_ns: When each was sent, shape (n,).
        end_ns: When its answer was there; 0 where none came.
        boundaries_ns: Where windows begin and end, shape (windows + 1,).
    """

    begin_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    boundaries_ns: NDArray[np.int64]

    @classmethod
    def from_export(cls, text: str) -> Requests:
        """Read a profile export of one level.

        Raises:
            ServerError: It is not one.
        """
        try:
            (experiment,) = json.loads(text)["experiments"]
            requests = experiment["requests"]
            begin = [request["timestamp"] for request in requests]
            end = [(request.get("response_timestamps") or [0])[-1] for request in requests]
            boundaries = experiment["window_boundaries"]
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(f"perf_analyzer wrote a profile that cannot be read: {error!r}") from error
        if len(boundaries) < 2:
            raise ServerError("perf_analyzer measured no window")
        return cls(
            np.array(begin, dtype=np.int64),
            np.array(end, dtype=np.int64),
            np.array(boundaries, dtype=np.int64),
        )

    def latencies_us(self, window: int | None = None) -> NDArray[np.float64]:
        """Latencies of requests that ended in `window`, or in any."""
        first = self.boundaries_ns[0 if window is None else window]
        last = self.boundaries_ns[-1 if window is None else window + 1]
        inside = (self.end_ns >= first) & (self.end_ns <= last)
        latencies: NDArray[np.float64] = (self.end_ns - self.begin_ns)[inside] / 1e3
        return latencies


def delayed_percent(output: str) -> float:
    """What perf_analyzer's warning says of requests that began late; 0 without a warning."""
    shares = _DELAYED.findall(output)
    return float(shares[-1]) if shares else 0.0


def from_files(
    point: Point, *, csv_text: str, export_text: str | None, output: str, windows: int, interval_ms: int
) -> Measurement:
    """The measurement that one run of perf_analyzer wrote.

    Args:
        export_text: Its profile export; None takes percentiles from the CSV.

    Raises:
        ServerError: A file is not what perf_analyzer 2.51 writes, or no request ended.
    """
    parts = _parts(csv_text)
    if export_text is None:
        seconds = windows * interval_ms / 1e3
        count = round(parts["throughput_per_s"] / point.batch_size * seconds)
        requests = {"windows": windows, "duration_s": seconds, "request_count": count, "failed_requests": 0}
    else:
        requests = _seen_in_export(Requests.from_export(export_text))
    per_s = requests["request_count"] / requests["duration_s"]
    rates = {"requests_per_s": per_s, "throughput_per_s": per_s * point.batch_size}
    place = {field.name: getattr(point, field.name) for field in fields(Point)}
    return Measurement(**{**place, **parts, **requests, **rates, "delayed_percent": delayed_percent(output)})


def _seen_in_export(requests: Requests) -> dict[str, Any]:
    latencies_us = requests.latencies_us()
    if not len(latencies_us):
        raise ServerError("perf_analyzer measured no request that ended", remedy="Measure for longer.")
    lengths_s = np.diff(requests.boundaries_ns) / 1e9
    windows_us = [requests.latencies_us(window) for window in range(len(lengths_s))]
    rates = (len(each) / float(length) for each, length in zip(windows_us, lengths_s, strict=True) if length > 0)
    return {
        "windows": len(windows_us),
        "duration_s": float(lengths_s.sum()),
        "request_count": len(latencies_us),
        "failed_requests": int((requests.end_ns == 0).sum()),
        **{f"p{q}_us": float(np.percentile(latencies_us, q)) for q in _QUANTILES},
        "window_p50_us": tuple(float(np.percentile(each, 50)) for each in windows_us if len(each)),
        "window_p99_us": tuple(float(np.percentile(each, 99)) for each in windows_us if len(each)),
        "window_requests_per_s": tuple(rates),
        "distribution_us": tuple(float(v) for v in np.percentile(latencies_us, DISTRIBUTION_PERCENT)),
    }


_COLUMNS = {
    "throughput_per_s": "Inferences/Second",
    "client_send_us": "Client Send",
    "network_us": "Network+Server Send/Recv",
    "queue_us": "Server Queue",
    "compute_input_us": "Server Compute Input",
    "compute_infer_us": "Server Compute Infer",
    "compute_output_us": "Server Compute Output",
    "client_receive_us": "Client Recv",
    **{f"p{q}_us": f"p{q} latency" for q in _QUANTILES},
}
"""Fields of a measurement, by the names that the report has for them."""


def _parts(csv_text: str) -> dict[str, float]:
    rows = [row for row in csv.DictReader(io.StringIO(csv_text)) if row]
    if len(rows) != 1:
        raise ServerError(f"perf_analyzer's report has {len(rows)} rows, expected one level")
    try:
        return {name: float(rows[0][column]) for name, column in _COLUMNS.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(f"perf_analyzer's report cannot be read: {error!r}") from error
