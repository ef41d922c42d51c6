"""What a recorder that was killed left on is switched off, and nothing of what it traced stays."""

from __future__ import annotations

import json
from types import SimpleNamespace

from policyctl.services.supervise import leftovers


class Tracing:
    """A server whose tracing of one model is on."""

    def __init__(self, server_id: str) -> None:
        self.endpoint = SimpleNamespace(server_id=server_id)
        self.level = "TENSORS"

    def trace(self, served: str, settings: dict) -> dict:
        assert served == "walker"
        self.level = settings["trace_level"] or "OFF"
        return {}


def _left_on(world) -> None:
    leftovers.empty(leftovers.trace_folder(world.control.repository))
    marker = {"served": "walker", "server": "s1"}
    leftovers.marker_path(world.control.repository).write_text(json.dumps(marker))


def test_what_was_under_way_when_tracing_ended_leaves_no_file(world, monkeypatch) -> None:
    """Triton writes it a moment later: the marker stays until then, and no call waits for it."""
    _left_on(world)
    folder, client, clock = leftovers.trace_folder(world.control.repository), Tracing("s1"), [100.0]
    monkeypatch.setattr(leftovers, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    for seconds, done in ((0.0, False), (0.4, False), (0.2, True)):
        (folder / "trace.0").write_text("observations")
        clock[0] += seconds
        assert leftovers.settle(world.control, client) is done
        assert (client.level, list(folder.iterdir())) == ("OFF", [])
        assert leftovers.marker_path(world.control.repository).exists() is not done
    assert [words for words in world.said if "left on" in words] == [
        "Tracing of walker was left on by a recorder that is gone, and is off now."
    ]
    assert leftovers.settle(world.control, client)


def test_a_server_that_was_started_since_has_tracing_off(world) -> None:
    """It is not asked, for it may not even have the model."""
    _left_on(world)
    client = Tracing("s2")
    assert leftovers.settle(world.control, client)
    assert client.level == "TENSORS"
    assert not leftovers.marker_path(world.control.repository).exists()
