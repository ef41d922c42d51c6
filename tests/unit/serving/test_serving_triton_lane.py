"""The local lane of the embedded server: preloaded where it is asked for, and refused where it cannot be."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_serving_process_parts import INSTALL

from policyctl.errors import BusyError, UnsupportedError, UsageError
from policyctl.services.supervise.engines import alone_in_lane, launcher
from policyctl.serving import triton_guard, triton_lane
from policyctl.serving.command import ServerOptions, environment
from policyctl.settings import load

HERE = Path("/opt/triton")


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    library = tmp_path / triton_lane.LIBRARY
    library.touch()
    monkeypatch.setattr(triton_lane, "find", lambda: library)
    monkeypatch.setattr(triton_guard, "find", lambda: None)
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    return library


def test_who_does_not_ask_for_it_has_nothing_of_it(built: Path) -> None:
    """Neither the library nor its variable; with the setting both."""
    without = environment(INSTALL, ServerOptions(HERE))
    assert not {"LD_PRELOAD", "TRITON_LANE_SOCKET"} & without.keys()
    having = environment(INSTALL, ServerOptions(HERE, lane="/run/robot/lane"))
    assert having["LD_PRELOAD"] == built.name
    assert str(built.parent) in having["LD_LIBRARY_PATH"]
    assert having["TRITON_LANE_SOCKET"] == "/run/robot/lane"
    assert having["TRITON_GUARD_REQUEST_BYTES"] == str(64 << 20)


def test_a_lane_that_is_not_built_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server must not run without a front end that its clients count on."""
    monkeypatch.setattr(triton_lane, "find", lambda: None)
    with pytest.raises(UnsupportedError, match="is not built"):
        triton_lane.prepare("local:")


def test_a_setting_that_names_no_socket_is_refused(built: Path) -> None:
    """As the client refuses it."""
    with pytest.raises(UsageError, match="names no UNIX socket"):
        triton_lane.prepare("/run/robot/lane.sock/")


def test_the_usual_folder_is_made_and_has_to_be_the_user_s_alone(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others may enter it, anybody could stand in for the server."""
    with tempfile.TemporaryDirectory(prefix="lane-") as run:
        monkeypatch.setenv("XDG_RUNTIME_DIR", run)
        path = Path(triton_lane.prepare("local:"))
        assert path.parent.stat().st_mode & 0o777 == 0o700
        path.parent.chmod(0o755)
        with pytest.raises(UnsupportedError, match="not this user's alone"):
            triton_lane.prepare("local:")


def test_a_socket_is_replaced_and_removed_only_where_nobody_listens(built: Path) -> None:
    """One of a killed server does not stand in the way; one that answers does, and stays."""
    with tempfile.TemporaryDirectory(prefix="lane-") as run:
        path = f"{run}/lane"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(path)
            listener.listen()
            with pytest.raises(UnsupportedError, match="another server listens"):
                triton_lane.prepare(f"local:{path}")
            triton_lane.forget(path)
            assert Path(path).exists()
        assert triton_lane.prepare(f"local:{path}") == path
        triton_lane.forget(path)
        assert not Path(path).exists()
        triton_lane.forget(path)


def test_a_folder_that_cannot_be_made_is_refused(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where XDG_RUNTIME_DIR names a missing folder the refusal says so."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"/missing-{os.getpid()}")
    with pytest.raises(UnsupportedError, match="cannot be made: No such file") as refused:
        triton_lane.prepare("local:")
    assert "XDG_RUNTIME_DIR" in refused.value.remedy


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_a_socket_in_no_folder_is_refused(built: Path, parent: str) -> None:
    """Before anything starts, and by the folder's name."""
    with tempfile.TemporaryDirectory(prefix="lane-") as run:
        Path(run, "file").touch()
        with pytest.raises(UsageError, match=f"cannot write to the folder {run}/{parent}"):
            triton_lane.prepare(f"local:{run}/{parent}/lane")


@pytest.mark.parametrize("kind", ["file", "folder", "link", "socket of another user"])
def test_what_is_no_socket_of_this_user_stays(built: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's file at the path is neither replaced nor removed."""
    with tempfile.TemporaryDirectory(prefix="lane-") as run:
        path = Path(run, "lane")
        match kind:
            case "file":
                path.write_text("precious")
            case "folder":
                path.mkdir()
            case "link":
                path.symlink_to("file")
                Path(run, "file").write_text("precious")
            case _:
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
                    left.bind(str(path))
                monkeypatch.setattr(triton_lane.os, "geteuid", lambda: path.lstat().st_uid + 1)
        before = path.lstat()
        with pytest.raises(UsageError, match="something else than a socket of this user"):
            triton_lane.prepare(f"local:{path}")
        triton_lane.forget(str(path))
        assert path.lstat().st_ino == before.st_ino


@pytest.mark.parametrize("error", [BlockingIOError, TimeoutError, PermissionError])
def test_a_server_that_does_not_take_us_now_is_a_server(
    built: Path, error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with a full queue, one that is stopped and one that may not be asked keep their socket."""

    def refuse(_path: str, _timeout_s: float) -> None:
        raise error

    monkeypatch.setattr(triton_lane.lane, "connect", refuse)
    with (
        tempfile.TemporaryDirectory(prefix="lane-") as run,
        pytest.raises(UnsupportedError, match="another server may listen"),
    ):
        triton_lane.prepare(f"local:{run}/lane")


def test_two_servers_never_share_a_lane(built: Path, tmp_path: Path) -> None:
    """The second one is refused by the name of the first, also while nobody listens there."""
    with tempfile.TemporaryDirectory(prefix="lane-") as run:
        first, second = (
            SimpleNamespace(
                settings=load(repository=tmp_path, server={"lane": f"local:{run}/lane"}),
                repository=SimpleNamespace(root=tmp_path / name),
            )
            for name in ("first", "second")
        )
        with (
            alone_in_lane(first),  # type: ignore[arg-type]
            pytest.raises(BusyError, match=r"policyctl serve of .*first"),
            alone_in_lane(second),  # type: ignore[arg-type]
        ):
            pass
        with alone_in_lane(second):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize("engine", ["docker", "external"])
def test_another_engine_has_no_lane(engine: str, tmp_path: Path) -> None:
    """A setting that does nothing would let clients wait for a socket that never comes."""
    settings = load(repository=tmp_path, server={"lane": "local:", "engine": engine})
    with pytest.raises(UsageError, match="only the embedded Triton has a local lane"):
        launcher(SimpleNamespace(settings=settings), api_key="")  # type: ignore[arg-type]
