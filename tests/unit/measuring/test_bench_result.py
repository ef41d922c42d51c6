"""A result survives being kept, and says so when it did not."""

from __future__ import annotations

import json

import pytest
from bench_results import result_of, results
from hypothesis import given, settings

from policyctl.errors import UsageError
from policyctl.measuring.result import BenchResult


@settings(max_examples=60)
@given(results)
def test_any_result_survives_the_round_trip(result: BenchResult) -> None:
    """Bytes back to the same bytes, under the same id; also through JSON printed with indents."""
    again = BenchResult.from_bytes(result.to_bytes())
    assert again.to_bytes() == result.to_bytes()
    assert again.id == result.id
    assert BenchResult.from_bytes(json.dumps(result.to_json(), indent=1).encode()).id == result.id


def change(**changes: object) -> bytes:
    return json.dumps({**result_of().to_json(), **changes}).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a benchmark's result"),
        (b"[]", "no schema"),
        (b"[" * 100_000, "not a benchmark's result"),
        (b"\xff\xfe", "not a benchmark's result"),
        (change(schema=2), "schema 2"),
        (change(release="2.0.0"), "was changed"),
        (change(id="0" * 12), "was changed"),
        (change(more=1), "more unknown"),
        (change(busy_percent="much"), "busy_percent"),
        (change(duration_s=float("inf")), "duration_s"),
        (change(points={}), "points"),
        (change(points=[1]), "expected an object"),
        (change(points=[{"protocol": "carrier pigeon", "shared_memory": "none"}]), "carrier pigeon"),
        (change(points=[{"protocol": ["grpc"], "shared_memory": "none"}]), "protocol"),
        (change(memory=[{"at_s": 0.0, "resident_mb": [1]}]), "resident_mb"),
        (change(identity=[]), "identity"),
        (change(time="yesterday"), "time"),
        (change(time="2026-01-31T00:00:00"), "time"),
        (change(model="../walker"), "walker"),
    ],
)
def test_what_is_no_result_is_refused_with_its_reason(content: bytes, words: str) -> None:
    """Whatever the file holds: a refusal of ours, never another error and never a bent value."""
    with pytest.raises(UsageError, match=words):
        BenchResult.from_bytes(content)


def test_a_measurement_within_a_result_is_read_as_strictly() -> None:
    """A count that is a fraction, a mode that does not exist, a figure that is missing."""
    for name, value in (("request_count", 1.5), ("mode", "warp"), ("p50_us", None), ("window_p50_us", "12")):
        document = result_of().to_json()
        document["points"][0][name] = value
        with pytest.raises(UsageError, match=name):
            BenchResult.from_json(document)
