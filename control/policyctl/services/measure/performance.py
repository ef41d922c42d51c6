"""The gates that measure: a loaded candidate against limits, and against its incumbent.

`gates` judges and `policyctl.measuring.paired` measures; here the two meet.
While a burst runs the writer lock is set aside, so a rollback or the
supervisor's repair of an alias never waits for a gate. A move of somebody else
meanwhile has removed the candidate, and then the verdict is *error*, as
whenever measuring broke: nothing is judged by halves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from policyctl.card.reading import parse
from policyctl.domain.artifacts import CARD_FILE
from policyctl.domain.journal import RecordKind
from policyctl.domain.json_values import to_json
from policyctl.domain.moves import Placement
from policyctl.domain.names import check_alias
from policyctl.domain.paired import Burst, Metric, Round
from policyctl.domain.protocol import Protocol
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import PolicyctlError, UsageError
from policyctl.gates import non_inferiority, service_level
from policyctl.gates.non_inferiority import ComparisonPlan
from policyctl.gates.service_level import ServiceLimits
from policyctl.measuring.measurement import LoadMode, Point, SharedMemory
from policyctl.measuring.paired import Bursts, rounds
from policyctl.measuring.perf_analyzer import Load, PerfAnalyzer
from policyctl.services.control import Control, OpenRelease, open_release
from policyctl.services.measure.bench import versions
from policyctl.services.moves import contract_change as breaking
from policyctl.services.moves.candidate import Candidate, Check
from policyctl.serving.hardware import detect
from policyctl.serving.memory import SERVER, usage

NAMES: Final = (service_level.NAME, non_inferiority.NAME)
"""Gates that need a measurement, in the order in which they run."""

_INTERVAL_MS: Final = 300
"""Of a window of the service-level gate."""


def checks(control: Control, names: Sequence[str], *, model: str, release: str, alias: str) -> list[tuple[str, Check]]:
    """The gates `names`, to be asked of a loaded candidate.

    `non_inferiority` is left out where the alias names nothing yet: there is
    nothing that the candidate could be worse than.

    Args:
        alias: What it serves is the incumbent.

    Raises:
        UsageError: There is no such release, gate or alias name.
    """
    check_alias(alias)
    control.repository.require()
    state = control.repository.journal.state()
    state.select(model, release)
    if unknown := [name for name in names if name not in NAMES]:
        raise UsageError(
            f"there is no gate {', '.join(unknown)} that measures", remedy=f"Choose from: {', '.join(NAMES)}; or none."
        )
    found: list[tuple[str, Check]] = []
    if service_level.NAME in names:
        found.append((service_level.NAME, whole(service_level.NAME, _service_level)))
    if non_inferiority.NAME in names:
        if state.alias(model, alias) is None:
            control.say(f"Gate {non_inferiority.NAME}: not run, {alias} of {model} names nothing to compare with.")
        else:
            compare = whole(non_inferiority.NAME, lambda candidate: _non_inferiority(candidate, alias))
            found.append((non_inferiority.NAME, compare))
    return found


def plan_of(control: Control) -> ComparisonPlan:
    """What the settings declare for a comparison."""
    chosen = control.settings.gates.non_inferiority
    margins = {Metric.P50: chosen.p50, Metric.P99: chosen.p99, Metric.THROUGHPUT: chosen.throughput}
    return ComparisonPlan(margins, chosen.time_cap_s, chosen.alpha_failed, chosen.alpha_passed)


@contextmanager
def bursts_of(control: Control, opened: OpenRelease, *, interval_ms: int, batch_size: int = 1) -> Iterator[Bursts]:
    """How to ask for a release's own golden observations, for as long as the block runs.

    Raises:
        ServerError: No server is running.
        UnsupportedError: perf_analyzer cannot run here.
    """
    point = Point(Protocol.GRPC, SharedMemory.NONE, batch_size, LoadMode.CONCURRENCY, 1.0)
    url = control.endpoint().grpc
    with PerfAnalyzer.asking(opened.golden) as tool:
        yield Bursts(
            tool, Load(model=opened.published.model, url=url, point=point, warmup_requests=20, interval_ms=interval_ms)
        )


def compare(incumbent: Bursts, candidate: Bursts, plan: ComparisonPlan, *, rng: np.random.Generator) -> GateResult:
    """Measure two served models in turn until one thing or the other is proved, or the time is up.

    Returns:
        The verdict; *error* with what was seen until then, if measuring broke.
    """
    seen: list[Round] = []
    found: GateResult | None = None
    try:
        for each in rounds(incumbent, candidate, time_cap_s=plan.time_cap_s, rng=rng):
            seen.append(each)
            if (found := non_inferiority.judge(seen, plan)) is not None:
                break
    except PolicyctlError as error:
        return _broken(non_inferiority.NAME, error, {"plan": plan.to_json(), "rounds": to_json(seen)})
    found = found or non_inferiority.judge(seen, plan, is_over=True)
    if found is None:
        raise AssertionError("the last look always says something")
    commands = {"incumbent": incumbent.command_line(), "candidate": candidate.command_line()}
    evidence = {**found.evidence, "commands": commands, "clients": int(candidate.load.point.level)}
    return replace(found, evidence={**evidence, "rounds": to_json(seen)})


def whole(name: str, check: Check) -> Check:
    """A check that says *error* where it cannot judge, and adds where and with what it measured."""

    def run(candidate: Candidate) -> GateResult:
        control = candidate.control
        began = datetime.now(UTC).isoformat(timespec="seconds")
        records = len(control.repository.journal.records())
        try:
            words, cap_s = f"Gate {name}: measuring {candidate.ask.served}", _cap_s(control, name)
            with control.repository.writer_aside(), control.working(words, at_most_s=cap_s):
                found = check(candidate)
        except PolicyctlError as error:
            found = _broken(name, error, {})
        if words := _disturbed(candidate, records):
            found = GateResult(name, Verdict.ERROR, words, found.evidence)
        hardware = detect()
        context = {
            "began": began,
            "machine": {"fingerprint": hardware.fingerprint, **hardware.to_json()},
            "versions": versions(),
            "candidate": {
                "release": candidate.published.release,
                "format": candidate.ask.placement.format.value,
                "config": candidate.ask.placement.config,
            },
        }
        return replace(found, evidence={**found.evidence, **context})

    return run


def _cap_s(control: Control, name: str) -> float | None:
    """How long a gate may measure; None where it has no such limit."""
    gates = control.settings.gates
    caps = {service_level.NAME: gates.service_level.time_cap_s, non_inferiority.NAME: gates.non_inferiority.time_cap_s}
    return caps.get(name)


def _broken(name: str, error: PolicyctlError, evidence: dict[str, Any]) -> GateResult:
    return GateResult(name, Verdict.ERROR, f"measuring broke: {error.problem}", {**evidence, "remedy": error.remedy})


def _disturbed(candidate: Candidate, records: int) -> str:
    """Who moved something since there were so many records, in words; empty if nobody did."""
    repository, placement = candidate.control.repository, candidate.ask.placement
    for record in repository.journal.records()[records:]:
        if record.kind is RecordKind.INTENT:
            return f"a {record.body['move_kind']} of {record.body['model']} took precedence; measure again"
    placed = repository.is_configured(candidate.ask.served, placement.config)
    return "" if placed else "the candidate was withdrawn meanwhile; measure again"


def limits_of(control: Control, opened: OpenRelease) -> ServiceLimits:
    """The settings' limits, with those that the release's model card states.

    Raises:
        UsageError: The card's section ``service_level`` cannot be used.
    """
    chosen = control.settings.gates.service_level
    limits = ServiceLimits(**chosen.model_dump(exclude={"time_cap_s"}))
    card = parse(opened.contents[CARD_FILE], what=f"{CARD_FILE} of {opened.published.release}")
    return limits.overridden(card.data.get("service_level"))


def _service_level(candidate: Candidate) -> GateResult:
    control, served = candidate.control, candidate.ask.served
    limits = limits_of(control, candidate.opened)
    until = time.monotonic() + control.settings.gates.service_level.time_cap_s
    latency: list[Burst] = []
    throughput: list[Burst] = []
    with bursts_of(control, candidate.opened, interval_ms=_INTERVAL_MS, batch_size=limits.batch_size) as bursts:
        at_rate, by_clients = bursts.of(served, rate=limits.rate), bursts.of(served, clients=limits.clients)
        while time.monotonic() < until:
            latency.append(at_rate.burst())
            if len(throughput) < service_level.FEWEST_BURSTS:
                throughput.append(by_clients.burst())
            counted = [burst for burst in latency if burst.delayed_percent == 0]
            if len(counted) >= service_level.FEWEST_BURSTS:
                break
        memory_mb, shared = _memory_mb(control, served)
        found = service_level.judge(
            limits, latency=latency, throughput=throughput, memory_mb=memory_mb, memory_shared=shared
        )
        commands = {"latency": at_rate.command_line(), "throughput": by_clients.command_line()}
        return replace(found, evidence={**found.evidence, "commands": commands})


def _memory_mb(control: Control, served: str) -> tuple[float | None, bool]:
    """Of the model's largest process, and whether that is the server's own.

    A native backend runs its instances inside the server. None where the server's processes cannot be seen.
    """
    if found := _processes(control, served):
        return max(found.values()) / 1e6, False
    pid = control.endpoint().pid
    return (usage(pid)[SERVER].rss_bytes / 1e6, True) if pid else (None, False)


def _processes(control: Control, served: str) -> dict[int, int]:
    """Resident bytes of the processes that run `served`, by process id; none where they cannot be seen."""
    pid = control.endpoint().pid
    if not pid:
        return {}
    # An instance is named <model>_<group>_<index>.
    return {use.pid: use.rss_bytes for name, use in usage(pid).items() if name.rsplit("_", 2)[0] == served}


def _asked_as(candidate: Candidate, incumbent: Placement) -> OpenRelease:
    """Whose observations the incumbent is asked: the candidate's, or its own where the contracts exclude each other."""
    if not breaking.is_breaking(breaking.shown_differences(incumbent, candidate.opened.contract)):
        return candidate.opened
    published = candidate.state.release(candidate.published.model, incumbent.release)
    return open_release(candidate.control.repository, published)


def _non_inferiority(candidate: Candidate, alias: str) -> GateResult:
    control = candidate.control
    incumbent = candidate.incumbent(alias)
    if incumbent is None:
        return GateResult(non_inferiority.NAME, Verdict.INCONCLUSIVE, f"{alias} names nothing to compare with")
    chosen = control.settings.gates.non_inferiority
    seed = chosen.seed if chosen.seed is not None else time.time_ns() % (1 << 32)
    both = (incumbent.served, candidate.ask.served)
    before = {served: _processes(control, served).keys() for served in both}
    with ExitStack() as stack:
        bursts, bursts_before = (
            stack.enter_context(bursts_of(control, opened, interval_ms=chosen.interval_ms))
            for opened in (candidate.opened, _asked_as(candidate, incumbent.placement))
        )
        found = compare(
            bursts_before.of(incumbent.served, clients=chosen.clients),
            bursts.of(candidate.ask.served, clients=chosen.clients),
            plan_of(control),
            rng=np.random.default_rng(seed),
        )
    for served in both:
        # A burst may outlast a process that died and was replaced, and would then seem to be only slow.
        now = _processes(control, served).keys()
        if now - before[served] or (before[served] and not now):
            words = f"measuring broke: the process of {served} died or was replaced meanwhile"
            found = replace(found, verdict=Verdict.ERROR, reason=words)
    origin = {
        "served": incumbent.served,
        "release": incumbent.placement.release,
        "format": incumbent.placement.format.value,
        "config": incumbent.placement.config,
    }
    return replace(found, evidence={**found.evidence, "incumbent": origin, "seed": seed})
