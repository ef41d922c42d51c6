"""Compile the native OpenVINO backend and the guard of Triton, and put both where `policyctl serve` looks.

    python backend_openvino/build.py [--optional] [--sanitize address,undefined] [--into FOLDER]

Needs g++ (or another C++17 compiler, named by CXX) and the packages openvino,
cmake and ninja of this Python; a cmake and a ninja on PATH do as well. Triton
takes no part in the build.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).resolve().parent
SERVING: Final = SOURCE.parent / "control/policyctl/serving"
BESIDE: Final = SERVING / "backends/openvino"
LIBRARY: Final = "libtriton_openvino.so"
GUARD: Final = "libtriton_guard.so"
LANE: Final = "libtriton_lane.so"


class CannotBuildError(Exception):
    """Something is missing here; the text says what, and what to do."""


def build(folder: Path, *, sanitize: str = "", targets: tuple[str, ...] = ()) -> Path:
    """Compile into `folder`, again only what changed.

    Args:
        folder: The build tree; made where it is missing.
        sanitize: Sanitizers, as ``-fsanitize`` takes them.
        targets: What to build; everything but the tests if empty.

    Returns:
        `folder`, which holds what was built.

    Raises:
        CannotBuildError: No compiler, no OpenVINO, no cmake or ninja, or the compiler failed.
    """
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if compiler is None:
        raise CannotBuildError("there is no C++ compiler: install g++ (Debian: apt-get install g++)")
    cmake, ninja = _program("cmake"), _program("ninja")
    configure = [
        *(cmake, "-S", str(SOURCE), "-B", str(folder), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        *(f"-DOPENVINO={_openvino()}", f"-DSANITIZE={sanitize}"),
    ]
    chosen = [word for target in targets for word in ("--target", target)]
    with _alone(folder):
        for command in (configure, [cmake, "--build", str(folder), *chosen]):
            # By variable and not by -D: cmake forgets the rest of its cache when it is given a compiler anew.
            environment = {**os.environ, "CXX": compiler}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise CannotBuildError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
            if "warning:" in done.stdout:
                sys.stderr.write(done.stdout)
    return folder


def install(folder: Path, into: Path = BESIDE, *, library: str = LIBRARY) -> Path:
    """Put a library of a build tree into `into`; a server that has the old one loaded keeps it.

    Returns:
        The library.
    """
    into.mkdir(parents=True, exist_ok=True)
    fresh = into / f".{library}.{os.getpid()}"
    shutil.copyfile(folder / library, fresh)
    fresh.replace(into / library)
    return into / library


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two who build in one folder at once would run what the other is still writing."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _program(name: str) -> str:
    """The one of this Python's packages, else the one on PATH."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise CannotBuildError(f"there is no {name}: pip install {name}")
    return found


def _openvino() -> Path:
    spec = importlib.util.find_spec("openvino")
    if spec is None or not spec.submodule_search_locations:
        raise CannotBuildError("openvino is not installed: pip install 'policyctl[serve]'")
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def main() -> int:
    """Build and install; the exit code says whether it worked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optional", action="store_true", help="succeed where it cannot be built, and say why")
    parser.add_argument("--sanitize", default="", help="for example address,undefined; needs --into")
    parser.add_argument("--into", type=Path, help="where to put the library instead of beside model.py")
    arguments = parser.parse_args()
    if arguments.sanitize and not arguments.into:
        parser.error("--sanitize needs --into: such a library serves only under a sanitizer's runtime")
    name = f"backend_openvino{'-' + arguments.sanitize.replace(',', '-') if arguments.sanitize else ''}"
    try:
        folder = build(SOURCE.parent / "build" / name, sanitize=arguments.sanitize)
    except CannotBuildError as error:
        sys.stderr.write(f"The native OpenVINO backend is not built: {error}\n")
        if arguments.optional:
            sys.stderr.write(
                "The Python-based backend of the same name will serve, without the guard of Triton: HTTP is off,"
                " nothing can be recorded or traced, and gRPC clients can crash the server."
                " Later: make native\n"
            )
        return 0 if arguments.optional else 1
    sys.stdout.write(f"Native OpenVINO backend: {install(folder, arguments.into or BESIDE)}\n")
    if not arguments.into:
        sys.stdout.write(f"Guard of Triton: {install(folder, SERVING, library=GUARD)}\n")
        sys.stdout.write(f"Local lane: {install(folder, SERVING, library=LANE)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
