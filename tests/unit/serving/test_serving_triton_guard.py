"""Whether a server may trace, and what is said where it may not."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_serving_process_parts import INSTALL

from policyctl.errors import UnsupportedError
from policyctl.services.experiments.record import RecordOptions, _Session
from policyctl.services.supervise import without_guard
from policyctl.serving import triton_guard
from policyctl.serving.checks import Status
from policyctl.serving.checks import triton_guard as check
from policyctl.serving.command import ServerOptions, environment
from policyctl.settings import load


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A guard that was built."""
    found = tmp_path / triton_guard.LIBRARY
    found.touch()
    monkeypatch.setattr(triton_guard.find, "__defaults__", (found,))
    return found


@pytest.fixture
def unbuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No guard."""
    monkeypatch.setattr(triton_guard.find, "__defaults__", (tmp_path / "none.so",))


@pytest.mark.parametrize(
    ("version", "mended"),
    [("2.51.0", False), ("2.57.0", False), ("2.58.0", True), ("2.69.0dev", True), ("3.0.0", True), ("", False)],
)
def test_newer_tritons_need_no_guard(version: str, mended: bool) -> None:
    """What says nothing of its version is not trusted."""
    assert triton_guard.is_mended(version) is mended


def test_the_server_gets_the_guard_behind_what_is_preloaded_already(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name and the folder to look in: a path may hold spaces."""
    monkeypatch.setenv("LD_PRELOAD", "libasan.so")
    variables = environment(INSTALL)
    assert variables["LD_PRELOAD"] == f"libasan.so:{triton_guard.LIBRARY}"
    assert variables["LD_LIBRARY_PATH"].split(":")[:3] == ["/w/libs", "/py/lib", str(library.parent)]


@pytest.mark.usefixtures("unbuilt")
def test_without_a_guard_nothing_is_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader would complain about a library that is not there, in every process."""
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert "LD_PRELOAD" not in environment(INSTALL)


def test_a_process_without_it_has_it_not() -> None:
    """Neither has one that is gone."""
    assert not triton_guard.is_loaded(os.getpid())
    assert not triton_guard.is_loaded(2**22 + 1)


@pytest.mark.usefixtures("unbuilt")
def test_spans_are_refused_where_they_could_crash_the_server(tmp_path: Path) -> None:
    """The remedy names the build, a newer Triton, and the word that takes the risk."""

    def asked(**tracing: object) -> None:
        settings = load(repository=tmp_path, tracing=tracing)
        without_guard.require_guard(SimpleNamespace(settings=settings))  # type: ignore[arg-type]

    with pytest.raises(UnsupportedError, match="can crash") as caught:
        asked(endpoint="http://127.0.0.1:4318/v1/traces")
    for words in ("make native", "25.05", "POLICYCTL_TRACING__UNGUARDED"):
        assert words in caught.value.remedy
    asked()
    asked(endpoint="http://127.0.0.1:4318/v1/traces", unguarded=True)


@pytest.mark.parametrize(
    ("guard", "version", "unguarded", "refused"),
    [
        ("", "2.51.0", False, True),
        ("", "2.51.0", True, False),
        ("", "2.69.0", False, False),
        ("loaded", "2.51.0", False, False),
    ],
)
def test_a_recording_that_could_crash_the_server_is_refused(
    tmp_path: Path, guard: str, version: str, unguarded: bool, refused: bool
) -> None:
    """Before anything is switched on."""
    control = SimpleNamespace(settings=load(repository=tmp_path, tracing={"unguarded": unguarded}))
    client = SimpleNamespace(endpoint=SimpleNamespace(triton_guard=guard), version=lambda: version)
    session = _Session(control, RecordOptions(), "walker", None)  # type: ignore[arg-type]
    if not refused:
        session._require_safe(client)  # type: ignore[arg-type]
        return
    with pytest.raises(UnsupportedError, match=r"Triton 2\.51\.0 can crash while it traces"):
        session._require_safe(client)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "built", "on"),
    [
        *[("auto", True, True), ("on", True, True), ("off", True, False)],
        *[("auto", False, False), ("on", False, True), ("off", False, False)],
    ],
)
def test_http_is_off_where_one_request_could_end_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, built: bool, on: bool
) -> None:
    """Unless somebody takes the risk; without the guard the start warns of it, whatever is chosen."""
    library = tmp_path / triton_guard.LIBRARY
    if built:
        library.touch()
    monkeypatch.setattr(triton_guard.find, "__defaults__", (library,))
    lines: list[str] = []
    settings = load(repository=tmp_path, server={"http": mode})
    control = SimpleNamespace(settings=settings, tell=lambda text, level=None: lines.append(text))
    assert without_guard.answers_http(control) is on  # type: ignore[arg-type]
    warned = " ".join(lines)
    assert ("make native" in warned) is not built
    assert ("web page" in warned) is (on and not built)
    assert ("HTTP is off" in warned) is (mode == "auto" and not built)


def test_the_guard_gets_the_limits_of_the_settings(library: Path) -> None:
    """By the environment of the server, whose own address is always one of its names."""
    options = ServerOptions(Path("/r"), Path("/b"), host="robot", max_request_bytes=5, http_hosts=("a", "b"))
    variables = environment(INSTALL, options)
    assert variables["TRITON_GUARD_REQUEST_BYTES"] == "5"
    assert variables["TRITON_GUARD_HOSTS"] == "robot,a,b"


def test_doctor_says_whether_anything_can_be_traced() -> None:
    """Nothing else needs it, so its absence is a warning."""
    assert check(built=True).status is Status.OK
    warned = check(built=False)
    assert (warned.status, warned.fix) == (Status.WARNING, "make native (needs g++)")
