"""Soaks of the real Triton: an injected leak is found, and a steady server is not called one."""

from __future__ import annotations

import pytest
from embedded import Embedded

from faults import LEAK_BYTES
from policyctl.domain.verdict import Verdict
from policyctl.gates.leak import GrowthLimits
from policyctl.services.control import Control
from policyctl.services.experiments.soak import Plan, Soak, soak
from policyctl.services.rollout.promote import promote
from policyctl.settings import load

pytestmark = pytest.mark.server

PLAN = Plan(duration_s=16, clients=2, limits=GrowthLimits(memory_bytes=10e6))


def soaked(served: Embedded, *, leak_bytes: int) -> Soak:
    serving = {"parameters": {LEAK_BYTES: str(leak_bytes)}} if leak_bytes else {}
    control = Control.of(load(repository=served.root, serving=serving))
    promote(control, model="walker", release="1.0.0", alias="soaked", gates=())
    return soak(control, PLAN, model="walker", alias="soaked")


def test_a_leak_of_50_kb_in_1000_requests_is_found(served: Embedded) -> None:
    """In the backend's process and nowhere else; the incumbent keeps serving."""
    found = soaked(served, leak_bytes=50)
    assert found.result.verdict is Verdict.FAILED, found.result.reason
    assert "walker.soaked_0_0" in found.result.reason
    findings = {(f["name"], f["kind"]): f for f in found.result.evidence["findings"]}
    grown = findings["walker.soaked_0_0", "bytes"]["growth_per_million"]
    # Half of it to twice: 16 s are some 30,000 requests, so the process grows by little more than a megabyte.
    assert 25e6 < grown["slope"] < 100e6
    assert findings["tritonserver", "bytes"]["verdict"] != "failed"
    assert served.answered_by() == "1.0.0"


def test_a_steady_server_is_not_called_leaking(served: Embedded) -> None:
    """So short a soak may not prove that nothing leaks, but it never reports a leak."""
    found = soaked(served, leak_bytes=0)
    assert found.result.verdict in {Verdict.PASSED, Verdict.INCONCLUSIVE}, found.result.reason
    assert found.requests > 1000
