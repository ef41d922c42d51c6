"""What `policyctl demo` prints at its end."""

from __future__ import annotations

import json

from policyctl.cli.call import Call
from policyctl.cli.demo import _show
from policyctl.demo.job import DemoResult, MoveUnderLoad
from policyctl.measuring.load_records import Request, report

REQUESTS = [
    Request(start_ns=0, end_ns=2_000_000, slot=1, release="1.0.0", checked=True),
    Request(start_ns=0, end_ns=4_000_000, slot=2, release="1.1.0", checked=True, wrong=True),
    Request(start_ns=0, end_ns=1_000_000, error="deadline: late"),
]
POINT = dict.fromkeys(
    ("level", "p50_us", "p95_us", "p99_us", "throughput_per_s", "request_count", "failed_requests"), 7
)
RESULT = DemoResult(
    moves=(MoveUnderLoad("promotion to 1.1.0", report(REQUESTS), 12.4, 99.6),),
    bench=[POINT],
    returns={"1.0.0": {"mean": 184.3, "low": 165.9, "high": 212.7}},
    verified=4,
    took_s=74.0,
)


def test_a_lost_and_a_wrong_request_both_count_as_bad() -> None:
    """The demo ends with an error where there is one."""
    assert RESULT.bad == 2


def test_the_result_is_a_table_of_moves_and_one_of_latencies(capsys) -> None:
    """Requests, failures and times stand under their names; returns are said with their interval."""
    _show(Call(), RESULT)
    out, err = capsys.readouterr()
    row = next(line for line in out.splitlines() if line.startswith("promotion to 1.1.0"))
    assert row.split()[3:6] == ["3", "1", "1"]
    assert row.split()[-2:] == ["12", "100"]
    assert "perf_analyzer, gRPC, batch 1" in out
    assert "release 1.0.0 earned 184.3 (165.9 .. 212.7)" in err


def test_with_json_the_result_is_one_document(capsys) -> None:
    """It has what the tables show."""
    _show(Call(as_json=True, quiet=True), RESULT)
    document = json.loads(capsys.readouterr().out)
    (move,) = document["moves"]
    assert (move["load"]["requests"], move["load"]["failed"], move["load"]["wrong"]) == (3, 1, 1)
    assert document["returns"]["1.0.0"]["mean"] == 184.3
