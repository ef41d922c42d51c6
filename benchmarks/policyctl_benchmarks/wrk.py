"""Drive wrk, a closed-loop HTTP client that asks any server the same way.

perf_analyzer asks Triton alone; where something else is to be held beside it,
one client has to ask both. wrk keeps its connections open, sends the next
request when the last is answered, and is written in C, so that on a machine
that it shares with the server it takes little of the time that it measures.

A request goes over as raw bytes, so JSON and binary tensors alike can be sent.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from policyctl.errors import ServerError, UnsupportedError
from policyctl_benchmarks.processes import run_bounded

_ANSWER_TIMEOUT_S: Final = 5
_SLACK_S: Final = 10.0
_MARK: Final = "policyctl-result "

_SCRIPT: Final = """
wrk.method = "POST"
local file = io.open(os.getenv("POLICYCTL_WRK_BODY"), "rb")
wrk.body = file:read("*a")
file:close()
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'MARK{"requests": %d, "duration_us": %d, "failed": %d, "p50_us": %d, "p95_us": %d, "p99_us": %d}\\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
""".replace("MARK", _MARK)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    Attributes:
        url: ``http://host:port/path``.
        body: Raw bytes.
        headers: Beside those that wrk sets.
        rows: Observations in it.
    """

    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    rows: int = 1


@dataclass(frozen=True, slots=True)
class WrkResult:
    """What wrk saw.

    Attributes:
        requests: Answered, failed ones among them.
        failed: No connection, broken off, an HTTP status of 400 or more, or no
            answer within five seconds.
        requests_per_s: Answered a second.
        throughput_per_s: Observations answered a second.
        p50_us: Latency, whole microseconds.
        p95_us: See `p50_us`.
        p99_us: See `p50_us`.
    """

    requests: int
    failed: int
    requests_per_s: float
    throughput_per_s: float
    p50_us: float
    p95_us: float
    p99_us: float

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def locate_wrk() -> Path:
    """Where wrk is installed.

    Raises:
        UnsupportedError: Nowhere.
    """
    found = shutil.which("wrk")
    if found is None:
        raise UnsupportedError("wrk is not installed", remedy="Install it: apt install wrk (or dnf, brew).")
    return Path(found)


def run_wrk(request: Request, *, clients: int, seconds: int, binary: Path) -> WrkResult:
    """Ask without pause for `seconds`, on `clients` connections, from one thread.

    Args:
        request: What to ask.
        clients: Connections, each with one request under way.
        seconds: How long; whole ones.
        binary: wrk; see `locate_wrk`.

    Raises:
        ServerError: It did not end in time, could not connect, or a request failed.
    """
    with tempfile.TemporaryDirectory(prefix="policyctl-wrk-") as scratch:
        body, script = Path(scratch) / "body", Path(scratch) / "script.lua"
        body.write_bytes(request.body)
        script.write_text(_SCRIPT)
        words = [str(binary), "-t1", f"-c{clients}", f"-d{seconds}s", f"--timeout={_ANSWER_TIMEOUT_S}s"]
        for name, value in request.headers.items():
            words += ["-H", f"{name}: {value}"]
        finished = run_bounded(
            [*words, "-s", str(script), request.url],
            time_limit_s=seconds + _SLACK_S,
            environment={**os.environ, "POLICYCTL_WRK_BODY": str(body)},
        )
    if finished.timed_out:
        raise ServerError(f"wrk did not end in time at {request.url}; it said last:\n{finished.tail()}")
    return parse(finished.stdout, rows=request.rows, url=request.url, said=finished.tail())


def parse(output: str, *, rows: int, url: str, said: str = "") -> WrkResult:
    """Read what wrk printed.

    Args:
        output: Its standard output.
        rows: Observations a request.
        url: For a message.
        said: For a message.

    Raises:
        ServerError: It measured nothing, or a request failed.
    """
    line = next((line for line in output.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise ServerError(f"wrk measured nothing at {url}; it said last:\n{said}", remedy="Does the server answer?")
    found = json.loads(line.removeprefix(_MARK))
    if found["failed"] or not found["requests"] or not found["duration_us"]:
        raise ServerError(f"{found['failed']} of {found['requests']} requests failed at {url}")
    rate = found["requests"] / (found["duration_us"] / 1e6)
    latencies = {f"p{q}_us": float(found[f"p{q}_us"]) for q in (50, 95, 99)}
    return WrkResult(found["requests"], found["failed"], rate, rate * rows, **latencies)
