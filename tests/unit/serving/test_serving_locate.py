"""Finding the embedded Triton."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from policyctl.errors import UnsupportedError
from policyctl.serving.locate import libpython_name, locate

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


def wheel(root: Path, *, minors: tuple[str, ...] = (MINOR,)) -> Path:
    """Empty files where the wheel has its own."""
    server = root / "pytriton" / "tritonserver"
    for path in (
        server / "bin" / "tritonserver",
        server / "backends" / "python" / "libtriton_python.so",
        root / "nvidia_pytriton.libs" / "libtritonserver.so",
        *(server / "python_backend_stubs" / minor / "triton_python_backend_stub" for minor in minors),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root / "pytriton"


@pytest.fixture
def found_in(monkeypatch: pytest.MonkeyPatch):
    """Lets the package be found in a folder, or not at all."""

    def find(folder: Path | None) -> None:
        spec = None if folder is None else ModuleSpec("pytriton", None, is_package=True)
        if spec is not None:
            assert spec.submodule_search_locations is not None
            spec.submodule_search_locations.append(str(folder))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)

    return find


def test_all_parts_are_found_without_importing_the_package(found_in, tmp_path: Path) -> None:
    """Finding the server does not run the code of the wheel that carries it."""
    found_in(wheel(tmp_path))
    sys.modules.pop("pytriton", None)
    install = locate()
    assert "pytriton" not in sys.modules
    assert install.tritonserver.is_file()
    assert install.stub.parent.name == MINOR
    assert install.libraries == tmp_path / "nvidia_pytriton.libs"
    assert install.library_path[0] == install.libraries


def test_a_missing_wheel_gets_the_command_that_installs_it(found_in) -> None:
    """Nobody has to know which of the project's extras carries the server."""
    found_in(None)
    with pytest.raises(UnsupportedError) as caught:
        locate()
    assert "policyctl[serve]" in caught.value.remedy


def test_a_python_without_a_stub_is_told_which_have_one(found_in, tmp_path: Path) -> None:
    """The wheel has stubs of some Pythons only."""
    found_in(wheel(tmp_path, minors=("3.8", "3.9")))
    with pytest.raises(UnsupportedError, match=rf"no stub for Python {MINOR}, only for 3\.8, 3\.9"):
        locate()


def test_an_incomplete_wheel_is_named(found_in, tmp_path: Path) -> None:
    """A folder that was partly removed is reported by the first part that lacks."""
    package = wheel(tmp_path)
    (package / "tritonserver" / "bin" / "tritonserver").unlink()
    with pytest.raises(UnsupportedError, match="tritonserver is missing"):
        found_in(package)
        locate()


def test_the_shared_library_is_named_by_the_minor_version() -> None:
    """The stub is linked against exactly this name."""
    assert libpython_name() == f"libpython{MINOR}.so.1.0"
