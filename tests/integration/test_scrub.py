"""The scrub beside the real Triton: the first wrong byte is told, and requests go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from embedded import wait_for

pytestmark = pytest.mark.server


def test_a_wrong_byte_is_told_while_the_server_goes_on(server, monkeypatch) -> None:
    """One line in the log, the state in `status`; restored files are told too, and what is served never changed."""
    monkeypatch.setenv("POLICYCTL_SCRUB__PAUSE_S", "0.1")
    monkeypatch.setenv("POLICYCTL_SCRUB__BYTES_PER_S", str(1 << 26))
    server.publish("1.0.0", 1)
    server.start()
    server.run("promote", "walker", "1.0.0")
    wait_for(lambda: (server.json("status")["scrub"] or {}).get("passes"), every_s=0.2)
    path = server.root / "walker" / "1" / "model.onnx"
    good = path.read_bytes()
    _replace(path, bytes([good[0] ^ 1]) + good[1:])
    server.has_said("CORRUPT walker 1.0.0 (slot 1): model.onnx is sha256:")
    _replace(path, good)
    server.has_said("walker 1.0.0 (slot 1) is intact again")
    scrub = server.json("status")["scrub"]
    assert (scrub["found"], scrub["wrong"]) == (1, [])
    assert server.log_text.count("CORRUPT") == 1
    assert server.answered_by() == "1.0.0"


def _replace(path: Path, content: bytes) -> None:
    """At once: half of a file is another wrong file."""
    new = path.parents[3] / "new"
    new.write_bytes(content)
    new.replace(path)
