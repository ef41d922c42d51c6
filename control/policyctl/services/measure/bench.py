"""Bench: measure a served alias, within a time that is known beforehand, and keep the result.

The alias is asked through the network as any client does; nothing is changed.
Before the first point it has to answer one observation, so that a server that is
stopped or does not know the model is reported within seconds. The limit of each point
follows from how long that answer took.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from policyctl import __version__
from policyctl.adapters import bench_store
from policyctl.adapters.endpoint import Endpoint
from policyctl.domain.moves import Placement
from policyctl.domain.names import served_name
from policyctl.domain.protocol import Protocol
from policyctl.errors import PolicyctlError, ServerError, UsageError
from policyctl.measuring.measurement import LoadMode
from policyctl.measuring.memory_trace import MemoryTrace
from policyctl.measuring.perf_analyzer import (
    WINDOWS,
    OverTimeError,
    PerfAnalyzerOptions,
    SharedMemory,
    input_data_json,
    link_libraries,
    locate_perf_analyzer,
    run,
)
from policyctl.measuring.profiles import Point, Profile, plan, plan_rates, point_limit_s
from policyctl.measuring.result import BenchResult, MeasuredPoint
from policyctl.services.control import Control, OpenRelease, open_release
from policyctl.serving.hardware import detect
from policyctl.serving.memory import usage

INTERRUPTED: Final = "somebody interrupted it"
_BUSY_S: Final = 0.5
_EXPORT_BYTES: Final = 1 << 14
"""Observations above this are not written out request by request (images): their percentiles come rounded."""

_DISTRIBUTIONS: Final = ("nvidia-pytriton", "tritonclient", "openvino", "onnxruntime", "torch")


@dataclass(frozen=True, slots=True)
class _Target:
    """What is measured, fixed for one run."""

    model: str
    alias: str
    placement: Placement
    opened: OpenRelease
    endpoint: Endpoint

    @property
    def served(self) -> str:
        return served_name(self.model, self.alias)


def bench(control: Control, profile: Profile, *, model: str, alias: str, keep: bool = True) -> BenchResult:
    """Drive a served alias with the real perf_analyzer, on its own golden observations.

    What was measured before the time limit, an interrupt or an error is a result
    as well; its `stopped` says what is missing, and why.

    Args:
        control: The control plane.
        profile: What to measure and for how long.
        model: Which model.
        alias: Which alias.
        keep: Keep the result in the repository.

    Raises:
        UsageError: The alias names nothing, or a batch is larger than what is served.
        ServerError: No server, requests that failed or the time limit before
            the first point was measured, or the alias moved meanwhile.
        UnsupportedError: perf_analyzer cannot run here.
    """
    until = time.monotonic() + profile.time_limit_s
    target = _target(control, profile, model=model, alias=alias)
    answer_s = _ask_once(control, target)
    began, begin = datetime.now(UTC), time.monotonic()
    busy = psutil.cpu_percent(_BUSY_S)
    with control.repository.staging() as folder, MemoryTrace(lambda: _resident(target.endpoint)) as trace:
        points = _Points(control, target, profile, until, answer_s)
        points.measure(folder)
    after = control.repository.journal.state().alias(model, alias)
    if after is None or after.placement.release != target.placement.release:
        raise ServerError(
            f"{alias} of {model} moved while it was measured: the figures are of no one release",
            remedy="Measure again while nothing is promoted.",
        )
    hardware = detect()
    result = BenchResult(
        time=began.isoformat(timespec="seconds"),
        model=model,
        alias=alias,
        release=target.placement.release,
        format=target.placement.format.value,
        profile=profile.name,
        fingerprint=hardware.fingerprint,
        identity=hardware.identity(),
        hardware=hardware.words(),
        versions=versions(),
        settings=_settings(target.placement, profile),
        busy_percent=busy,
        duration_s=round(time.monotonic() - begin, 3),
        points=tuple(points.measured),
        memory=trace.samples,
        stopped=points.stopped,
    )
    if keep:
        keep_result(control, result)
    return result


def keep_result(control: Control, result: BenchResult) -> Path:
    """Keep a result in the repository.

    Raises:
        UsageError: The disk refuses.
    """
    stamp = datetime.fromisoformat(result.time).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    return bench_store.keep(
        control.repository,
        result.to_bytes(),
        fingerprint=result.fingerprint,
        model=result.model,
        stamp=stamp,
        result_id=result.id,
    )


def versions() -> dict[str, str]:
    """Of everything that computes or measures, where it is installed."""
    found = {"policyctl": __version__}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def address(endpoint: Endpoint, protocol: Protocol) -> str:
    """Where a protocol is answered.

    Raises:
        ServerError: It is not known.
    """
    url = endpoint.grpc if protocol is Protocol.GRPC else endpoint.http
    if not url:
        raise ServerError(
            f"no {protocol} address of the server at {endpoint.grpc} is known",
            remedy="Use --protocol grpc, let the server answer HTTP (POLICYCTL_SERVER__HTTP), or say where somebody"
            " else's does (POLICYCTL_SERVER__HTTP_URL=HOST:PORT).",
        )
    return url


def _target(control: Control, profile: Profile, *, model: str, alias: str) -> _Target:
    from policyctl.adapters.pbtxt import max_batch_size

    control.repository.require()
    state = control.repository.journal.state()
    named = state.named(model, alias)
    largest = max_batch_size(named.placement.config)
    if max(profile.batches) > max(1, largest):
        raise UsageError(
            f"--batch {max(profile.batches)} is more than the {largest} that {model} is served with",
            remedy="Set POLICYCTL_SERVING__MAX_BATCH_SIZE and promote again, or measure smaller batches.",
        )
    opened = open_release(control.repository, state.release(model, named.placement.release))
    endpoint = control.endpoint()
    for protocol in profile.protocols:
        address(endpoint, protocol)
    return _Target(model, alias, named.placement, opened, endpoint)


def _ask_once(control: Control, target: _Target) -> float:
    """Seconds of one answer, the second of two; the first may have to warm something up."""
    golden = target.opened.golden
    one = {name: array[:1] for name, array in golden.observations.items()}
    outputs = tuple(spec.name for spec in target.opened.contract.outputs)
    with control.triton() as client:
        client.infer(target.served, one, outputs)
        begin = time.monotonic()
        client.infer(target.served, one, outputs)
        return time.monotonic() - begin


@dataclass(slots=True)
class _Points:
    """Measures one point after the other, and keeps those that were measured whatever ends it."""

    control: Control
    target: _Target
    profile: Profile
    until: float
    answer_s: float
    measured: list[MeasuredPoint] = field(default_factory=list)
    stopped: str = ""

    def measure(self, folder: Path) -> None:
        """Measure all of them, or those before something stops it.

        Args:
            folder: For scratch files.

        Raises:
            PolicyctlError: Not even the first could be measured.
        """
        data = folder / "observations.json"
        data.write_text(input_data_json(self.target.opened.golden))
        tool = {"binary": locate_perf_analyzer(), "library_path": link_libraries(folder / "libraries")}
        profile = self.profile
        known = plan(profile)
        kinds = len(profile.protocols) * len(profile.shared_memory)
        count = len(known) + (0 if profile.rates else len(profile.rate_shares) * kinds)
        try:
            for point in known:
                self._measure_one(point, data, tool, count)
            for point in plan_rates(profile, self._reached()):
                self._measure_one(point, data, tool, count)
        except (PolicyctlError, KeyboardInterrupt) as error:
            if not self.measured:
                raise
            what = error.problem if isinstance(error, PolicyctlError) else INTERRUPTED
            self.stopped = f"{len(self.measured)} of {count} points were measured: {what}"

    def _measure_one(self, point: Point, data: Path, tool: Mapping[str, Path], count: int) -> None:
        left_s, needed_s = self.until - time.monotonic(), WINDOWS * self.profile.interval_ms / 1e3
        if left_s < needed_s and self.measured:
            raise ServerError(f"the time limit of {self.profile.time_limit_s:g} s left no time for the next")
        limit_s = max(0.1, min(left_s, point_limit_s(self.profile, answer_s=self.answer_s)))
        words = f"Measuring {len(self.measured) + 1} of {count}: {point.describe()}"
        with self.control.working(words, at_most_s=limit_s):
            options = replace(_options(self.target, self.profile, point, data), time_limit_s=limit_s)
            try:
                (found,) = run(options, **tool)
            except OverTimeError:
                if self.until - time.monotonic() < limit_s:
                    raise
                # perf_analyzer itself stands still at times, on a busy machine. A server that answers is asked again.
                _ask_once(self.control, self.target)
                (found,) = run(options, **tool)
        self.measured.append(MeasuredPoint(point.protocol, point.shared_memory, found))

    def _reached(self) -> dict[tuple[Protocol, SharedMemory], float]:
        """The closed loop's best requests a second at the first batch size."""
        found: dict[tuple[Protocol, SharedMemory], float] = {}
        for each in self.measured:
            m, kind = each.measurement, (each.protocol, each.shared_memory)
            if m.batch_size == self.profile.batches[0] and m.mode is LoadMode.CONCURRENCY:
                found[kind] = max(found.get(kind, 0.0), m.requests_per_s)
        return found


def _options(target: _Target, profile: Profile, point: Point, data: Path) -> PerfAnalyzerOptions:
    levels: dict[str, Any] = (
        {"concurrency": (int(point.level),)} if point.mode is LoadMode.CONCURRENCY else {"request_rate": (point.level,)}
    )
    row_bytes = sum(
        array.dtype.itemsize * int(np.prod(array.shape[1:])) for array in target.opened.golden.observations.values()
    )
    return PerfAnalyzerOptions(
        model=target.served,
        url=address(target.endpoint, point.protocol),
        protocol=point.protocol,
        batch_size=point.batch_size,
        warmup_requests=profile.warmup_requests,
        measurement_interval_ms=profile.interval_ms,
        input_data=data,
        shared_memory=point.shared_memory,
        exact=row_bytes * point.batch_size <= _EXPORT_BYTES,
        **levels,
    )


def _settings(placement: Placement, profile: Profile) -> dict[str, Any]:
    from policyctl.adapters.pbtxt import options_of

    return {
        **asdict(options_of(placement.config)),
        "interval_ms": profile.interval_ms,
        "warmup_requests": profile.warmup_requests,
    }


def _resident(endpoint: Endpoint) -> Mapping[str, float]:
    """Of the server, each of its backend processes, and the control plane that keeps it."""
    if not endpoint.pid:
        raise ServerError("the server is not ours")
    others = {"policyctl serve": endpoint.supervisor_pid} if endpoint.supervisor_pid else {}
    return {name: float(use.rss_bytes) for name, use in usage(endpoint.pid, others).items()}
