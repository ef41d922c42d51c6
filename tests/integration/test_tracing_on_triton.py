"""OpenTelemetry from the real Triton: the same ids, the caller's trace, and no recording meanwhile."""

from __future__ import annotations

import pytest
from embedded import PATIENCE_S, embedded, needs_guard, wait_for
from otlp_receiver import otlp_receiver

from policyctl.client import PolicyClient

pytestmark = [pytest.mark.server, needs_guard]

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_spans_carry_the_request_id_and_join_the_callers_trace(tmp_path, monkeypatch) -> None:
    """By either protocol, in JSON over HTTP; where only brought contexts are traced, nothing else is."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "300")
    with otlp_receiver() as receiver, embedded(tmp_path / "w") as server:
        monkeypatch.setenv("POLICYCTL_TRACING__ENDPOINT", receiver.url)
        monkeypatch.setenv("POLICYCTL_TRACING__RATE", "0")
        monkeypatch.setenv("POLICYCTL_TRACING__SERVICE", "robots")
        server.publish("1.0.0", 1)
        server.start()
        server.run("promote", "walker", "1.0.0")
        for protocol in ("grpc", "http"):
            with PolicyClient(
                "walker", url=server.endpoint[protocol], protocol=protocol, deadline_s=PATIENCE_S
            ) as client:
                client.act([0.0] * 4, request_id=f"unasked-{protocol}")
                client.act([0.0] * 4, request_id=f"asked-{protocol}", traceparent=f"00-{TRACE}-{PARENT}-01")
        wait_for(lambda: all(receiver.of_request(f"asked-{p}") for p in ("grpc", "http")))
        wait_for(lambda: sum(s.get("parentSpanId") == PARENT for s in list(receiver.spans)) == 2)
        refused = server.run("record", "walker", "-o", str(tmp_path / "r.npz"), "--for", "2s", check=False)
    assert refused.returncode == 8
    assert "OpenTelemetry spans" in refused.stderr
    assert {s["traceId"] for s in receiver.spans} == {TRACE}
    asked = [s for s in receiver.spans if str(s["attributes"].get("triton.request_id")).startswith("asked-")]
    assert {s["attributes"]["triton.request_id"] for s in asked} == {"asked-grpc", "asked-http"}
    assert {s["attributes"]["triton.model_name"] for s in asked} == {"walker"}
    assert {str(s["attributes"]["triton.model_version"]) for s in asked} == {"1"}
    assert {s["resource"]["service.name"] for s in receiver.spans} == {"robots"}
    assert sum(s.get("parentSpanId") == PARENT for s in receiver.spans) == 2
