"""Metrics and logs beside the real Triton: what a server tells of itself, and which request a line is about."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from embedded import PATIENCE_S, wait_for
from tritonclient.utils import InferenceServerException

from policyctl.client import PolicyClient
from policyctl.domain.metrics import CATALOGUE

pytestmark = pytest.mark.server


def _told(server) -> dict[tuple[str, ...], float]:
    """Every value of the exporter but histograms', by name and labels in the catalogue's order."""
    return {
        (s["name"], *(s["labels"][label] for label in CATALOGUE[f["name"]].labels)): s["value"]
        for f in server.json("metrics")["families"]
        for s in f["samples"]
        if "le" not in s["labels"]
    }


def test_the_exporter_tells_what_is_served_and_outlives_the_journal(server) -> None:
    """Aliases, moves, probes and memory of a running server; a journal that is edited is told, and service goes on."""
    server.publish("1.0.0", 1)
    server.start()
    server.run("promote", "walker", "1.0.0")
    answered = ("policyctl_probe_requests_total", "walker", "production", "answered")
    wait_for(lambda: _told(server).get(answered, 0) > 1, every_s=0.3)
    told = _told(server)
    assert told["policyctl_alias_info", "walker", "production", "walker", "1.0.0", "1", "openvino"] == 1
    assert told["policyctl_moves_total", "walker", "production", "promotion", "done"] == 1
    assert (told["policyctl_server_up",], told["policyctl_server_starts_total",]) == (1, 1)
    assert told["policyctl_server_resident_bytes", "server"] > 1 << 24
    assert told["policyctl_probe_requests_total", "walker", "production", "wrong"] == 0
    journal = server.root / ".policyctl" / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole.replace(b"walker", b"runner", 1))
    wait_for(lambda: _told(server)["policyctl_journal_intact",] == 0, every_s=0.3)
    assert _told(server)["policyctl_alias_info", "walker", "production", "walker", "1.0.0", "1", "openvino"] == 1
    journal.write_bytes(whole)
    wait_for(lambda: _told(server)["policyctl_journal_intact",] == 1, every_s=0.3)
    wait_for(lambda: _told(server)[answered] > told[answered], every_s=0.1)
    assert server.is_running


def test_a_release_that_was_loaded_behind_the_journal_s_back_is_wrong_and_put_right(server) -> None:
    """The prober counts it, loads what the alias names, and nobody has to do anything."""
    for release, seed in (("1.0.0", 1), ("1.1.0", 2)):
        server.publish(release, seed)
    server.start()
    server.run("promote", "walker", "1.0.0")
    config = server.root / "walker" / "config.pbtxt"
    old = config.read_text()
    server.run("promote", "walker", "1.1.0")
    config.write_text(old)
    # As a move does it: the supervisor ends loads that nobody waits for.
    with server.control.repository.writer("a test", wait_s=PATIENCE_S), server.control.triton() as client:
        client.load("walker", 1)
    server.has_said("WRONG walker: slot 1 answers, expected 2 (1.1.0)")
    wait_for(lambda: server.answered_by() == "1.1.0", every_s=0.3)
    told = _told(server)
    assert told["policyctl_probe_requests_total", "walker", "production", "wrong"] >= 1
    assert told["policyctl_model_reloads_total", "walker", "production"] == 1
    assert told["policyctl_alias_refused", "walker", "production"] == 0


def test_one_id_leads_from_a_client_to_the_backend_and_one_from_the_journal_to_every_line(server, monkeypatch) -> None:
    """By the native and the Python-based backend; levels change while it runs; no observation and no key is logged."""
    began = datetime.now(UTC).replace(microsecond=0)
    monkeypatch.setenv("POLICYCTL_SERVER__API_KEY", "canary-key-0123456789")
    server.publish("1.0.0", 1)
    server.start()
    server.run("promote", "walker", "1.0.0")
    server.run("promote", "walker", "1.0.0", "--alias", "staging", "--format", "onnx")
    move = next(r["move"] for r in server.json("history") if r["kind"] == "outcome")
    for alias, served in (("production", "walker"), ("staging", "walker.staging")):
        _refused(server, served, f"flight-{alias}")
        wait_for(lambda asked=f"flight-{alias}": server.json("logs", "--request-id", asked), every_s=0.2)
        (line,) = server.json("logs", "--request-id", f"flight-{alias}")
        assert (line["level"], line["logger"], line["served"]) == ("warning", "triton.backend", served)
        assert (line["release"], line["operation"][:6]) == ("1.0.0", "serve-")
    told = server.json("logs", "--move", move)
    assert [line["record"] for line in told if "record" in line] == ["intent", "certified", "switching", "outcome"]
    loading = server.json("logs", "--model", "walker.staging")
    assert any(line["logger"] == "triton" and "loading: walker.staging:1" in line["event"] for line in loading)
    times = [datetime.fromisoformat(line["time"]) for line in loading]
    assert times == sorted(times)
    assert all(began <= time <= datetime.now(UTC) for time in times)
    _levels_change(server)
    text = "".join(p.read_text() for p in (server.root / ".policyctl" / "logs").iterdir()) + server.log_text
    assert "flight-staging" in text
    assert "canary-key" not in text
    assert "0.12345" not in text


def _refused(server, served: str, request_id: str) -> None:
    """Ask with an observation that `PolicyClient` would not send."""
    tensor = triton_grpc.InferInput("observation", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.array([[0.12345, np.nan, 0.12345, 0.12345]], np.float32))
    client = triton_grpc.InferenceServerClient(server.endpoint["grpc"])
    with pytest.raises(InferenceServerException, match="nan"):
        client.infer(served, [tensor], request_id=request_id)
    client.close()


def _levels_change(server) -> None:
    """Triton's verbose lines come and go, and they name the request."""
    for level, comes in (("debug", True), ("info", False)):
        server.run("log-level", level, "--triton")
        wait_for(lambda words=f"Triton logs from {level} on": words in server.log_text)
        with PolicyClient("walker", url=server.endpoint["grpc"], deadline_s=PATIENCE_S) as client:
            client.act(np.zeros(4, np.float32), request_id=f"at-{level}")
        if comes:
            wait_for(lambda asked=f"at-{level}": server.json("logs", "--request-id", asked), every_s=0.2)
        else:
            assert server.json("logs", "--request-id", f"at-{level}") == []
