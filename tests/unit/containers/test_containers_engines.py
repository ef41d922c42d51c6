"""The engines of `policyctl serve` without a server: what is refused, and when a run counts as over."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters import lock
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.repository import Repository
from policyctl.domain.artifacts import Format
from policyctl.errors import ServerError, UnsupportedError, UsageError
from policyctl.services.control import Control, preferred_format
from policyctl.services.supervise import external as module
from policyctl.services.supervise.engines import launcher
from policyctl.services.supervise.external import ExternalEngine
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

    found = {check.name: check.status for check in doctor.examine(control(engine="docker"))}
    assert found == {"docker": "ok", "image": "ok", "user": "ok"}
    engine.images.clear()
    failed = [check for check in doctor.examine(control(engine="docker")) if check.status == "failed"]
    assert [(check.name, "docker pull" in check.fix) for check in failed] == [("image", True)]
    (nowhere,) = doctor.examine(control(engine="external"))
    assert (nowhere.status, "POLICYCTL_SERVER__URL" in nowhere.fix) == ("failed", True)
    silent = doctor.examine(control(engine="external", url="127.0.0.1:9", timeout_s=1))
    assert {check.status for check in silent} == {"failed"}
    assert all(check.fix for check in silent)
