"""The gate `service_level` at its limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policyctl.domain.paired import Burst
from policyctl.domain.verdict import Verdict
from policyctl.errors import UsageError
from policyctl.gates.service_level import ServiceLimits, judge

GOOD = Burst(p50_us=600, p95_us=900, p99_us=2000, throughput_per_s=3000, request_count=500)


def judged(*, latency=(GOOD,) * 3, throughput=(GOOD,) * 3, memory_mb=100.0, limits=None):
    return judge(limits or ServiceLimits(), latency=latency, throughput=throughput, memory_mb=memory_mb)


def test_everything_within_the_limits_passes_and_says_what_was_seen() -> None:
    """The reason names each figure beside its limit; the evidence keeps every burst."""
    found = judged()
    assert found.verdict is Verdict.PASSED
    assert "p99 2.00 to 2.00 ms (limit 50)" in found.reason
    assert len(found.evidence["latency"]) == 3


@pytest.mark.parametrize(
    ("name", "limit", "exact", "within"),
    [
        ("p50_us", "p50_ms", 10_000, 9_999),
        ("p95_us", "p95_ms", 20_000, 19_999),
        ("p99_us", "p99_ms", 50_000, 49_999),
        ("throughput_per_s", "throughput_per_s", 1000, 1000.1),
    ],
)
def test_a_limit_itself_is_beyond(name, limit, exact, within) -> None:
    """Each limit is exclusive, as it is written: less than, more than."""
    for value, verdict in ((exact, Verdict.FAILED), (within, Verdict.PASSED)):
        bursts = (replace(GOOD, **{name: value}),) * 3
        assert judged(latency=bursts, throughput=bursts).verdict is verdict, limit


def test_memory_is_judged_and_not_guessed() -> None:
    """At the limit it fails; where it cannot be seen the gate does not pass."""
    assert judged(memory_mb=1000.0).verdict is Verdict.FAILED
    assert judged(memory_mb=None).verdict is Verdict.INCONCLUSIVE


def test_memory_shared_with_the_server_bounds_an_instance_from_above() -> None:
    """Below the limit the whole server proves that the instance is; above it, nothing is proved."""
    found = judge(ServiceLimits(), latency=(GOOD,) * 3, throughput=(GOOD,) * 3, memory_mb=100.0, memory_shared=True)
    assert found.verdict is Verdict.PASSED
    assert "at most 100 MB" in found.reason
    found = judge(ServiceLimits(), latency=(GOOD,) * 3, throughput=(GOOD,) * 3, memory_mb=1000.0, memory_shared=True)
    assert found.verdict is Verdict.INCONCLUSIVE


def test_no_data_never_passes() -> None:
    """Nothing at all, or one kind of bursts missing, is inconclusive."""
    assert judged(latency=(), throughput=()).verdict is Verdict.INCONCLUSIVE
    assert judged(latency=()).verdict is Verdict.INCONCLUSIVE
    assert judged(throughput=()).verdict is Verdict.INCONCLUSIVE
    assert judged(latency=(GOOD,) * 2).verdict is Verdict.INCONCLUSIVE


def test_a_burst_with_delayed_requests_does_not_count() -> None:
    """Neither for the release nor against it."""
    late = replace(GOOD, delayed_percent=2.0, p99_us=90_000)
    assert judged(latency=(late,) * 9).verdict is Verdict.INCONCLUSIVE
    assert judged(latency=(late, GOOD, late, GOOD, GOOD)).verdict is Verdict.PASSED


def test_one_request_without_an_answer_fails() -> None:
    """Zero errors means zero, whichever burst it was in."""
    assert judged(latency=(GOOD, GOOD, replace(GOOD, failed_requests=1))).verdict is Verdict.FAILED
    assert judged(throughput=(GOOD, GOOD, replace(GOOD, failed_requests=1))).verdict is Verdict.FAILED


def test_bursts_on_both_sides_of_a_limit_are_inconclusive() -> None:
    """One slow burst on a busy machine fails nothing, and proves nothing."""
    found = judged(latency=(GOOD, GOOD, replace(GOOD, p99_us=60_000)))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "p99 2.00 to 60.00 ms" in found.reason


def test_a_model_card_goes_before_the_settings() -> None:
    """It may name any limit; latency is judged at the rate that its throughput needs."""
    limits = ServiceLimits().overridden({"p99_ms": 5, "throughput_per_s": 6400, "batch_size": 64})
    assert (limits.p99_ms, limits.p50_ms, limits.rate) == (5, 10.0, 100.0)
    assert ServiceLimits().overridden(None) == ServiceLimits()


@pytest.mark.parametrize(
    "card", [[], "fast", {"p98_ms": 5}, {"p99_ms": 0}, {"p99_ms": "5"}, {"batch_size": 1.5}, {"p50_ms": True}]
)
def test_a_card_that_cannot_be_used_is_refused(card) -> None:
    """A misspelt limit would be one that nobody keeps."""
    with pytest.raises(UsageError, match="service_level"):
        ServiceLimits().overridden(card)
