"""A load that never ends, on the real Triton: it costs its own move, and every other model goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from embedded import PATIENCE_S, Embedded, embedded, exported, wait_for
from endless import endless_export
from serving_fixtures import HAS_NATIVE

from policyctl.demo.background_server import COMMAND
from policyctl.domain.artifacts import Format

pytestmark = pytest.mark.server

KINDS = [
    pytest.param(Format.ONNX, "off", id="onnx"),
    pytest.param(Format.TORCHSCRIPT, "off", id="torchscript", marks=pytest.mark.long),
    pytest.param(Format.OPENVINO, "off", id="openvino", marks=pytest.mark.long),
]


@pytest.fixture
def serve(tmp_path) -> Iterator[Embedded]:
    """A repository that is not served yet."""
    with embedded(tmp_path) as server:
        yield server


def _begin(server: Embedded, form: Format, *others: str) -> None:
    folder = endless_export(server.root.parent / f"endless-{form}", form)
    for model in ("other", *others):
        server.run("publish", str(folder), "--model", model, "--release", "1.0.0")
    server.run("publish", str(exported(1)), "--model", "other", "--release", "1.0.1")
    server.publish("1.0.0", 1)
    server.publish("1.1.0", 2)
    server.start()
    server.run("promote", "walker", "1.0.0")
    server.run("promote", "walker", "1.1.0")


def _promote_endless(server: Embedded, model: str) -> str:
    """Promote what never loads, and give up soon; what the command said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLICYCTL_SERVER__LOAD_TIMEOUT_S", "4")
        patch.setenv("POLICYCTL_SERVER__TIMEOUT_S", "10")
        failed = server.run("promote", model, "1.0.0", check=False)
    assert failed.returncode == 7, failed.stderr
    return failed.stderr


def _loading(server: Embedded) -> set[str]:
    with server.control.triton() as client:
        return {served.name for served in client.index() if served.state == "LOADING"}


@pytest.mark.parametrize(("form", "native"), KINDS)
def test_an_endless_load_is_ended_and_holds_up_no_other_model(serve, monkeypatch, form, native) -> None:
    """Its promotion fails in time; a rollback of another model goes at once; the same model is promoted afterwards."""
    monkeypatch.setenv("POLICYCTL_SERVING__NATIVE", native)
    _begin(serve, form)
    pid = serve.endpoint["pid"]
    assert "still serves nothing" in _promote_endless(serve, "other")
    serve.run("rollback", "walker")
    assert serve.answered_by() == "1.0.0"
    wait_for(lambda: not _loading(serve))
    serve.run("promote", "other", "1.0.1")
    assert serve.endpoint["pid"] == pid, "the server was started again"
    serve.has_said("its backend process was ended")


def test_a_promotion_that_loads_without_end_can_be_aborted(serve, monkeypatch) -> None:
    """Long before the load's own limit; a second writer is told to do just that."""
    monkeypatch.setenv("POLICYCTL_SERVING__NATIVE", "off")
    monkeypatch.setenv("POLICYCTL_SERVER__LOAD_TIMEOUT_S", "600")
    _begin(serve, Format.ONNX)
    command = [*COMMAND, "promote", "other", "1.0.0", "--repository", str(serve.root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as promotion:
        wait_for(lambda: "other.candidate" in _loading(serve))
        with monkeypatch.context() as hasty:
            hasty.setenv("POLICYCTL_LOCK_WAIT_S", "0")
            busy = serve.run("rollback", "walker", check=False)
        assert (busy.returncode, "policyctl abort" in busy.stderr) == (5, True)
        assert "Aborted" in serve.run("abort", "other").stdout
        assert promotion.wait(PATIENCE_S) == 7
    serve.run("rollback", "walker")


@pytest.mark.long
@pytest.mark.skipif(not HAS_NATIVE, reason="the native backend is not built: make native")
def test_endless_loads_inside_the_server_end_with_it_before_they_block_a_rollback(serve, monkeypatch) -> None:
    """One holds up nothing but its own model; the server is started again before the last thread for loads is gone."""
    monkeypatch.setenv("POLICYCTL_SERVING__NATIVE", "on")
    _begin(serve, Format.OPENVINO, "second", "third")
    pid = serve.endpoint["pid"]
    for model in ("other", "second"):
        _promote_endless(serve, model)
    with monkeypatch.context() as hasty:
        hasty.setenv("POLICYCTL_SERVER__TIMEOUT_S", "5")
        refused = serve.run("promote", "other", "1.0.1", check=False)
    assert (refused.returncode, "has not ended" in refused.stderr) == (7, True)
    serve.run("rollback", "walker")
    serve.run("promote", "walker", "1.1.0")
    assert serve.endpoint["pid"] == pid
    _promote_endless(serve, "third")
    wait_for(lambda: serve.triton not in {None, pid})
    serve.has_said("one more would block every rollback")
    wait_for(lambda: serve.answered_by() == "1.1.0")
    serve.run("promote", "other", "1.0.1")
