"""The gates that measure, on the real Triton: each verdict, and what becomes of the incumbent."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import psutil
import pytest
from embedded import Embedded, wait_for
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from faults import SPIN_US
from policyctl.domain.manifest import digest_of
from policyctl.domain.names import PRODUCTION
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import GateError
from policyctl.services.control import Control, open_release
from policyctl.services.measure.performance import bursts_of, checks, compare, plan_of
from policyctl.services.moves.candidate import loaded
from policyctl.services.moves.validate import place, validate
from policyctl.services.rollout.promote import promote
from policyctl.serving.memory import instance_of
from policyctl.settings import load

pytestmark = pytest.mark.server

CAP_S = 14.0
PROOF_S = 60.0
"""A verdict ends a comparison before this, so a busy machine has the time to come to it."""
BUSY_S = 60.0
"""For all that is not measuring, on a busy machine too."""


def control_of(
    served: Embedded, *, spin_us: int = 0, cap_s: float = CAP_S, say: Callable[[str], None] = lambda _: None, **level
) -> Control:
    """The control plane with a short time cap; what it loads is slower by `spin_us`."""
    gates = {"non_inferiority": {"time_cap_s": cap_s, "interval_ms": 60}, "service_level": level}
    serving = {"parameters": {SPIN_US: str(spin_us)}} if spin_us else {}
    return Control.of(load(repository=served.root, gates=gates, serving=serving), say)


def judged(control: Control, gate: str = "non_inferiority") -> GateResult:
    """What one gate says of release 1.1.0."""
    asked = checks(control, [gate], model="walker", release="1.1.0", alias=PRODUCTION)
    (*_, last) = validate(control, model="walker", release="1.1.0", checks=asked)
    assert last.gate == gate
    return last


def when_measuring(do: Callable[[], object], *, after_s: float = 1.0) -> Callable[[str], None]:
    """Something that happens a moment after a gate has begun to measure."""

    def say(words: str) -> None:
        if words.endswith("measuring walker.candidate ..."):
            threading.Timer(after_s, do).start()

    return say


def still_serves(served: Embedded) -> None:
    """Production is answered by 1.0.0, at once or as soon as the supervisor has repaired it."""
    wait_for(lambda: served.run("status", "--check", check=False).returncode == 0, every_s=0.5)
    assert served.answered_by() == "1.0.0"
    assert not (served.root / "walker.candidate").exists()


def test_a_slow_down_by_more_than_half_fails_and_its_evidence_can_be_checked(served) -> None:
    """Verdict, margins, bursts, command and machine stand in a file whose digest the journal has."""
    result = judged(control_of(served, spin_us=1000, cap_s=PROOF_S))
    assert result.verdict is Verdict.FAILED, result.reason
    assert "p50 +" in result.reason
    (*_, record) = served.json("history", "walker")
    content = (served.root / ".policyctl" / record["evidence"]).read_bytes()
    assert (record["verdict"], record["evidence_digest"]) == ("failed", digest_of(content))
    assert {"plan", "looks", "rounds", "commands", "machine", "versions", "incumbent", "seed"} <= result.evidence.keys()
    assert result.evidence["commands"]["candidate"][:3] == ["perf_analyzer", "-m", "walker.candidate"]
    still_serves(served)


def test_a_promotion_that_asks_for_the_gate_is_refused_and_changes_nothing(served) -> None:
    """A failed gate ends it before anything moves; an ordinary promotion asks no such gate."""
    before = len(served.json("history"))
    with pytest.raises(GateError, match="non_inferiority failed"):
        promote(
            control_of(served, spin_us=1000, cap_s=PROOF_S),
            model="walker",
            release="1.1.0",
            alias=PRODUCTION,
            gates=["non_inferiority"],
        )
    assert "intent" not in {r["kind"] for r in served.json("history")[before:]}
    still_serves(served)


def test_a_release_is_not_failed_against_itself(served) -> None:
    """Two loads of one policy: passed, or on a busy machine inconclusive."""
    result = judged(control_of(served))
    assert result.verdict in {Verdict.PASSED, Verdict.INCONCLUSIVE}, result.reason
    still_serves(served)


def test_without_enough_data_nothing_passes(served) -> None:
    """A time cap that ends before there is enough to judge by is inconclusive, for both gates."""
    assert judged(control_of(served, cap_s=0.5)).verdict is Verdict.INCONCLUSIVE
    assert judged(control_of(served, time_cap_s=0.01), "service_level").verdict is Verdict.INCONCLUSIVE
    still_serves(served)


def test_a_rate_that_is_not_reached_is_no_data(served) -> None:
    """Every burst has delayed requests, so none counts, and no latency is judged."""
    control = control_of(served, request_rate=200_000.0, throughput_per_s=1.0, time_cap_s=3.0)
    result = judged(control, "service_level")
    assert result.verdict is Verdict.INCONCLUSIVE, result.reason
    assert "held 200000 requests/s" in result.reason


def test_limits_are_kept_or_not(served) -> None:
    """Loose limits pass, with figures of latency, throughput and memory; a limit of a microsecond fails."""
    loose = {"p50_ms": 500, "p95_ms": 500, "p99_ms": 900, "throughput_per_s": 5, "request_rate": 20}
    result = judged(control_of(served, **loose), "service_level")
    assert result.verdict is Verdict.PASSED, result.reason
    assert 10 < result.evidence["memory_mb"] < 1000
    result = judged(control_of(served, **{**loose, "p50_ms": 0.001}), "service_level")
    assert result.verdict is Verdict.FAILED
    still_serves(served)


def test_a_dead_incumbent_is_an_error_and_is_repaired(served) -> None:
    """Its process is killed while it is measured: no verdict on the candidate, and the supervisor loads it again."""

    def kill() -> None:
        for child in psutil.Process(served.endpoint["pid"]).children(recursive=True):
            if instance_of(child.cmdline()).startswith("walker_"):
                child.kill()

    began = time.monotonic()
    result = judged(control_of(served, say=when_measuring(kill)))
    assert result.verdict is Verdict.ERROR, result.reason
    assert time.monotonic() - began < CAP_S + BUSY_S
    still_serves(served)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_server_that_stops_or_dies_ends_the_gate_in_time(served, number) -> None:
    """Stopped or killed, it is an error within the time cap and the limit of one burst."""
    pid = served.endpoint["pid"]
    began = time.monotonic()
    try:
        result = judged(control_of(served, say=when_measuring(lambda: os.kill(pid, number))))
        assert time.monotonic() - began < CAP_S + BUSY_S
        assert result.verdict is Verdict.ERROR, result.reason
    finally:
        if number is signal.SIGSTOP and psutil.pid_exists(pid):
            os.kill(pid, signal.SIGCONT)
    wait_for(lambda: served.run("status", "--check", check=False).returncode == 0, every_s=0.5)
    assert served.answered_by() == "1.0.0"


def test_a_full_queue_is_an_error(served) -> None:
    """Requests that the server turns away are no measurement."""
    control = control_of(served, spin_us=20_000)
    with control.repository.writer("test"), control.triton() as client:
        state = control.repository.journal.state()
        opened = open_release(control.repository, state.release("walker", "1.1.0"))
        placement = place(control, state, opened, None)
        config = text_format.Parse(placement.config, model_config_pb2.ModelConfig())
        config.dynamic_batching.default_queue_policy.max_queue_size = 1
        config.max_batch_size = 1
        short = replace(placement, config=text_format.MessageToString(config))
        with (
            loaded(control, client, state, opened, short) as candidate,
            bursts_of(control, opened, interval_ms=60) as bursts,
        ):
            result = compare(
                bursts.of("walker", clients=12),
                bursts.of(candidate.ask.served, clients=12),
                plan_of(control),
                rng=np.random.default_rng(0),
            )
    assert result.verdict is Verdict.ERROR, result.reason
    assert "queue size" in result.reason
    still_serves(served)


def test_a_rollback_never_waits_for_a_gate(served) -> None:
    """It is carried out while the gate measures, and the gate says that it was disturbed."""
    served.run("promote", "walker", "1.1.0", "--alias", "staging")
    served.run("promote", "walker", "1.0.0", "--alias", "staging")
    took: list[float] = []

    def roll_back() -> None:
        began = time.monotonic()
        served.run("rollback", "walker", "--alias", "staging")
        took.append(time.monotonic() - began)

    result = judged(control_of(served, cap_s=10 * PROOF_S, say=when_measuring(roll_back)))
    assert result.verdict is Verdict.ERROR
    assert "a rollback of walker took precedence" in result.reason
    wait_for(lambda: took)
    assert took[0] < PROOF_S
    assert served.answered_by("staging") == "1.1.0"
    still_serves(served)
