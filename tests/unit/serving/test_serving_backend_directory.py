"""Laying out the folder from which Triton loads its backends."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from policyctl.errors import UnsupportedError
from policyctl.serving import backend_directory
from policyctl.serving.backend_directory import MODULES, assemble
from policyctl.serving.locate import TritonInstall
from policyctl.serving.native import NativeBackend


@pytest.fixture
def install(tmp_path: Path) -> TritonInstall:
    """An install of small files."""
    wheel = tmp_path / "wheel"
    wheel.mkdir()
    for name in ("libtriton_python.so", "triton_python_backend_utils.py", "stub"):
        (wheel / name).write_text(name)
    return TritonInstall(
        version="0.7.0",
        tritonserver=wheel / "tritonserver",
        libraries=wheel,
        python_backend=wheel,
        stub=wheel / "stub",
        caches=wheel,
        libpython=None,
        python_bin=wheel,
    )


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_everything_that_triton_looks_for_is_there(install: TritonInstall, tmp_path: Path) -> None:
    """Python's backend, an executable stub, and a model.py a runtime."""
    folder = assemble(install, tmp_path / "backends")
    assert set(contents(folder)) == {
        "python/libtriton_python.so",
        "python/triton_python_backend_utils.py",
        "python/triton_python_backend_stub",
        *(f"{name}/model.py" for name in MODULES),
    }
    stub = folder / "python" / "triton_python_backend_stub"
    assert stub.stat().st_mode & 0o777 == 0o755
    for name in MODULES:
        assert "class TritonPythonModel" in (folder / name / "model.py").read_text()


def test_assembling_again_changes_nothing(install: TritonInstall, tmp_path: Path) -> None:
    """A running server's files are not written a second time, and no temporary folder is left."""
    folder = assemble(install, tmp_path / "backends")
    before = {path: path.stat().st_ino for path in folder.rglob("*")}
    assert assemble(install, tmp_path / "backends") == folder
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == before
    assert list((tmp_path / "backends").iterdir()) == [folder]


def test_an_upgrade_gets_a_folder_of_its_own(install: TritonInstall, tmp_path: Path) -> None:
    """Files of a server that still runs on the earlier version stay as they are."""
    first = assemble(install, tmp_path / "backends")
    install.stub.write_text("another stub")
    second = assemble(install, tmp_path / "backends")
    assert first != second
    assert (first / "python" / "triton_python_backend_stub").read_text() == "stub"
    assert (second / "python" / "triton_python_backend_stub").read_text() == "another stub"


def test_a_folder_that_lost_a_file_is_made_whole(install: TritonInstall, tmp_path: Path) -> None:
    """Somebody who clears files away does not stop the next start."""
    folder = assemble(install, tmp_path / "backends")
    whole = contents(folder)
    (folder / "openvino" / "model.py").unlink()
    assert assemble(install, tmp_path / "backends") == folder
    assert contents(folder) == whole
    assert list((tmp_path / "backends").iterdir()) == [folder]


def test_a_folder_whose_file_was_cut_is_made_whole(install: TritonInstall, tmp_path: Path) -> None:
    """A file of another size is not taken for the one that belongs there."""
    folder = assemble(install, tmp_path / "backends")
    (folder / "python" / "triton_python_backend_stub").write_text("")
    assert contents(assemble(install, tmp_path / "backends"))["python/triton_python_backend_stub"] == "stub"


def test_many_servers_may_assemble_at_once(install: TritonInstall, tmp_path: Path) -> None:
    """All of them get the same whole folder."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: assemble(install, tmp_path / "backends"), range(24)))
    assert len(set(found)) == 1
    assert len(contents(found[0])) == 3 + len(MODULES)
    assert list((tmp_path / "backends").iterdir()) == [found[0]]


def test_a_target_that_is_a_file_is_refused_with_a_remedy(install: TritonInstall, tmp_path: Path) -> None:
    """The refusal names the folder and says what to do."""
    (tmp_path / "taken").touch()
    with pytest.raises(UnsupportedError, match="taken") as caught:
        assemble(install, tmp_path / "taken")
    assert caught.value.remedy


def test_a_relative_target_gives_an_absolute_folder(
    install: TritonInstall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server runs in another working directory, where a relative name would mean nothing."""
    monkeypatch.chdir(tmp_path)
    folder = assemble(install, Path("backends"))
    assert folder.is_absolute()
    assert os.fspath(folder).startswith(os.fspath(tmp_path))


def test_who_comes_second_takes_what_is_there(
    install: TritonInstall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that another server put there a moment earlier is used as it is: that server runs from it."""
    real, placed = backend_directory._copy, {}

    def overtaken(wanted: dict[str, Path], folder: Path) -> None:
        real(wanted, folder)
        if not placed:
            placed["by the other"] = None
            other = assemble(install, tmp_path / "backends")
            placed.update({path: path.stat().st_ino for path in other.rglob("*")})

    monkeypatch.setattr(backend_directory, "_copy", overtaken)
    folder = assemble(install, tmp_path / "backends")
    del placed["by the other"]
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == placed
    assert list((tmp_path / "backends").iterdir()) == [folder]


def test_a_native_backend_takes_the_place_of_its_twin(install: TritonInstall, tmp_path: Path) -> None:
    """The library and a link to OpenVINO's own, no model.py beside them; and another folder than without it."""
    library, libraries = tmp_path / "built.so", tmp_path / "libs"
    library.write_text("compiled")
    libraries.mkdir()
    native = NativeBackend(library, libraries)
    folder = assemble(install, tmp_path / "backends", native=native)
    assert {p.name for p in (folder / "openvino").iterdir()} == {"libtriton_openvino.so", "libs"}
    assert (folder / "openvino" / "libs").resolve() == libraries
    assert assemble(install, tmp_path / "backends", native=native) == folder
    assert assemble(install, tmp_path / "backends") != folder
