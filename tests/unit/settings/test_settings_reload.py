"""Reload: whole or not at all, announced, counted, and written down for others."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters import lock
from policyctl.adapters.endpoint import Endpoint
from policyctl.services import running
from policyctl.services.control import Control
from policyctl.services.supervise.reload import ReloadCounts, Reloader
from policyctl.settings import Settings, load, source

FILE = Path("policyctl.yaml")
FIRST = "schema: 2\nscrub:\n  pause_s: 600\nserver:\n  http_port: 9000\n"


class Serving:
    """A control plane whose settings are reloaded, without a server."""

    def __init__(self, text: str = FIRST, **typed) -> None:
        FILE.write_text(text)
        self.said: list[str] = []
        reading = source(**typed).read()
        self.control = Control.of(reading.require(), self.said.append)
        self.control.repository.create()
        self.reloader = Reloader(self.control, reading, threading.Event())
        self.reloader.start()

    @property
    def settings(self) -> Settings:
        return self.control.settings

    @property
    def counts(self) -> tuple[int, int, int]:
        found = self.reloader.counts
        return found.applied, found.refused, found.unchanged

    def write(self, text: str, *, looks: int = 2) -> None:
        FILE.write_text(text)
        for _ in range(looks):
            self.reloader.look()

    def recorded(self) -> running.Running:
        endpoints.write(self.control.repository, Endpoint("a:1", "a:2"))
        with lock.hold(endpoints.supervisor_lock(self.control.repository), doing="policyctl serve"):
            found = running.read(self.control.repository)
        assert found is not None
        return found


def test_a_changed_file_is_taken_over_and_announced() -> None:
    """With each setting that changed, before, after, and its place."""
    serving = Serving()
    serving.write(FIRST.replace("600", "60"))
    assert (serving.settings.scrub.pause_s, serving.counts) == (60.0, (1, 0, 0))
    assert serving.said == ["Settings reloaded: scrub.pause_s 600.0 -> 60.0 (policyctl.yaml:3)."]
    assert abs(serving.reloader.counts.last_applied_s - time.time()) < 300
    for _ in range(5):
        serving.reloader.look()
    assert serving.counts == (1, 0, 0)


def test_a_file_that_is_being_written_is_left_until_it_stays_the_same() -> None:
    """Half a file is often a whole one to a reader of YAML."""
    serving = Serving()
    for text in (FIRST.replace("600", "6"), FIRST.replace("600", "60")):
        serving.write(text, looks=1)
        assert serving.counts == (0, 0, 0)
    serving.reloader.look()
    assert serving.settings.scrub.pause_s == 60.0
    FILE.write_text(FIRST.replace("600", "5"))
    serving.reloader.look(asked=True)
    assert serving.settings.scrub.pause_s == 5.0


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "schema: 2\nscrub: [\n",
        "schema: 2\nscrub:\n  pause_s: soon\n  bytes_per_s: 1\n",
        "schema: 2\nscrubb: {}\n",
        "schema: 2\nprofile: production\nscrub:\n  pause_s: 1\n",
        "schema: 2\nprofile: nobody\n",
        "schema: 2\nserver:\n  api_key: {file: gone}\n",
        "\x00",
    ],
)
def test_a_broken_file_is_refused_once_and_the_old_settings_go_on(broken: str) -> None:
    """With everything that is wrong; once it is whole again that is said."""
    serving = Serving()
    before = serving.settings
    serving.write(broken, looks=4)
    assert serving.settings is before
    assert serving.counts == (0, 1, 0)
    (said,) = serving.said
    assert said.startswith("REFUSED settings:")
    assert "go on as they are" in said
    serving.write(FIRST)
    assert (serving.settings, serving.counts) == (before, (0, 1, 1))
    assert "nothing to change" in serving.said[-1]


def test_all_that_is_wrong_is_told_at_once() -> None:
    """With lines."""
    serving = Serving()
    serving.write("schema: 2\nscrub:\n  pause_s: soon\n  bytes_per_s: 1\n")
    assert "policyctl.yaml:3" in serving.said[0]
    assert "policyctl.yaml:4" in serving.said[0]


def test_what_only_a_start_can_change_is_told_and_waits() -> None:
    """The rest of the file is taken over; it is reported once, and forgotten when it is taken back."""
    serving = Serving()
    serving.write(FIRST.replace("600", "60").replace("9000", "9001"))
    assert (serving.settings.scrub.pause_s, serving.settings.server.http_port) == (60.0, 9000)
    assert "server.http_port 9000 -> 9001" in serving.said[1]
    assert "must be started again" in serving.said[1]
    assert serving.recorded().waiting == {"server.http_port": [9000, 9001]}
    serving.write(FIRST.replace("600", "61").replace("9000", "9001"))
    assert sum("started again" in line for line in serving.said) == 1
    serving.write(FIRST)
    assert serving.recorded().waiting == {}


def test_what_rules_refuse_before_a_start_is_refused_whole() -> None:
    """A statement that holds for the port that is meant, and not for the one that is open."""
    text = "schema: 2\nprofile: staging\nintegrity: {signatures: warn}\nsecurity: {tls_terminated: true}\n"
    serving = Serving(text + "server: {host: 0.0.0.0}\nscrub: {pause_s: 600}\n")
    serving.write(text.replace("true", "false") + "scrub: {pause_s: 60}\n")
    assert (serving.settings.scrub.pause_s, serving.counts) == (600.0, (0, 1, 0))
    assert "not before policyctl serve is started again" in serving.said[0]


def test_a_file_that_is_gone_is_no_wish_for_the_defaults() -> None:
    """Of the base and of a profile; when it is back it counts again."""
    serving = Serving()
    FILE.unlink()
    for _ in range(3):
        serving.reloader.look()
    assert (serving.settings.scrub.pause_s, serving.counts) == (600.0, (0, 1, 0))
    assert "policyctl.yaml is gone" in serving.said[0]
    serving.write(FIRST.replace("600", "60"))
    assert serving.settings.scrub.pause_s == 60.0


def test_a_file_that_replaces_another_a_profile_and_a_secret_are_noticed() -> None:
    """By rename, as a link that points elsewhere, and where files come that were not there."""
    serving = Serving()
    Path("new").write_text(FIRST.replace("600", "60"))
    Path("new").replace(FILE)
    serving.write(FILE.read_text())
    assert serving.settings.scrub.pause_s == 60.0
    serving.write(FIRST + "profile: one\nregistry:\n  password: {file: key}\n")
    assert serving.counts == (1, 1, 0)
    Path("key").write_text("s3cret")
    Path("policyctl.one.yaml").write_text("schema: 2\nscrub: {pause_s: 1}\n")
    serving.write(FILE.read_text())
    assert (serving.settings.scrub.pause_s, serving.settings.registry.password.get_secret_value()) == (1.0, "s3cret")
    Path("key").write_text("0ther")
    serving.write(FILE.read_text())
    assert serving.settings.registry.password.get_secret_value() == "0ther"
    assert any("registry.password changed" in line for line in serving.said)
    assert sum("can read key" in line for line in serving.said) == 1
    assert "s3cret" not in "".join(serving.said)
    assert "0ther" not in "".join(serving.said)


def test_what_was_typed_still_goes_before_the_file() -> None:
    """A reload does not restart with other arguments."""
    serving = Serving(scrub={"pause_s": 5.0})
    serving.write(FIRST.replace("600", "60"))
    assert (serving.settings.scrub.pause_s, serving.counts) == (5.0, (0, 0, 1))


def test_what_is_in_force_is_written_down_for_its_owner_alone() -> None:
    """With where each came from, and every secret masked; gone when serving ends."""
    serving = Serving(FIRST + "  api_key: s3cret\n", server={"grpc_port": 0})
    path = serving.control.repository.control / running.FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "s3cret" not in path.read_text()
    record = serving.recorded()
    assert record.settings["server.api_key"] == "********"
    assert record.places["server.grpc_port"] == "command line"
    assert record.places["server.http_port"] == "policyctl.yaml:5"
    serving.write(FIRST.replace("600", "60"))
    assert (serving.recorded().settings["scrub.pause_s"], serving.recorded().applied) == (60.0, 1)
    running.clear(serving.control.repository)
    assert running.read(serving.control.repository) is None


def test_a_hangup_has_the_files_read_at_once(monkeypatch) -> None:
    """Without the second look; the process goes on, and afterwards a hangup means what it meant before."""
    monkeypatch.setattr("policyctl.services.supervise.reload.LOOK_S", 3000.0)
    serving, before = Serving(), signal.getsignal(signal.SIGHUP)
    with serving.reloader.running():
        FILE.write_text(FIRST.replace("600", "60"))
        os.kill(os.getpid(), signal.SIGHUP)
        deadline = time.monotonic() + 300
        while serving.settings.scrub.pause_s != 60.0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert signal.getsignal(signal.SIGHUP) is before
    assert not (serving.control.repository.control / running.FILE).exists()


GOOD = st.sampled_from([FIRST.replace("600", str(n)) for n in (1, 2, 3)])
BAD = st.sampled_from(["schema: 2\nscrub: {pause_s: -1}\n", "schema: 2\nx: 1\n", "scrub"])


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(GOOD | BAD, max_size=8))
def test_after_any_run_of_files_the_last_whole_one_is_in_force_and_each_is_counted(tmp_path, texts) -> None:
    """Half of them broken or not; what is in force is always what a start with one of the files would give."""
    serving = Serving()
    last = FIRST
    for text in texts:
        FILE.write_text(text)
        serving.reloader.look(asked=True)
        last = text if text.startswith(FIRST[:10]) and "pause_s: -1" not in text and "x: 1" not in text else last
        FILE.write_text(last)
        assert serving.settings == load()
    assert sum(serving.counts) == len(texts)
    assert isinstance(serving.reloader.counts, ReloadCounts)
