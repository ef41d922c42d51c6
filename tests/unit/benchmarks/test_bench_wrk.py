"""What wrk printed, and that nothing that failed is taken for a measurement."""

from __future__ import annotations

import json

import pytest

from policyctl.errors import ServerError
from policyctl_benchmarks.wrk import parse

FACTS = {"requests": 4000, "duration_us": 2_000_000, "failed": 0, "p50_us": 240, "p95_us": 300, "p99_us": 400}


def output(**changes: int) -> str:
    return f"Running 2s test\n  some words\npolicyctl-result {json.dumps({**FACTS, **changes})}\n"


def test_rates_follow_from_what_was_answered_and_the_batch() -> None:
    """Requests a second, and observations a second."""
    found = parse(output(), rows=64, url="http://x")
    assert (found.requests_per_s, found.throughput_per_s) == (2000.0, 128_000.0)
    assert (found.p50_us, found.p95_us, found.p99_us) == (240.0, 300.0, 400.0)


@pytest.mark.parametrize(
    "said", ["", "unable to connect", output(failed=1), output(requests=0), output(duration_us=0)], ids=range(5)
)
def test_a_failed_request_is_no_measurement(said: str) -> None:
    """One of four thousand is enough, and so is silence."""
    with pytest.raises(ServerError, match="http://x"):
        parse(said, rows=1, url="http://x")
