"""Lay out the folder from which Triton loads its backends.

Triton wants the Python backend, the stub of the running Python and one folder
a runtime side by side; the wheel keeps them apart. The folder is assembled
under a temporary name and then renamed, so it is either whole or absent, and
its name carries a digest of what is in it: two servers that assemble the same
one meet in it, and an upgrade never changes files below a running server.

The native OpenVINO backend finds OpenVINO's libraries through a link beside it,
so the compiled file holds no path of the machine on which it was compiled.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final

from policyctl.errors import UnsupportedError
from policyctl.serving.locate import TritonInstall
from policyctl.serving.native import LIBRARY, NativeBackend

MODULES: Final = {"openvino": "openvino", "onnxruntime": "onnxruntime", "pytorch": "torch"}
"""The module that computes, by backend; backends are named as NVIDIA's native ones."""

_EXECUTABLE: Final = 0o755
_PLAIN: Final = 0o644
_LIBRARIES_LINK: Final = "openvino/libs"


def assemble(install: TritonInstall, target: Path, *, native: NativeBackend | None = None) -> Path:
    """Build the backend directory below `target`, or find it built.

    Args:
        install: Where the server's parts are.
        target: A folder of ours, made where it is missing; it may hold the
            directories of several versions.
        native: Serves OpenVINO artifacts; None for the Python-based backend.

    Returns:
        The directory for ``--backend-directory``: ``<target>/<digest>``.

    Raises:
        UnsupportedError: A part is missing, or `target` cannot be written.
    """
    wanted = _wanted(install, native)
    try:
        name = _digest(wanted)
        target.mkdir(parents=True, exist_ok=True)
        final = target.absolute() / name
        if _complete(final, wanted):
            return final
        fresh = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=target))
        try:
            _copy(wanted, fresh)
            _put(fresh, final, wanted)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise UnsupportedError(
            f"the backend directory {target} cannot be assembled: {error}",
            remedy="Name a folder that can be written, on a disk with 10 MB free.",
        ) from error
    return final


def add_native(folder: Path, name: str, library: Path, libraries: Path | None = None) -> None:
    """Put one more compiled backend into an assembled directory, to measure or test it beside the others.

    Args:
        folder: What `assemble` returned.
        name: What ``config.pbtxt`` calls the backend.
        library: Compiled, whatever its own file is called.
        libraries: Folder of the libraries that it needs, linked as ``libs`` beside it.
    """
    home = folder / name
    home.mkdir(exist_ok=True)
    shutil.copyfile(library, home / f"libtriton_{name}.so")
    if libraries is not None and not (home / "libs").is_symlink():
        (home / "libs").symlink_to(libraries)


def _wanted(install: TritonInstall, native: NativeBackend | None) -> dict[str, Path]:
    """Source of every file, by its path in the backend directory; a folder is linked."""
    own = Path(__file__).resolve().parent / "backends"
    wanted = {
        "python/libtriton_python.so": install.python_backend / "libtriton_python.so",
        "python/triton_python_backend_utils.py": install.python_backend / "triton_python_backend_utils.py",
        "python/triton_python_backend_stub": install.stub,
        **{f"{name}/model.py": own / name / "model.py" for name in MODULES},
    }
    if native is not None:
        del wanted["openvino/model.py"]
        wanted |= {f"openvino/{LIBRARY}": native.library, _LIBRARIES_LINK: native.openvino}
    return wanted


def _digest(wanted: dict[str, Path]) -> str:
    hasher = hashlib.sha256()
    for path, source in wanted.items():
        content = str(source) if source.is_dir() else hashlib.sha256(source.read_bytes()).hexdigest()
        hasher.update(f"{path} {content}\n".encode())
    return hasher.hexdigest()[:16]


def _complete(folder: Path, wanted: dict[str, Path]) -> bool:
    """Whether every file is there with its size, and the stub can be run."""
    for path, source in wanted.items():
        if source.is_dir():
            if not (folder / path).is_symlink():
                return False
            continue
        try:
            status = (folder / path).stat()
        except OSError:
            return False
        if status.st_size != source.stat().st_size:
            return False
        if path.endswith("_stub") and not status.st_mode & stat.S_IXUSR:
            return False
    return True


def _copy(wanted: dict[str, Path], folder: Path) -> None:
    for path, source in wanted.items():
        copy = folder / path
        copy.parent.mkdir(exist_ok=True)
        if source.is_dir():
            copy.symlink_to(source)
            continue
        shutil.copyfile(source, copy)
        copy.chmod(_EXECUTABLE if path.endswith("_stub") else _PLAIN)
    folder.chmod(_EXECUTABLE)


def _put(fresh: Path, final: Path, wanted: dict[str, Path]) -> None:
    """Move `fresh` to its name; one that another server put there first is as good."""
    try:
        fresh.rename(final)
    except OSError:
        if _complete(final, wanted):
            return
        # Somebody removed files from it: set it aside, for a server may still have it open.
        aside = Path(tempfile.mkdtemp(prefix=".broken.", dir=final.parent))
        os.rename(final, aside / final.name)  # noqa: PTH104 - Path.rename says no more
        fresh.rename(final)
        shutil.rmtree(aside, ignore_errors=True)
