"""Lay out the folder from which Triton loads its backends.

Triton wants the Python backend, the stub of the running Python and one folder
a runtime side by side; the packages keep them apart. So each start makes a
folder of links to the installed files, and it goes with the server. What Triton
takes as no link is copied. So nothing differs from what is installed, and no
code lies in the repository, where whatever can write a release could change it.
The folder is its owner's alone: Python looks for compiled code
(``__pycache__``) there too.

The native OpenVINO backend finds OpenVINO's libraries through a link next to it,
so the compiled file holds no path of the machine on which it was compiled.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from policyctl.claims import FOLDER
from policyctl.errors import UnsupportedError
from policyctl.serving.locate import DISTRIBUTION, TritonInstall, locate
from policyctl.serving.native import LIBRARY, NativeBackend, choose
from policyctl.settings import NativeMode

MODULES: Final = {"openvino": "openvino", "onnxruntime": "onnxruntime", "pytorch": "torch"}
"""The module that computes, by backend; backends are named as NVIDIA's native ones."""

_LIBRARIES_LINK: Final = "openvino/libs"
_NO_LINKS: Final = frozenset({"python/libtriton_python.so"})
"""Of a link here Triton 2.51 says that it escapes the backend directory."""


def assemble(
    install: TritonInstall, parent: Path, *, native: NativeBackend | None = None, prefix: str = "backends-"
) -> Path:
    """Make a fresh backend directory.

    Args:
        install: Where the server's parts are.
        parent: Where to make it; made where it is missing.
        native: Serves OpenVINO artifacts; None for the Python-based backend.
        prefix: What its name begins with.

    Returns:
        The directory for ``--backend-directory``.

    Raises:
        UnsupportedError: `parent` cannot be written.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent.absolute()))
        for path, source in _sources(install, native).items():
            (folder / path).parent.mkdir(exist_ok=True)
            if path in _NO_LINKS:
                shutil.copyfile(source, folder / path)
            else:
                (folder / path).symlink_to(source)
    except OSError as error:
        raise UnsupportedError(
            f"the backend directory cannot be made in {parent}: {error}", remedy="Mind its owner and mode."
        ) from error
    return folder


def code_folder() -> Path:
    """Where a library can lie that Triton loads; in a container ``/dev/shm`` may allow none.

    Raises:
        UnsupportedError: Nowhere.
    """
    candidates = (FOLDER, Path(tempfile.gettempdir()), Path("/var/tmp"))  # noqa: S108 - what is made there is ours alone
    for folder in candidates:
        with suppress(OSError):
            if os.access(folder, os.W_OK | os.X_OK) and not os.statvfs(folder).f_flag & os.ST_NOEXEC:
                return folder
    raise UnsupportedError(
        f"no program can be run from any of {', '.join(map(str, candidates))} (they are mounted noexec)",
        remedy="Set TMPDIR to a folder on a file system that allows it.",
    )


def code_problems(mode: NativeMode) -> tuple[str, ...]:
    """What is wrong with the code that a server on this machine runs; nothing where none can run.

    Args:
        mode: Which OpenVINO backend is wanted.
    """
    try:
        install = locate()
    except UnsupportedError:
        return ()
    try:
        native = choose(mode).backend
    except UnsupportedError:
        native = None
    return tuple(unlike_installed(install, native))


def unlike_installed(install: TritonInstall, native: NativeBackend | None) -> Iterator[str]:
    """What is wrong with the installed files that Triton runs, as sentences.

    A package that was installed records the digest of each of its files; one
    that is developed in place records none, and is not compared.
    """
    sources = _sources(install, native).values()
    names = {source.resolve().name for source in sources}
    recorded = {path: digest for name in (DISTRIBUTION, "policyctl") for path, digest in _recorded(name, names)}
    for source in sources:
        if source.is_dir():
            continue
        try:
            mode, content = source.stat().st_mode, source.read_bytes()
        except OSError as error:
            yield f"{source} cannot be read ({error.strerror})"
            continue
        if mode & stat.S_IWOTH:
            yield f"everybody on this machine can change {source} (mode {stat.S_IMODE(mode):o})"
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        if recorded.get(source.resolve(), digest) != digest:
            yield f"{source} is not what was installed"


def _recorded(distribution: str, names: Collection[str]) -> Iterator[tuple[Path, str]]:
    """The digests of a distribution's files of these names."""
    try:
        files = importlib.metadata.files(distribution) or ()
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name in names and file.hash is not None and file.hash.mode == "sha256":
            yield Path(str(file.locate())).resolve(), file.hash.value


def _sources(install: TritonInstall, native: NativeBackend | None) -> dict[str, Path]:
    """What each path of the backend directory leads to; a folder of libraries is one link."""
    own = Path(__file__).resolve().parent / "backends"
    sources = {
        "python/libtriton_python.so": install.python_backend / "libtriton_python.so",
        "python/triton_python_backend_utils.py": install.python_backend / "triton_python_backend_utils.py",
        "python/triton_python_backend_stub": install.stub,
        **{f"{name}/model.py": own / name / "model.py" for name in MODULES},
    }
    if native is not None:
        del sources["openvino/model.py"]
        sources |= {f"openvino/{LIBRARY}": native.library, _LIBRARIES_LINK: native.openvino}
    return sources
