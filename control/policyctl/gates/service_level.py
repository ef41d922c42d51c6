"""Gate `service_level`: absolute limits that a release keeps on this machine, whatever it replaces.

Latency is judged at a request rate (an open loop): with clients that wait for
an answer before they ask again, a slow server is asked less, and its queue
never shows. A burst in which requests began late did not hold its rate, so its
latencies mean little, and it does not count.

Each burst that counts is held against the limits by itself. All of them within
is *passed*, all of them beyond one and the same limit is *failed*, and anything
between is *inconclusive*. No burst that counts is *inconclusive* too: a gate
without data never passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.paired import Burst
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import UsageError

NAME: Final = "service_level"

FEWEST_BURSTS: Final = 3
"""Of each kind, that count."""


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What a release must keep; all of them exclusive.

    Attributes:
        throughput_per_s: Fewest observations answered a second.
        memory_mb: Most resident memory of one model instance.
        request_rate: Requests a second at which latency is judged; 0 takes
            what the throughput comes to at this batch size.
        clients: Requests under way while throughput is judged.
    """

    p50_ms: float = 10.0
    p95_ms: float = 20.0
    p99_ms: float = 50.0
    throughput_per_s: float = 1000.0
    memory_mb: float = 1000.0
    batch_size: int = 1
    request_rate: float = 0.0
    clients: int = 8

    @property
    def rate(self) -> float:
        """Requests a second at which latency is judged."""
        return self.request_rate or self.throughput_per_s / self.batch_size

    def overridden(self, card: object) -> ServiceLimits:
        """These limits, with those that a model card's section ``service_level`` states.

        Args:
            card: The section as it was read; None where the card has none.

        Raises:
            UsageError: It is not a mapping of these names to positive numbers.
        """
        if card is None:
            return self
        where = "the model card's service_level"
        if not isinstance(card, Mapping):
            names = ", ".join(to_json(self))
            raise UsageError(f"{where} is {card!r}", remedy=f"It maps names to numbers; the names are {names}.")
        stated = from_json(ServiceLimits, {**to_json(self), **card}, what=where)
        if wrong := [name for name in card if not getattr(stated, name) > 0]:
            raise UsageError(f"{where} has {wrong[0]} {card[wrong[0]]!r}, expected a number above 0")
        return stated


def judge(
    limits: ServiceLimits,
    *,
    latency: Sequence[Burst],
    throughput: Sequence[Burst],
    memory_mb: float | None,
    memory_shared: bool = False,
) -> GateResult:
    """Hold what was measured against `limits`.

    Args:
        latency: Bursts at the limits' request rate; those with delayed requests do not count.
        throughput: Bursts of a closed loop with the limits' clients.
        memory_mb: Of the largest instance; None where it is not known.
        memory_shared: It is that of a process which the instance shares with the server and
            other models, so the instance holds that much at most.
    """
    counted = [burst for burst in latency if burst.delayed_percent == 0]
    evidence = {
        "limits": {**to_json(limits), "rate": limits.rate},
        "latency": to_json(latency),
        "throughput": to_json(throughput),
        "memory_mb": memory_mb,
        "memory_shared": memory_shared,
    }
    lost = sum(burst.failed_requests for burst in (*latency, *throughput))
    if lost:
        return GateResult(NAME, Verdict.FAILED, f"{lost} requests were not answered, the limit is 0", evidence)
    seen = _against(limits, counted, throughput, memory_mb, memory_shared)
    if beyond := [words for words, verdict in seen if verdict is Verdict.FAILED]:
        return GateResult(NAME, Verdict.FAILED, "; ".join(beyond), evidence)
    missing = _missing(limits, latency, counted, throughput, memory_mb)
    if missing:
        remedy = "See what is missing; a limit of the model card or of POLICYCTL_GATES__SERVICE_LEVEL__... can be set."
        return GateResult(NAME, Verdict.INCONCLUSIVE, missing, {**evidence, "remedy": remedy})
    if unclear := [words for words, verdict in seen if verdict is Verdict.INCONCLUSIVE]:
        remedy = "Try again when the machine is quieter."
        return GateResult(NAME, Verdict.INCONCLUSIVE, "; ".join(unclear), {**evidence, "remedy": remedy})
    return GateResult(NAME, Verdict.PASSED, "; ".join(words for words, _ in seen), evidence)


def _against(
    limits: ServiceLimits,
    latency: Sequence[Burst],
    throughput: Sequence[Burst],
    memory_mb: float | None,
    memory_shared: bool,
) -> list[tuple[str, Verdict]]:
    """Each limit for which there is data: in words, and what was found."""
    found = []
    if len(latency) >= FEWEST_BURSTS:
        for name, limit_ms, values_us in (
            ("p50", limits.p50_ms, [b.p50_us for b in latency]),
            ("p95", limits.p95_ms, [b.p95_us for b in latency]),
            ("p99", limits.p99_ms, [b.p99_us for b in latency]),
        ):
            low, high = min(values_us) / 1e3, max(values_us) / 1e3
            words = f"{name} {low:.2f} to {high:.2f} ms (limit {limit_ms:g})"
            found.append((words, _verdict(high < limit_ms, low >= limit_ms)))
    if len(throughput) >= FEWEST_BURSTS:
        values = [b.throughput_per_s for b in throughput]
        low, high, limit = min(values), max(values), limits.throughput_per_s
        words = f"{low:.0f} to {high:.0f} inferences/s (limit {limit:g})"
        found.append((words, _verdict(low > limit, high <= limit)))
    if memory_mb is not None:
        most = "at most " if memory_shared else ""
        words = f"{most}{memory_mb:.0f} MB an instance (limit {limits.memory_mb:g})"
        within = memory_mb < limits.memory_mb
        found.append((words, _verdict(within, not within and not memory_shared)))
    return found


def _verdict(within: bool, beyond: bool) -> Verdict:
    return Verdict.PASSED if within else Verdict.FAILED if beyond else Verdict.INCONCLUSIVE


def _missing(
    limits: ServiceLimits,
    latency: Sequence[Burst],
    counted: Sequence[Burst],
    throughput: Sequence[Burst],
    memory_mb: float | None,
) -> str:
    """What is not there to judge by; empty where everything is."""
    if len(counted) < FEWEST_BURSTS:
        return (
            f"latency: {len(counted)} of {len(latency)} bursts held {limits.rate:g} requests/s,"
            f" {FEWEST_BURSTS} are needed"
        )
    if len(throughput) < FEWEST_BURSTS:
        return f"throughput: {len(throughput)} bursts, {FEWEST_BURSTS} are needed"
    return "memory: no process of the model can be seen" if memory_mb is None else ""
