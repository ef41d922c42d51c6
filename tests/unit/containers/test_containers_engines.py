"""The engines of `policyctl serve` without a server: what is refused, and when a run counts as over."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from harness.docker_engine import MissingError
from harness.docker_engine import engine as docker_engine
from policyctl.adapters import endpoint as endpoints
from policyctl.adapters import files, lock
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.repository import Repository
from policyctl.domain.artifacts import Format
from policyctl.errors import ServerError, UnsupportedError, UsageError
from policyctl.services.control import Control, preferred_format
from policyctl.services.supervise import external as module
from policyctl.services.supervise import serve as serve_module
from policyctl.services.supervise.engines import DOCKER, forget_key, launcher
from policyctl.services.supervise.external import EXTERNAL, ExternalEngine
from policyctl.services.supervise.leftovers import trace_folder
from policyctl.services.supervise.serve import Supervisor, pause_s
from policyctl.serving.ports import free_ports
from policyctl.settings import Settings, load


@pytest.fixture
def control(tmp_path):
    """A control plane of settings; its repository is empty."""

    def make(**server) -> Control:
        found = Control.of(load(repository=tmp_path / "models", server=server))
        found.repository.create()
        found.repository.journal.begin()
        return found

    return make


@pytest.mark.parametrize(
    ("server", "error", "words"),
    [
        ({"engine": "external"}, UsageError, "does not say where"),
        ({"engine": "docker", "host": "0.0.0.0"}, UsageError, "loopback only"),
        ({"engine": "docker", "api_key": "short"}, UsageError, "8 to 256"),
    ],
)
def test_an_engine_that_the_settings_contradict_is_refused(control, engine, server, error, words) -> None:
    """Before anything is started, with exit code 2."""
    with pytest.raises(error, match=words):
        launcher(control(**server), api_key=server.get("api_key", "k" * 9))
    assert not [call for call in engine.calls if "create" in call]


def test_the_engine_docker_refuses_a_machine_without_the_image(control, engine) -> None:
    """Before the first run, with the command that fetches it."""
    engine.images.clear()
    with pytest.raises(UnsupportedError, match="not on this machine"):
        launcher(control(engine="docker"), api_key="k" * 9)


class Counting:
    """A Triton that says how many requests each loaded version has answered."""

    def __init__(self, *_args, **_more) -> None:
        self.counts: dict[tuple[str, int], int] | None = {}

    def is_live(self) -> bool:
        return self.counts is not None

    def counters(self) -> tuple[SimpleNamespace, ...]:
        if self.counts is None:
            raise ServerError("silent")
        return tuple(SimpleNamespace(name=n, slot=s, succeeded=count) for (n, s), count in self.counts.items())

    def close(self) -> None: ...


@pytest.fixture
def external(control, monkeypatch):
    """An external engine, its Triton, and the control plane."""
    triton = Counting()
    monkeypatch.setattr(module, "Triton", lambda *_, **__: triton)
    monkeypatch.setattr(module, "_WAIT_S", 0.05)
    found = control(engine="external", url="elsewhere:8001", metrics_url="elsewhere:8002")
    engine = launcher(found, api_key="")(lambda _line: None)
    assert isinstance(engine, ExternalEngine)
    engine.start()
    return engine, triton, found


def _write(repository: Repository) -> None:
    with repository.journal.path.open("ab") as stream:
        stream.write(b"\n")


SERVED = frozenset({"walker", "walker.staging"})


def test_a_server_that_lost_what_was_loaded_was_restarted(external) -> None:
    """Explicit mode: nothing is loaded after a start, also of what was promoted since the last look.

    A part that is gone is the prober's to mend.
    """
    engine, triton, _ = external
    engine.wait(1)
    assert engine.is_running(frozenset())
    assert not engine.is_running(SERVED)
    triton.counts = {("walker", 1): 10, ("walker.staging", 2): 5}
    assert engine.is_running(SERVED)
    triton.counts = {("walker", 1): 12}
    assert engine.is_running(SERVED)
    triton.counts = {("somebody.else", 1): 3}
    assert not engine.is_running(SERVED)


def test_a_count_that_shrank_betrays_a_restart_with_everything_loaded(external) -> None:
    """A Triton that was started with --load-model=* is found out too; the same count or more is the same run."""
    engine, triton, _ = external
    engine.wait(1)
    for count, same in ((10, True), (10, True), (11, True), (4, False)):
        triton.counts = {("walker", 1): count}
        assert engine.is_running(SERVED) is same


def test_what_we_load_ourselves_is_no_restart(external) -> None:
    """A load starts a count again and writes to the journal; while somebody writes nothing is concluded."""
    engine, triton, found = external
    engine.wait(1)
    triton.counts = {("walker", 1): 10}
    assert engine.is_running(SERVED)
    with found.repository.writer("a move"):
        triton.counts = {}
        assert engine.is_running(SERVED)
    triton.counts = {("walker", 1): 2}
    _write(found.repository)
    assert engine.is_running(SERVED)
    triton.counts = {("walker", 1): 1}
    assert not engine.is_running(SERVED)


def test_what_should_not_be_loaded_is_not_missed(external) -> None:
    """An alias that was withdrawn for wrong answers is gone because we took it out."""
    engine, triton, _ = external
    engine.wait(1)
    triton.counts = {("walker", 1): 10}
    assert engine.is_running(SERVED)
    triton.counts = {}
    assert engine.is_running(frozenset())


def test_a_silent_server_is_waited_for_briefly_and_then_told(external) -> None:
    """The supervisor asks again; a silence while it runs is the prober's to judge. Nothing is stopped."""
    engine, triton, _ = external
    triton.counts = None
    with pytest.raises(ServerError, match="no Triton answers at elsewhere:8001"):
        engine.wait(30)
    assert engine.is_running(SERVED)
    engine.stop()
    assert not engine.manner.ours


def test_each_run_has_an_id_of_its_own(control) -> None:
    """So a certification on one run never counts for the next."""
    launch = launcher(
        control(engine="external", url="elsewhere:8001", metrics_url="elsewhere:8002", api_key="k" * 9), api_key=""
    )
    first, second = (launch(lambda _line: None).endpoint() for _ in range(2))
    assert first.server_id != second.server_id
    assert (first.grpc, first.metrics, first.api_key, first.engine) == (
        "elsewhere:8001",
        "elsewhere:8002",
        "k" * 9,
        "external",
    )
    assert not first.verifies


@pytest.mark.parametrize(
    ("setting", "backends", "formats", "preferred"),
    [
        (None, "policyctl", tuple(Format), None),
        (None, "nvidia", tuple(Format), Format.ONNX),
        (None, "nvidia", (Format.OPENVINO,), None),
        (Format.TORCHSCRIPT, "nvidia", tuple(Format), Format.TORCHSCRIPT),
        (None, "", tuple(Format), None),
    ],
)
def test_nvidias_backends_are_given_onnx_unless_somebody_says_otherwise(
    control, setting, backends, formats, preferred
) -> None:
    """Their OpenVINO computes full batches only; the setting goes before that, and --format before the setting."""
    found = control()
    found = Control(Settings(**{**found.settings.model_dump(), "serving": {"format": setting}}), found.repository)
    endpoints.write(found.repository, Endpoint("h:1", "h:2", backends=backends))
    with lock.hold(endpoints.supervisor_lock(found.repository), doing="policyctl serve"):
        assert preferred_format(found, SimpleNamespace(formats=formats)) == preferred


def test_the_announced_server_is_used_with_its_run_where_the_url_names_it(control) -> None:
    """A command in the same container has the url set; another url is another server."""
    found = control(url="triton:8001", api_key="k" * 9)
    with lock.hold(endpoints.supervisor_lock(found.repository), doing="policyctl serve"):
        endpoints.write(found.repository, Endpoint("h:1", "triton:8001", server_id="run"))
        assert found.endpoint().server_id == "run"
        endpoints.write(found.repository, Endpoint("h:1", "other:8001", server_id="run"))
        assert (found.endpoint().server_id, found.endpoint().grpc) == ("", "triton:8001")


def test_doctor_looks_at_the_engine_of_the_settings(control, engine, monkeypatch) -> None:
    """Docker, image and user; or the Triton of somebody else and its key. Each failed check says what to do."""
    from policyctl.services.machine import doctor

    ports = dict(zip(("http_port", "grpc_port", "metrics_port", "control_metrics_port"), free_ports(4), strict=True))
    found = {check.name: check for check in doctor.examine(control(engine="docker", **ports))}
    names = ["docker", "image", "user", *(f"port {port}" for port in ports.values())]
    assert {name: check.status for name, check in found.items()} == dict.fromkeys(names, "ok")
    assert found["docker"].detail == f"version 27 answers at {engine.host}"
    with socket.create_server(("127.0.0.1", ports["grpc_port"])):
        (taken,) = (c for c in doctor.examine(control(engine="docker", **ports)) if c.status == "failed")
    assert (taken.name, "--grpc-port" in taken.fix) == (f"port {ports['grpc_port']}", True)
    engine.images.clear()
    failed = [check for check in doctor.examine(control(engine="docker", **ports)) if check.status == "failed"]
    assert [(check.name, "docker pull" in check.fix) for check in failed] == [("image", True)]
    (nowhere,) = doctor.examine(control(engine="external"))
    assert (nowhere.status, "POLICYCTL_SERVER__URL" in nowhere.fix) == ("failed", True)
    silent = doctor.examine(control(engine="external", url="127.0.0.1:9", timeout_s=1))
    assert {check.status for check in silent} == {"failed"}
    assert all(check.fix for check in silent)


def test_asking_again_for_what_was_not_there_never_waits_long() -> None:
    """Docker that is away, or a taken port, costs little to ask for; a server that starts and dies costs more.

    One that had lived for a while starts again at once.
    """
    assert [pause_s(n, DOCKER, begun=False) for n in (1, 2, 3, 9)] == [0.5, 1.0, 1.0, 1.0]
    assert [pause_s(n, DOCKER, begun=True) for n in (0, 1, 4, 9)] == [0.0, 0.5, 5.0, 30.0]
    assert pause_s(9, EXTERNAL, begun=True) == 5.0


def test_the_key_stays_from_one_container_to_the_next_in_a_folder_of_the_caller_alone(
    control, engine, monkeypatch
) -> None:
    """The container's number may be a person's: key and traces are out of reach; a full disk keeps no server down."""
    found = control(
        engine="docker", **dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    )
    launch = launcher(found, api_key="k" * 9)
    trace_folder(found.repository).mkdir(parents=True)
    first = launch(lambda _line: None)
    first.start()
    key = found.repository.control / "server" / "key"
    home = key.parent.stat()
    assert (key.read_text(), home.st_mode & 0o777, home.st_uid) == ("k" * 9, 0o700, os.getuid())
    if os.getuid() == 0:
        assert {path.stat().st_uid for path in (key, trace_folder(found.repository))} == {1000}
    first.stop()
    monkeypatch.setattr(files, "write_all", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    second = launch(lambda _line: None)
    second.start()
    assert engine.only.state["Status"] == "running"
    second.stop()
    forget_key(found)
    assert not key.exists()


@pytest.mark.parametrize(("live", "at_once"), [(False, True), (True, False)])
def test_only_a_server_that_is_silent_itself_is_killed_at_once(control, monkeypatch, live: bool, at_once: bool) -> None:
    """One that lives and whose model cannot be loaded again has its grace: other models answer meanwhile."""
    supervisor, stops = Supervisor(control(), None, None, verbose=False), []
    prober = SimpleNamespace(probe=lambda: False, silent=not live, asked=None)
    monkeypatch.setattr(serve_module, "Prober", lambda *_: prober)
    answering = _answering(is_live=lambda **_: True)
    supervisor._watch(_run(stops), answering, answering, answering)
    assert stops == [at_once]


def test_a_server_that_does_not_say_that_it_lives_is_asked_nothing_else(control, monkeypatch) -> None:
    """Each of those questions would wait for its answer in vain; it is asked more than once whether it lives."""
    supervisor, stops, asked = Supervisor(control(), None, None, verbose=False), [], []
    monkeypatch.setattr(serve_module, "SILENCE_S", 0.0)
    silent = _answering(is_live=lambda **_: asked.append(1), index=None)
    supervisor._watch(_run(stops), silent, silent, silent)
    assert (stops, len(asked) >= 2) == ([True], True)


def test_one_question_without_an_answer_is_no_silence(control, monkeypatch) -> None:
    """The process that asks may have had no turn; the next answer counts."""
    supervisor, stops = Supervisor(control(), None, None, verbose=False), []
    monkeypatch.setattr(serve_module, "SILENCE_S", 0.0)
    prober = SimpleNamespace(probe=lambda: False, silent=False, asked=None)
    monkeypatch.setattr(serve_module, "Prober", lambda *_: prober)
    lives = iter([False, True])
    hesitant = _answering(is_live=lambda **_: next(lives))
    supervisor._watch(_run(stops), hesitant, hesitant, hesitant)
    assert stops == [False]


def test_a_run_that_ends_is_looked_at_at_once(control, monkeypatch) -> None:
    """Not at the next look, which is a minute away; it is over, and not silent."""
    monkeypatch.setattr(serve_module, "LOOK_INTERVAL_S", 1e6)
    found = control()
    found.settings = load(repository=found.repository.root, prober={"interval_s": 60})
    monkeypatch.setattr(serve_module, "Prober", lambda *_: SimpleNamespace(probe=lambda: True, asked=None))
    supervisor, stops, looks = Supervisor(found, None, None, verbose=False), [], iter([True, False])
    run = _run(stops)
    run.may_have_ended, run.is_running = (lambda: True), (lambda _served: next(looks))
    run.ended = lambda: ("ended", 1)
    answering = _answering(is_live=lambda **_: True)
    begun = time.monotonic()
    supervisor._watch(run, answering, answering, answering)
    assert (stops, time.monotonic() - begun < 60) == ([], True)


def test_what_goes_on_while_docker_is_away_is_said_once(control, monkeypatch) -> None:
    """It is asked for once a second, perhaps for hours; another reason is said again."""
    said, reasons = [], ["no Docker", "no Docker", "no Docker", "a taken port"]
    supervisor = Supervisor(replace(control(), say=said.append), None, None, verbose=False)
    supervisor._was_ready = True
    monkeypatch.setattr(serve_module, "UNBEGUN_PAUSE_S", 0.0)

    def start() -> None:
        reason = reasons.pop(0)
        if not reasons:
            supervisor.stop.set()
        raise UnsupportedError(reason)

    supervisor.launch = lambda _on_log: SimpleNamespace(manner=DOCKER, start=start, stop=lambda: None)
    supervisor._keep_serving()
    assert said == ["The server failed: no Docker", "Starting the container again."]
    assert supervisor.observed.starts == 0


def _run(stops: list[bool]) -> SimpleNamespace:
    """A container that goes on; whether it was stopped at once is noted."""
    return SimpleNamespace(
        manner=DOCKER,
        is_running=lambda _served: True,
        may_have_ended=lambda: False,
        stop=lambda *, at_once: stops.append(at_once),
    )


def _answering(**more: Any) -> SimpleNamespace:
    """A server with nothing to report, and who follows it."""
    quiet = {"repeat": lambda: None, "follow": lambda: None, "index": lambda: (), "load_timeout_s": 0.0}
    return SimpleNamespace(**{**quiet, **more})


@pytest.mark.parametrize(("uid", "words"), [(1000, "needs root"), (0, "not installed: dockerd")])
def test_a_machine_that_can_run_no_engine_says_what_it_lacks(monkeypatch, tmp_path, uid: int, words: str) -> None:
    """So the tests on a Docker engine are skipped with a reason, and their command says what to install."""
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=words), docker_engine(tmp_path):
        pass
