"""Bench: measure a served alias, within a time that is known beforehand, and keep the result.

The alias is asked through the network as any client does; nothing is changed.
Before the first point it has to answer one observation, so that a server that is
stopped or does not know the model is reported within seconds. The limit of each point
follows from how long that answer took.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Final

import psutil

from policyctl import __version__
from policyctl.adapters.endpoint import Endpoint
from policyctl.client.regions import NEEDED, Regions
from policyctl.domain.moves import Placement
from policyctl.domain.names import served_name
from policyctl.domain.protocol import Protocol
from policyctl.errors import PolicyctlError, ServerError, UnsupportedError, UsageError
from policyctl.measuring.measurement import LoadMode, Measurement, Point, SharedMemory
from policyctl.measuring.memory_trace import MemorySample, sampled
from policyctl.measuring.perf_analyzer import WINDOWS, Load, PerfAnalyzer
from policyctl.measuring.profiles import Profile, plan, plan_rates, point_limit_s
from policyctl.measuring.result import BenchResult
from policyctl.services import kept_results
from policyctl.services.control import Control, OpenRelease, open_release
from policyctl.serving.hardware import detect
from policyctl.serving.memory import usage

INTERRUPTED: Final = "somebody interrupted it"
_BUSY_S: Final = 0.5
_DISTRIBUTIONS: Final = ("nvidia-pytriton", "tritonclient", "openvino", "onnxruntime", "torch")


def bench(control: Control, profile: Profile, *, model: str, alias: str, keep: bool = True) -> BenchResult:
    """Drive a served alias with the real perf_analyzer, on its own golden observations.

    What was measured before the time limit, an interrupt or an error is a result
    as well; its `stopped` says what is missing, and why.

    Raises:
        UsageError: The alias names nothing, or a batch is larger than what is served.
        ServerError: No server, requests that failed or the time limit before
            the first point was measured, or the alias moved meanwhile.
        UnsupportedError: perf_analyzer cannot run here, or the server cannot open shared memory of this machine.
    """
    until = time.monotonic() + profile.time_limit_s
    points = _points(control, profile, until, model=model, alias=alias)
    placement, endpoint = points.placement, control.endpoint()
    answer_s = points.ask_once()
    began, begin = datetime.now(UTC), time.monotonic()
    busy = psutil.cpu_percent(_BUSY_S)
    with PerfAnalyzer.asking(points.opened.golden) as tool, sampled(lambda at_s: _resident(endpoint, at_s)) as memory:
        points.measure(tool, answer_s)
    after = control.repository.journal.state().alias(model, alias)
    if after is None or after.placement.release != placement.release:
        raise ServerError(
            f"{alias} of {model} moved while it was measured: the figures are of no one release",
            remedy="Measure again while nothing is promoted.",
        )
    hardware = detect()
    result = BenchResult(
        time=began.isoformat(timespec="seconds"),
        model=model,
        alias=alias,
        release=placement.release,
        format=placement.format.value,
        profile=profile.name,
        fingerprint=hardware.fingerprint,
        identity=hardware.identity(),
        hardware=hardware.words(),
        versions=versions(),
        settings=_settings(placement, profile),
        busy_percent=busy,
        duration_s=round(time.monotonic() - begin, 3),
        points=tuple(points.measured),
        memory=tuple(memory),
        stopped=points.stopped,
    )
    if keep:
        kept_results.keep(control.repository, result)
    return result


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


def _points(control: Control, profile: Profile, until: float, *, model: str, alias: str) -> _Points:
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
    if SharedMemory.SYSTEM in profile.shared_memory:
        _require_shared_memory(control)
    urls = {protocol: address(control.endpoint(), protocol) for protocol in profile.protocols}
    return _Points(control, profile, until, served_name(model, alias), named.placement, opened, urls)


def _require_shared_memory(control: Control) -> None:
    """Refuse where the server cannot open memory of this machine: perf_analyzer would fail at each point."""
    memory, client = Regions(), control.client(control.endpoint())
    try:
        if (region := memory.take(1)) is not None:
            client.register_region(region.name, region.size_bytes)
            client.forget_region(region.name)
    except ServerError as error:
        raise UnsupportedError(error.problem, remedy=NEEDED) from error
    finally:
        memory.close()
        client.close()


@dataclass(slots=True)
class _Points:
    """Measures one point after the other, and keeps those that were measured whatever ends it."""

    control: Control
    profile: Profile
    until: float
    served: str
    placement: Placement
    opened: OpenRelease
    urls: Mapping[Protocol, str]
    measured: list[Measurement] = field(default_factory=list)
    stopped: str = ""

    def ask_once(self) -> float:
        """Seconds of one answer, the second of two; the first may have to warm something up."""
        one = {name: array[:1] for name, array in self.opened.golden.observations.items()}
        outputs = tuple(spec.name for spec in self.opened.contract.outputs)
        with self.control.triton() as client:
            client.infer(self.served, one, outputs)
            begin = time.monotonic()
            client.infer(self.served, one, outputs)
            return time.monotonic() - begin

    def measure(self, tool: PerfAnalyzer, answer_s: float) -> None:
        """Measure all of them, or those before something stops it.

        Raises:
            PolicyctlError: Not even the first could be measured.
        """
        profile = self.profile
        known = plan(profile)
        kinds = len(profile.protocols) * len(profile.shared_memory)
        count = len(known) + (0 if profile.rates else len(profile.rate_shares) * kinds)
        limit_s = point_limit_s(profile, answer_s=answer_s)
        try:
            for point in known:
                self._measure_one(tool, point, limit_s, count)
            for point in plan_rates(profile, self._reached()):
                self._measure_one(tool, point, limit_s, count)
        except (PolicyctlError, KeyboardInterrupt) as error:
            if not self.measured:
                raise
            what = error.problem if isinstance(error, PolicyctlError) else INTERRUPTED
            self.stopped = f"{len(self.measured)} of {count} points were measured: {what}"

    def _measure_one(self, tool: PerfAnalyzer, point: Point, limit_s: float, count: int) -> None:
        profile = self.profile
        left_s, needed_s = self.until - time.monotonic(), WINDOWS * profile.interval_ms / 1e3
        if left_s < needed_s and self.measured:
            raise ServerError(f"the time limit of {profile.time_limit_s:g} s left no time for the next")
        limit_s = max(0.1, min(left_s, limit_s))
        load = Load(
            model=self.served,
            url=self.urls[point.protocol],
            point=point,
            warmup_requests=profile.warmup_requests,
            interval_ms=profile.interval_ms,
            time_limit_s=limit_s,
        )
        words = f"Measuring {len(self.measured) + 1} of {count}: {point.describe()}"
        with self.control.working(words, at_most_s=limit_s):
            self.measured.append(tool.measure(load))

    def _reached(self) -> dict[tuple[Protocol, SharedMemory], float]:
        """The closed loop's best requests a second at the first batch size."""
        found: dict[tuple[Protocol, SharedMemory], float] = {}
        for m in self.measured:
            if m.batch_size == self.profile.batches[0] and m.mode is LoadMode.CONCURRENCY:
                kind = (m.protocol, m.shared_memory)
                found[kind] = max(found.get(kind, 0.0), m.requests_per_s)
        return found


def _settings(placement: Placement, profile: Profile) -> dict[str, Any]:
    from policyctl.adapters.pbtxt import options_of

    return {
        **asdict(options_of(placement.config)),
        "interval_ms": profile.interval_ms,
        "warmup_requests": profile.warmup_requests,
    }


def _resident(endpoint: Endpoint, at_s: float) -> MemorySample:
    """Of the server, each of its backend processes, and the control plane that keeps it."""
    if not endpoint.pid:
        raise ServerError("the server is not ours")
    others = {"policyctl serve": endpoint.supervisor_pid} if endpoint.supervisor_pid else {}
    uses = usage(endpoint.pid, others)
    return MemorySample(at_s, {name: round(use.rss_bytes / 1e6, 3) for name, use in uses.items()})
