"""The exporter beside the real Triton: what it tells of a server, and a wrong answer that is taken out of service."""

from __future__ import annotations

import json
import os

import pytest
from embedded import wait_for

pytestmark = pytest.mark.server


def _told(server) -> dict[tuple[str, ...], float]:
    """Every value of the exporter, by name and labels."""
    return {
        (s["name"], *s["labels"].values()): s["value"] for f in server.json("metrics")["families"] for s in f["samples"]
    }


def test_the_exporter_tells_what_is_served_and_outlives_the_journal(server) -> None:
    """Aliases, moves, probes and memory of a running server; a journal that is edited is told, and service goes on."""
    server.publish("1.0.0", 1)
    server.start()
    server.run("promote", "walker", "1.0.0")
    answered = ("policyctl_probe_requests_total", "walker", "production", "answered")
    wait_for(lambda: _told(server).get(answered, 0) > 1, 15, every_s=0.3)
    told = _told(server)
    assert told["policyctl_alias_info", "walker", "production", "walker", "1.0.0", "1", "openvino"] == 1
    assert told["policyctl_moves_total", "walker", "production", "promotion", "done"] == 1
    assert (told["policyctl_server_up",], told["policyctl_server_starts_total",]) == (1, 1)
    assert told["policyctl_server_resident_bytes", "server"] > 1 << 24
    assert told["policyctl_probe_requests_total", "walker", "production", "wrong"] == 0
    journal = server.root / ".policyctl" / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole.replace(b"walker", b"runner", 1))
    wait_for(lambda: _told(server)["policyctl_journal_intact",] == 0, 5, every_s=0.3)
    assert _told(server)["policyctl_alias_info", "walker", "production", "walker", "1.0.0", "1", "openvino"] == 1
    journal.write_bytes(whole)
    wait_for(lambda: _told(server)["policyctl_journal_intact",] == 1, 5, every_s=0.3)
    assert _told(server)[answered] > told[answered]
    assert server.is_running
    assert json.loads((server.root / ".policyctl" / "server.json").read_text())["supervisor_pid"] != os.getpid()
