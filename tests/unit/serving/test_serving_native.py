"""Which of the two OpenVINO backends serves, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyctl.errors import UnsupportedError
from policyctl.serving.native import NativeBackend, choose
from policyctl.settings import NativeMode


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library that was linked against OpenVINO 2641, as the linker notes it."""
    found = tmp_path / "libtriton_openvino.so"
    found.write_bytes(b"\x7fELF...libopenvino.so.2641\x00libc.so.6\x00")
    return found


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """The libraries of that OpenVINO."""
    folder = tmp_path / "libs"
    folder.mkdir()
    (folder / "libopenvino.so.2641").touch()
    return folder


@pytest.mark.parametrize("mode", [NativeMode.AUTO, NativeMode.ON])
def test_the_native_backend_serves_where_it_fits_the_installed_openvino(
    library: Path, libraries: Path, mode: NativeMode
) -> None:
    """Nothing is left to do, and the words name the library."""
    choice = choose(mode, library=library, libraries=libraries)
    assert choice.backend == NativeBackend(library, libraries)
    assert choice.summary == "native (libtriton_openvino.so)"
    assert choice.remedy == ""


def test_it_can_be_switched_off(library: Path, libraries: Path) -> None:
    """Off means the Python-based one, although the native one would fit."""
    choice = choose(NativeMode.OFF, library=library, libraries=libraries)
    assert choice.backend is None
    assert "serving.native" in choice.summary


def test_without_a_built_library_the_python_based_one_serves(tmp_path: Path, libraries: Path) -> None:
    """It says so, and how to build it."""
    choice = choose(NativeMode.AUTO, library=tmp_path / "none.so", libraries=libraries)
    assert choice.backend is None
    assert "not built" in choice.summary
    assert "make native" in choice.remedy


def test_a_library_of_another_openvino_is_not_used(library: Path, libraries: Path) -> None:
    """An upgrade of the wheel does not break serving; the words name what is missing."""
    (libraries / "libopenvino.so.2641").rename(libraries / "libopenvino.so.2700")
    choice = choose(NativeMode.AUTO, library=library, libraries=libraries)
    assert choice.backend is None
    assert "libopenvino.so.2641" in choice.summary


def test_nothing_is_served_where_the_native_one_is_demanded_and_cannot(tmp_path: Path, libraries: Path) -> None:
    """On is a demand: no silent fallback to what is half as fast."""
    with pytest.raises(UnsupportedError, match="not built") as refusal:
        choose(NativeMode.ON, library=tmp_path / "none.so", libraries=libraries)
    assert "make native" in refusal.value.remedy
