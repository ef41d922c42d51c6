"""The library that keeps Triton's traces alive, before a Triton of a dozen lines; needs a C++ compiler."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from test_native_parts import ROOT, build_script

LIBRARY = "libtriton_trace_guard.so"


@pytest.fixture(scope="module")
def built() -> Path:
    """The folder of the library and of a program that releases a trace as tritonserver does."""
    script = build_script()
    try:
        folder: Path = script.build(
            ROOT / "build" / "backend_openvino", targets=("triton_trace_guard", "fake_triton", "trace_guard_test")
        )
    except script.CannotBuildError as error:
        pytest.skip(f"the guard cannot be built here: {str(error).splitlines()[0]}")
    return folder


def gone(folder: Path, preloaded: str) -> str:
    done = subprocess.run(
        [str(folder / "trace_guard_test")],
        env={**os.environ, "LD_PRELOAD": preloaded, "LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


def test_a_trace_outlives_its_release_and_not_by_much(built: Path) -> None:
    """Without the guard it is gone while its lock is held, which is Triton's defect; with it, right after, no leak."""
    assert gone(built, "") == "within"
    assert gone(built, LIBRARY) == "after"
