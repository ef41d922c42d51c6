"""Find the Triton that the ``nvidia-pytriton`` wheel carries.

The wheel is opened for its binaries only: its Python package is never
imported, because importing it starts its own machinery. Everything returned
here existed when it was looked up; whether it also *works* on this machine is
`policyctl.serving.preflight`'s question.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyctl.errors import UnsupportedError
from policyctl.serving.checks import INSTALL_SERVER

DISTRIBUTION: Final = "nvidia-pytriton"


@dataclass(frozen=True, slots=True)
class TritonInstall:
    """Where the parts of the embedded Triton are.

    Attributes:
        version: Version of the wheel.
        tritonserver: The server's binary.
        libraries: Folder of the shared libraries that the binaries need.
        python_backend: Folder of Triton's Python backend.
        stub: The process that runs a backend's Python, for this Python's minor version.
        caches: Folder of Triton's response caches.
        libpython: Folder of ``libpython3.X.so.1.0``; None where only the
            system's loader can tell.
        python_bin: Folder of this ``python3``, which the stub must find first.
    """

    version: str
    tritonserver: Path
    libraries: Path
    python_backend: Path
    stub: Path
    caches: Path
    libpython: Path | None
    python_bin: Path

    @property
    def library_path(self) -> tuple[Path, ...]:
        """What ``LD_LIBRARY_PATH`` has to begin with at run time."""
        return (self.libraries,) if self.libpython is None else (self.libraries, self.libpython)


def locate() -> TritonInstall:
    """The embedded Triton of this Python environment.

    Raises:
        UnsupportedError: The wheel is not installed, is incomplete, or has no
            stub for this Python.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise UnsupportedError(f"{DISTRIBUTION} is not installed in {sys.prefix}", remedy=INSTALL_SERVER)
    package = Path(next(iter(spec.submodule_search_locations))).resolve()
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    server = package / "tritonserver"
    install = TritonInstall(
        version=_version(),
        tritonserver=server / "bin" / "tritonserver",
        libraries=package.parent / "nvidia_pytriton.libs",
        python_backend=server / "backends" / "python",
        stub=server / "python_backend_stubs" / minor / "triton_python_backend_stub",
        caches=server / "caches",
        libpython=libpython_folder(),
        python_bin=Path(sys.executable).parent,
    )
    if not install.stub.is_file() and install.tritonserver.is_file():
        have = sorted(p.name for p in (server / "python_backend_stubs").glob("3.*"))
        raise UnsupportedError(
            f"{DISTRIBUTION} {install.version} has no stub for Python {minor}, only for {', '.join(have)}",
            remedy="Use an environment of one of these Pythons.",
        )
    for path in (install.tritonserver, install.libraries, install.python_backend):
        if not path.exists():
            raise UnsupportedError(f"{DISTRIBUTION} {install.version}: {path} is missing", remedy=INSTALL_SERVER)
    return install


def libpython_name() -> str:
    """File name of the shared library of this Python's minor version."""
    return f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"


def libpython_folder() -> Path | None:
    """The folder in which this Python's own shared library lies, if it was built with one.

    The interpreter's own library is preferred to a system's, so that the stub
    runs the very minor and patch level whose standard library it imports.
    """
    folder = sysconfig.get_config_var("LIBDIR")
    if not isinstance(folder, str) or not (Path(folder) / libpython_name()).is_file():
        return None
    return Path(folder)


def _version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"
