"""Results of benchmarks that nobody ran."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from policyctl.domain.protocol import Protocol
from policyctl.measuring.measurement import DISTRIBUTION_PERCENT, LoadMode, Measurement, SharedMemory
from policyctl.measuring.memory_trace import MemorySample
from policyctl.measuring.result import BenchResult

IDENTITY = {"cpu_model": "Some CPU", "cores": 2.0}
MACHINE = "0123456789ab"


def measurement_of(p50_us: float = 500.0, **changes: Any) -> Measurement:
    """A level whose latencies all follow from its median."""
    clients = float(changes.get("level", 1.0))
    rate = clients * 1e6 / p50_us
    batch = int(changes.get("batch_size", 1))
    facts: dict[str, Any] = {
        "protocol": Protocol.GRPC,
        "shared_memory": SharedMemory.NONE,
        "mode": LoadMode.CONCURRENCY,
        "level": clients,
        "batch_size": batch,
        "windows": 3,
        "duration_s": 3.0,
        "request_count": int(3 * rate),
        "failed_requests": 0,
        "requests_per_s": rate,
        "throughput_per_s": rate * batch,
        "p50_us": p50_us,
        "p90_us": 1.5 * p50_us,
        "p95_us": 1.7 * p50_us,
        "p99_us": 3 * p50_us,
        "queue_us": 40.0,
        "compute_input_us": 10.0,
        "compute_infer_us": 200.0,
        "compute_output_us": 10.0,
        "client_send_us": 1.0,
        "client_receive_us": 1.0,
        "network_us": 100.0,
        "delayed_percent": 0.0,
        "window_p50_us": (p50_us,) * 3,
        "window_p99_us": (3 * p50_us,) * 3,
        "window_requests_per_s": (rate,) * 3,
        "distribution_us": tuple(p50_us * (0.8 + float(q) / 100) for q in DISTRIBUTION_PERCENT),
    }
    return Measurement(**{**facts, **changes})


def points_of(p50_us: float = 500.0, clients: tuple[int, ...] = (1, 8)) -> tuple[Measurement, ...]:
    """A closed loop over gRPC."""
    return tuple(measurement_of(p50_us * n**0.5, level=float(n)) for n in clients)


def result_of(p50_us: float = 500.0, **changes: Any) -> BenchResult:
    """One benchmark's result, with `changes`."""
    facts: dict[str, Any] = {
        "time": "2026-01-31T23:59:59+00:00",
        "model": "walker",
        "alias": "production",
        "release": "1.0.0",
        "format": "openvino",
        "profile": "quick",
        "fingerprint": MACHINE,
        "identity": IDENTITY,
        "hardware": "Some CPU, 2 of 2 cores usable",
        "versions": {"openvino": "2026.4.1"},
        "settings": {"instances": 1},
        "busy_percent": 3.0,
        "duration_s": 5.5,
        "points": points_of(p50_us),
        "memory": tuple(MemorySample(n / 4, {"tritonserver": 40.0 + n, "walker_0_0": 94.0}) for n in range(8)),
    }
    return BenchResult(**{**facts, **changes})


def noisy(rng: np.random.Generator, count: int, *, p50_us: float = 500.0, noise: float = 0.1) -> list[float]:
    """Medians of runs that differ by nothing but the machine's mood."""
    return [float(p50_us * np.exp(noise * z)) for z in rng.standard_normal(count)]


_numbers = st.floats(0, 1e9, allow_nan=False)
_words = st.text(max_size=20)

measurements = st.builds(
    Measurement,
    protocol=st.sampled_from(Protocol),
    shared_memory=st.sampled_from(SharedMemory),
    mode=st.sampled_from(LoadMode),
    **{name: _numbers for name in Measurement.__annotations__ if Measurement.__annotations__[name] == "float"},
    **{
        name: st.integers(0, 1 << 40)
        for name in Measurement.__annotations__
        if Measurement.__annotations__[name] == "int"
    },
    **{
        name: st.lists(_numbers, max_size=3).map(tuple)
        for name in Measurement.__annotations__
        if "tuple" in Measurement.__annotations__[name]
    },
)
results = st.builds(
    BenchResult,
    time=st.datetimes().map(lambda t: t.isoformat() + "+00:00"),
    model=st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    alias=_words,
    release=_words,
    format=_words,
    profile=_words,
    fingerprint=_words,
    identity=st.dictionaries(_words, st.none() | _words | _numbers, max_size=3),
    hardware=_words,
    versions=st.dictionaries(_words, _words, max_size=3),
    settings=st.dictionaries(_words, st.booleans() | st.integers() | _words, max_size=3),
    busy_percent=_numbers,
    duration_s=_numbers | st.integers(0, 9),
    points=st.lists(measurements, max_size=3).map(tuple),
    memory=st.lists(
        st.builds(MemorySample, _numbers | st.integers(0, 9), st.dictionaries(_words, _numbers, max_size=2)), max_size=3
    ).map(tuple),
)
"""Any result that could be made, with whole numbers where fractions may be."""
