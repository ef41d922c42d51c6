"""How long a server took for a question: by the answer itself, or by two readings of its counters."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from policyctl.client.action import ServerTiming, TimingSource
from policyctl.client.calls import COMPUTE_US, QUEUE_US, Answer, Call, Counters, FetchCounters
from policyctl.client.errors import NotServedError
from policyctl.client.served import Memory, Served

_COUNTER_READINGS: Final = 5


def counters_before(memory: Memory, served: Served) -> Generator[Call, Any, tuple[int, Counters] | None]:
    """The counters before a question, with the slot that they are of; None where nothing needs them."""
    if memory.answers_tell_timing:
        return None
    slot = next((s for s, release in served.releases.items() if release == served.release), None)
    if slot is None:
        return None
    # Triton counts a request a moment after it has sent the answer, so the last
    # one may still be on its way into the counters: read until they rest.
    last: Counters | None = None
    try:
        for _ in range(_COUNTER_READINGS):
            counters: Counters = yield FetchCounters(slot)
            if counters == last:
                break
            last = counters
    except NotServedError:
        return None
    return slot, counters


def server_timing(
    memory: Memory, before: tuple[int, Counters] | None, answer: Answer
) -> Generator[Call, Any, ServerTiming | None]:
    """How long the server took for `answer`; None where that is unknown."""
    if (compute_us := answer.parameters.get(COMPUTE_US)) is not None:
        memory.answers_tell_timing = True
        queue_us = answer.parameters.get(QUEUE_US)
        return ServerTiming(
            queue_us=None if queue_us is None else float(queue_us),
            compute_us=float(compute_us),
            requests=1,
            source=TimingSource.RESPONSE,
        )
    if before is None or before[0] != answer.slot:
        return None
    # For the same reason: look again until this one is counted.
    for _ in range(_COUNTER_READINGS):
        try:
            after: Counters = yield FetchCounters(answer.slot)
        except NotServedError:
            return None
        if timing := mean_between(before[1], after):
            return timing
    return None


def mean_between(before: Counters, after: Counters) -> ServerTiming | None:
    """Mean times of the requests that ended between two readings; None if none did."""
    requests = after.requests - before.requests
    if requests <= 0:
        return None
    return ServerTiming(
        queue_us=(after.queue_ns - before.queue_ns) / requests / 1e3,
        compute_us=(after.compute_ns - before.compute_ns) / requests / 1e3,
        requests=requests,
        source=TimingSource.STATISTICS,
    )
