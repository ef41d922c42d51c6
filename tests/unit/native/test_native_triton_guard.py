"""The library that keeps Triton's traces and calls alive, before a Triton of a dozen lines; needs a C++ compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_native_parts import ROOT, build_script

LIBRARY = "libtriton_guard.so"


@pytest.fixture(scope="module")
def built() -> Path:
    """The folder of the library, and of programs that do what tritonserver does."""
    script = build_script()
    try:
        folder: Path = script.build(
            ROOT / "build" / "backend_openvino",
            targets=("triton_guard", "fake_triton", "trace_guard_test", "cancel_guard_test"),
        )
    except script.CannotBuildError as error:
        pytest.skip(f"the guard cannot be built here: {str(error).splitlines()[0]}")
    return folder


def ask(folder: Path, preloaded: str, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(folder / program), *arguments],
        env={**os.environ, "LD_PRELOAD": preloaded, "LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout.strip()


def test_a_trace_outlives_its_release_and_not_by_much(built: Path) -> None:
    """Without the guard it is gone while its lock is held, which is Triton's defect; with it, right after, no leak."""
    assert ask(built, "", "trace_guard_test") == "within"
    assert ask(built, LIBRARY, "trace_guard_test") == "after"


@pytest.mark.parametrize(
    ("events", "heard"),
    [
        ("mmd", "mmd"),  # answered
        ("mdd", "mmd"),  # cancelled: given back while gRPC's own notice was under way
        ("mdm", "mmd"),
        ("mmm", "mmd"),  # never given back
        ("d", "d"),  # the server stops: there was no call
    ],
)
def test_a_call_is_given_back_when_triton_has_heard_everything_and_not_before(
    built: Path, events: str, heard: str
) -> None:
    """Whatever Triton says to the events; without the guard that is what its loop hears. States are used again."""
    assert ask(built, "", "cancel_guard_test", events).split() == [events]
    assert ask(built, LIBRARY, "cancel_guard_test", events, "mmd", events).split() == [heard, "mmd", heard]


def test_a_tritonserver_that_it_does_not_fit_does_not_run(built: Path, tmp_path: Path) -> None:
    """Nobody is to believe that a server is guarded while it is not. Other programs inherit the preload, and run."""
    other = shutil.copy(built / "cancel_guard_test", tmp_path / "tritonserver")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        ask(built, LIBRARY, str(other), "mmd")
    assert refused.value.returncode == 70
    assert "does not fit this tritonserver (gRPC messages)" in refused.value.stderr
    assert ask(built, LIBRARY, "/bin/echo", "ran") == "ran"
