"""Soak: keep a load on a served alias for long, and watch what the server's processes hold.

perf_analyzer asks in bursts of a few seconds, one after the other, so that
each has its own time limit and latency, and a server that dies or
stops ends the soak with an error instead of a wait. Meanwhile, if asked for, a
candidate is loaded next to the alias and withdrawn again, and the alias is moved
to another release and back. `gates.leak` judges.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from policyctl import claims
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.triton import Triton
from policyctl.client import regions
from policyctl.domain.json_values import to_json
from policyctl.domain.names import served_name
from policyctl.domain.paired import Burst
from policyctl.domain.state import PublishedRelease
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import PolicyctlError, ServerError, UsageError
from policyctl.gates import leak
from policyctl.gates.leak import GrowthLimits, Series, SeriesKind
from policyctl.measuring.memory_trace import sampled
from policyctl.services.control import Control, OpenRelease, open_release
from policyctl.services.evidence import record_gate
from policyctl.services.measure.bench import versions
from policyctl.services.measure.performance import bursts_of
from policyctl.services.moves.candidate import loaded
from policyctl.services.moves.measurement_lock import measuring
from policyctl.services.moves.validate import place
from policyctl.services.rollout.promote import promote
from policyctl.serving.hardware import detect
from policyctl.serving.memory import ProcessUse, shared_bytes, usage
from policyctl.serving.shared_memory import prefix_base

SUPERVISOR: Final = "policyctl serve"
SHARED: Final = "/dev/shm"  # noqa: S108 - what a series is called
_WINDOW_MS: Final = 1000
_MOST_SAMPLES: Final = 4000
_FEWEST_SAMPLES: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, for how long, and what counts as growth.

    Attributes:
        clients: Each waits for its answer.
        reload_every_s: A candidate is loaded and withdrawn this often; None for never.
        move_to: A release to which the alias is moved and back; None for no moves.
    """

    duration_s: float
    clients: int = 4
    batch_size: int = 1
    reload_every_s: float | None = None
    move_to: str | None = None
    move_every_s: float = 60.0
    limits: GrowthLimits = field(default_factory=GrowthLimits)

    def __post_init__(self) -> None:
        if self.duration_s < 10:
            raise UsageError(f"a soak of {self.duration_s:g} s shows nothing", remedy="Give it minutes: --for 10m.")


@dataclass(frozen=True, slots=True)
class Sample:
    """What everything held at one time.

    Attributes:
        shared_bytes: In ``/dev/shm``, of this server and its clients.
    """

    at_s: float
    requests: int
    processes: dict[str, ProcessUse]
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Soak:
    """What a soak saw."""

    published: PublishedRelease
    alias: str
    plan: Plan
    result: GateResult
    samples: tuple[Sample, ...]
    reloads: int
    moves: int
    duration_s: float

    @property
    def requests(self) -> int:
        """Answered in all."""
        return self.samples[-1].requests if self.samples else 0

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        hardware = detect()
        return {
            "model": self.published.model,
            "release": self.published.release,
            "alias": self.alias,
            "plan": asdict(self.plan),
            "requests": self.requests,
            "reloads": self.reloads,
            "moves": self.moves,
            "duration_s": self.duration_s,
            "machine": {"fingerprint": hardware.fingerprint, "words": hardware.words()},
            "versions": versions(),
            "result": to_json(self.result),
            "samples": to_json(self.samples),
        }


def soak(control: Control, plan: Plan, *, model: str, alias: str) -> Soak:
    """Load a served alias and judge what grows.

    It takes the plan's duration and the time limit of one burst at most. The
    alias ends where it began.

    Raises:
        UsageError: The alias, or a release, is not there.
        ServerError: No server, or one whose processes cannot be seen.
        BusyError: Another process measures.
        UnsupportedError: perf_analyzer cannot run here.
    """
    control.repository.require()
    state = control.repository.journal.state()
    named = state.named(model, alias)
    if plan.move_to is not None:
        state.select(model, plan.move_to)
    opened = open_release(control.repository, state.release(model, named.placement.release))
    endpoint = control.endpoint()
    if not endpoint.pid:
        raise ServerError(
            "the processes of a server that somebody else runs cannot be watched",
            remedy="Soak the embedded one: policyctl serve.",
        )
    begun, began = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    with measuring(control, f"soak {model}"):
        seen = _Soaking(control, plan, opened, alias, endpoint)
        seen.run()
    result = leak.judge(series_of(seen.samples, seen.bursts, seen.served), plan.limits)
    if seen.failure is not None:
        result = GateResult(leak.NAME, Verdict.ERROR, f"the soak broke: {seen.failure.problem}", result.evidence)
    evidence = {**result.evidence, "began": began, "plan": asdict(plan), "requests": seen.requests}
    result = replace(result, evidence={**evidence, "samples": to_json(seen.samples)})
    with control.repository.writer(f"soak {model}", wait_s=30.0):
        record_gate(control, opened.published, result)
    duration_s = round(time.monotonic() - begun, 1)
    counts = (seen.reloads, seen.moves)
    return Soak(opened.published, alias, plan, result, tuple(seen.samples), *counts, duration_s)


def series_of(samples: Sequence[Sample], bursts: Sequence[tuple[float, Burst]], served: str) -> list[Series]:
    """What is judged: each process that lived through most of it, shared memory, and the latency.

    Args:
        bursts: Each with the requests answered when it ended.
        served: Instances of this Triton model are judged in any case: one that
            was replaced too often to be judged is inconclusive, not left out.
    """
    found: list[Series] = []
    names = sorted({name for sample in samples for name in sample.processes})
    for name in names:
        mine = _longest_life([(s.requests, s.processes[name]) for s in samples if name in s.processes])
        if len(mine) < len(samples) / 2 and not _is_instance(name, served):
            continue
        requests = [float(at) for at, _ in mine]
        found.append(Series(name, SeriesKind.MEMORY, requests, [float(use.own_bytes) for _, use in mine]))
        found.append(Series(name, SeriesKind.DESCRIPTORS, requests, [float(use.descriptors) for _, use in mine]))
    if samples:
        all_requests = [float(s.requests) for s in samples]
        found.append(Series(SHARED, SeriesKind.SHARED_MEMORY, all_requests, [float(s.shared_bytes) for s in samples]))
    if bursts:
        found.append(_latency(bursts))
    return found


def _latency(bursts: Sequence[tuple[float, Burst]]) -> Series:
    """The median latency of each window; a burst's windows share its requests."""
    requests: list[float] = []
    values: list[float] = []
    before = 0.0
    for at, burst in bursts:
        windows = burst.window_p50_us or (burst.p50_us,)
        requests += [before + (at - before) * (index + 1) / len(windows) for index in range(len(windows))]
        values += windows
        before = at
    return Series("p50", SeriesKind.LATENCY, requests, values)


@dataclass(slots=True)
class _Soaking:
    """A soak under way, and what it has collected; samples and actions come from other threads."""

    control: Control
    plan: Plan
    opened: OpenRelease
    alias: str
    endpoint: Endpoint
    samples: list[Sample] = field(default_factory=list)
    bursts: list[tuple[float, Burst]] = field(default_factory=list)
    requests: int = 0
    reloads: int = 0
    moves: int = 0
    failure: PolicyctlError | None = None
    _counted: int = 0

    @property
    def served(self) -> str:
        """The Triton model under load."""
        return served_name(self.opened.published.model, self.alias)

    def run(self) -> None:
        """Load the server until the time is up, or something breaks."""
        control, plan = self.control, self.plan
        until = time.monotonic() + plan.duration_s
        actions: list[tuple[float, Callable[[], None]]] = []
        if plan.reload_every_s is not None:
            actions.append((plan.reload_every_s, self._reload))
        if plan.move_to is not None:
            actions.append((plan.move_every_s, self._move_and_back))
        every_s = min(1.0, plan.duration_s / _FEWEST_SAMPLES)
        client = Triton(self.endpoint, timeout_s=2.0)
        with contextlib.suppress(ServerError):
            self._counted = client.answered(self.served)  # Those before the soak do not count.
        try:
            with (
                contextlib.closing(client),
                bursts_of(control, self.opened, interval_ms=_WINDOW_MS, batch_size=plan.batch_size) as bursts,
                sampled(lambda at_s: self._look(client, at_s), every_s=every_s, most=_MOST_SAMPLES) as self.samples,
                self._repeating(actions),
                control.working(f"Keeping {self.served} under load", at_most_s=plan.duration_s) as note,
            ):
                asked = bursts.of(self.served, clients=plan.clients)
                while time.monotonic() < until and self.failure is None:
                    burst = asked.burst()
                    self.bursts.append((float(self.requests), burst))
                    note(f"{self.requests} requests")
        except PolicyctlError as error:
            self.failure = error

    @contextlib.contextmanager
    def _repeating(self, actions: Sequence[tuple[float, Callable[[], None]]]) -> Iterator[None]:
        """Do each action again and again while the block runs, and keep what breaks."""
        done = threading.Event()

        def repeat(seconds: float, action: Callable[[], None]) -> None:
            while not done.wait(seconds):
                try:
                    action()
                except PolicyctlError as error:
                    self.failure = self.failure or error
                    return

        threads = [threading.Thread(target=repeat, args=each, daemon=True) for each in actions]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            done.set()
            for thread in threads:
                thread.join()

    def _look(self, client: Triton, at_s: float) -> Sample:
        now = client.answered(self.served)
        # A load begins to count again at zero.
        self.requests += now - self._counted if now >= self._counted else now
        self._counted = now
        prefixes = (prefix_base(self.control.repository.root), regions.PREFIX)
        others = {SUPERVISOR: self.endpoint.supervisor_pid} if self.endpoint.supervisor_pid else {}
        uses = usage(self.endpoint.pid, others)
        return Sample(at_s, self.requests, uses, shared_bytes(claims.FOLDER, prefixes))

    def _reload(self) -> None:
        """Load the release once more, as a candidate, and withdraw it."""
        control, opened = self.control, self.opened
        with control.repository.writer("soak: a reload", wait_s=30.0), control.triton() as client:
            state = control.repository.journal.state()
            with loaded(control, client, state, opened, place(control, state, opened, None)):
                self.reloads += 1

    def _move_and_back(self) -> None:
        """There and back, so that the alias ends where it began whenever the soak does."""
        model, release = self.opened.published.model, self.opened.published.release
        for to in (self.plan.move_to or release, release):
            moved = promote(
                self.control, model=model, release=to, alias=self.alias, reason="soak", gates=(), bake=False
            )
            self.moves += moved.changed


def _longest_life(uses: Sequence[tuple[int, ProcessUse]]) -> list[tuple[int, ProcessUse]]:
    """The longest run of samples of one process."""
    best: list[tuple[int, ProcessUse]] = []
    current: list[tuple[int, ProcessUse]] = []
    for each in uses:
        current = [*current, each] if current and current[-1][1].pid == each[1].pid else [each]
        best = current if len(current) > len(best) else best
    return best


def _is_instance(process: str, served: str) -> bool:
    """Whether a process runs an instance of `served` itself, not of its candidate or another alias."""
    # Triton names an instance by the model, the group and its number.
    return process.rsplit("_", 2)[0] == served
