"""Laying out the folder from which Triton loads its backends."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import pytest

from policyctl.errors import UnsupportedError
from policyctl.serving import shared_memory
from policyctl.serving.backend_directory import MODULES, assemble, code_folder, unlike_installed
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


def test_everything_that_triton_looks_for_is_there_as_installed(install: TritonInstall, tmp_path: Path) -> None:
    """Python's backend, a stub, and a model.py a runtime: links to installed files where Triton takes links."""
    folder = assemble(install, tmp_path / "backends")
    assert set(contents(folder)) == {
        "python/libtriton_python.so",
        "python/triton_python_backend_utils.py",
        "python/triton_python_backend_stub",
        *(f"{name}/model.py" for name in MODULES),
    }
    copies = [path.name for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert copies == ["libtriton_python.so"]
    assert (folder / "python" / "triton_python_backend_stub").resolve() == install.stub
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in MODULES:
        assert "class TritonPythonModel" in (folder / name / "model.py").read_text()


def test_no_start_uses_what_another_one_left(install: TritonInstall, tmp_path: Path) -> None:
    """Whatever was changed in an earlier directory, compiled code next to it included, is not in the next."""
    first = assemble(install, tmp_path / "backends")
    (first / "openvino" / "model.py").unlink()
    (first / "openvino" / "model.py").write_text("evil")
    (first / "openvino" / "__pycache__").mkdir()
    second = assemble(install, tmp_path / "backends")
    assert first != second
    assert "class TritonPythonModel" in (second / "openvino" / "model.py").read_text()
    assert not (second / "openvino" / "__pycache__").exists()


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


def test_a_native_backend_takes_the_place_of_its_twin(install: TritonInstall, tmp_path: Path) -> None:
    """The library and a link to OpenVINO's own, no model.py next to them."""
    library, libraries = tmp_path / "built.so", tmp_path / "libs"
    library.write_text("compiled")
    libraries.mkdir()
    folder = assemble(install, tmp_path / "backends", native=NativeBackend(library, libraries))
    assert {p.name for p in (folder / "openvino").iterdir()} == {"libtriton_openvino.so", "libs"}
    assert (folder / "openvino" / "libs").resolve() == libraries


def test_what_a_killed_server_leaves_goes_with_its_shared_memory(install: TritonInstall, tmp_path: Path) -> None:
    """The directory carries the prefix of the server's claim; removing follows no link."""
    memory = tmp_path / "shm"
    memory.mkdir()
    claim = shared_memory.claim(tmp_path, folder=memory)
    assemble(install, memory, prefix=f"{claim.prefix}backends-")
    assert shared_memory.cleanup_stale(tmp_path, folder=memory) == ()
    claim.close()
    assert len(shared_memory.cleanup_stale(tmp_path, folder=memory)) == 2
    assert list(memory.iterdir()) == []
    assert install.stub.read_text() == "stub"


def test_code_goes_where_it_can_be_run(tmp_path: Path, monkeypatch) -> None:
    """Docker mounts /dev/shm noexec: then the temporary folder is taken, and where nothing is left, it is said."""
    real, barred = os.statvfs, {"/dev/shm"}

    def statvfs(path: Path):
        found = real(path)
        flags = found.f_flag | (os.ST_NOEXEC if str(path) in barred else 0)
        return os.statvfs_result((*found[:8], flags, *found[9:]))

    monkeypatch.setattr(os, "statvfs", statvfs)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert code_folder() == tmp_path
    barred.update({str(tmp_path), "/var/tmp"})
    with pytest.raises(UnsupportedError, match="noexec") as refused:
        code_folder()
    assert "TMPDIR" in refused.value.remedy


def _record(folder: Path, name: str, file: Path) -> None:
    """Have `file` recorded as installed by a distribution."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(f"{os.path.relpath(file, folder)},sha256={digest},{file.stat().st_size}\n")


def test_an_installed_file_that_was_changed_is_named(install: TritonInstall, tmp_path: Path, monkeypatch) -> None:
    """One flipped bit of the stub, at the same size; and a file that everybody can write."""
    _record(tmp_path / "site", "nvidia-pytriton", install.stub)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    assert list(unlike_installed(install, None)) == []
    install.stub.write_text("stuc")
    (install.python_backend / "libtriton_python.so").chmod(0o666)
    found = list(unlike_installed(install, None))
    assert any("libtriton_python.so (mode 666)" in problem for problem in found)
    assert f"{install.stub} is not what was installed" in found
    install.stub.unlink()
    assert any("stub cannot be read" in problem for problem in unlike_installed(install, None))
