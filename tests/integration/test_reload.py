"""Settings reloaded beside the real Triton under load, half of them broken: no request notices."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from embedded import exported, wait_for

from policyctl.measuring.background_load import BackgroundLoad
from policyctl.measuring.load import LoadOptions, read_expected
from policyctl.services import running

pytestmark = pytest.mark.server

WHOLE = "schema: 2\nscrub:\n  enabled: {enabled}\n  pause_s: {pause}\n  bytes_per_s: 67108864\n"
BROKEN = ("schema: 2\nscrub: [\n", "schema: 2\nscrub:\n  pause_s: soon\n", "schema: 2\nscrubb: {}\n")


def test_reloads_half_of_them_broken_disturb_no_answer_and_are_counted(server, tmp_path, monkeypatch) -> None:
    """What is whole is in force, what is broken is refused, and every request is answered, rightly."""
    file = tmp_path / "policyctl.yaml"
    file.write_text(WHOLE.format(enabled="true", pause=600))
    monkeypatch.setenv("POLICYCTL_CONFIG", str(file))
    server.publish("1.0.0", 1)
    server.start()
    server.run("promote", "walker", "1.0.0")
    options = LoadOptions(
        model="walker", url=server.endpoint["grpc"], clients=2, rate_per_client=100, deadline_s=60, duration_s=3600
    )
    assert server.process is not None
    repository = server.control.repository
    with BackgroundLoad(options, {"1.0.0": read_expected(exported(1))}) as load:
        for number in range(10):
            broken = number % 2 == 1
            text = (
                BROKEN[number // 2 % 3]
                if broken
                else WHOLE.format(enabled=str(number % 4 < 2).lower(), pause=number + 1)
            )
            _replace(file, text)
            os.kill(server.process.pid, signal.SIGHUP)
            wait_for(lambda n=number: _sum(repository) == n + 1)
        _replace(file, WHOLE.format(enabled="true", pause=0.5))
        server.has_said("scrub.pause_s 9.0 -> 0.5")
        report = load.stop()
    assert (report.failed, report.wrong) == (0, 0)
    assert report.requests > 100
    found = running.read(repository)
    assert found is not None
    assert (found.applied, found.refused, found.settings["scrub.pause_s"]) == (6, 5, 0.5)
    assert server.log_text.count("REFUSED settings") == 5
    assert "Reloading walker" not in server.log_text
    _diff_of_what_runs(server, file)


def _diff_of_what_runs(server, file: Path) -> None:
    """Triton is asked itself; what waits for a start, and for a promotion, is told."""
    differing = server.json("config", "diff", "current", "running")["settings"]
    assert {"server.http_port", "server.grpc_port", "server.metrics_port"} <= {d["what"] for d in differing}
    assert {(d["what"].endswith("_port"), d["second"], d["second_place"]) for d in differing} == {
        (True, 0, "command line")
    }
    text = WHOLE.format(enabled="true", pause=0.5)
    _replace(file, text + "serving:\n  max_queue_delay_us: 100\n  native: 'off'\n")
    server.has_said("serving.native auto -> off")
    found = server.json("config", "diff", "current", "running")
    assert "serving.native" in {d["what"] for d in found["settings"]}
    served = {d["what"]: (d["first"], d["second"]) for d in found["served"] if not d["what"].startswith("listens")}
    assert served == {"walker: serving.max_queue_delay_us": (100, 0)}
    assert 'name: "walker"' in found["effective"]["walker"]
    server.run("promote", "walker", "1.0.0", "--reason", "with the delay")
    served = {d["what"] for d in server.json("config", "diff", "current", "running")["served"]}
    assert not any(what.startswith("walker") for what in served)


def _replace(file: Path, text: str) -> None:
    new = file.with_name("new")
    new.write_text(text)
    new.replace(file)


def _sum(repository) -> int:
    found = running.read(repository)
    return 0 if found is None else found.applied + found.refused + found.unchanged
