"""Look at this machine before a server is started on it.

A tritonserver whose libraries do not fit does not fail: it waits for ever, or
loads nothing. So everything that it needs is looked at first, in less than a
second, and judged by `policyctl.serving.checks`. ``policyctl doctor`` prints
the result; starting a server requires it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from policyctl.claims import FOLDER
from policyctl.errors import UnsupportedError
from policyctl.serving import checks, triton_guard
from policyctl.serving.backend_directory import MODULES, code_folder, code_problems
from policyctl.serving.checks import Check, Status, require
from policyctl.serving.command import environment
from policyctl.serving.hardware import detect
from policyctl.serving.locate import TritonInstall, locate
from policyctl.serving.native import choose
from policyctl.serving.ports import holder, is_free
from policyctl.settings import NativeMode

__all__ = ["Check", "Status", "preflight", "require"]

PORT_OPTIONS: Final = ("--http-port", "--grpc-port", "--metrics-port", "--control-metrics-port")
"""What of `policyctl serve` chooses each port, in the order of the settings."""

_LDD_TIMEOUT_S: Final = 20.0


def preflight(
    *,
    repository: Path,
    host: str = "127.0.0.1",
    ports: Mapping[str, int],
    native: NativeMode = NativeMode.AUTO,
) -> tuple[Check, ...]:
    """Check everything that a server needs; start nothing.

    Args:
        repository: Where releases are, or will be.
        host: Address that the server will listen on.
        ports: Ports that it will listen on, by the option of `policyctl serve` that chooses each.
        native: Which OpenVINO backend is wanted.
    """
    return (
        *_server(native),
        checks.glibc(_glibc()),
        checks.numpy(_version("numpy")),
        *checks.runtimes([(module, _version(module)) for module in MODULES.values()]),
        _openvino_backend(native),
        checks.triton_guard(built=triton_guard.find() is not None),
        _repository(repository),
        checks.shared_memory(free_bytes=_free(FOLDER), writable=os.access(FOLDER, os.W_OK | os.X_OK)),
        *port_checks(ports, host=host),
        _cpu(),
    )


def port_checks(ports: Mapping[str, int], *, host: str) -> tuple[Check, ...]:
    """Whether a server could listen on these ports now.

    Args:
        ports: By the option of `policyctl serve` that chooses each.
        host: Address that the server will listen on.
    """
    return checks.ports(ports, host=host, holders=_holders(ports.values(), host))


def _server(native: NativeMode) -> tuple[Check, ...]:
    try:
        install = locate()
    except UnsupportedError as error:
        return (Check("tritonserver", Status.FAILED, error.problem, error.remedy),)
    server = Check("tritonserver", Status.OK, f"{install.tritonserver} ({install.version})")
    return (server, *_binaries(install, is_native=_is_native(native)), _backend_code(native))


def _is_native(mode: NativeMode) -> bool:
    with contextlib.suppress(UnsupportedError):
        return choose(mode).backend is not None
    return False


def _backend_code(mode: NativeMode) -> Check:
    try:
        code_folder()
    except UnsupportedError as error:
        return Check("backend code", Status.FAILED, error.problem, error.remedy)
    return checks.backend_code(code_problems(mode))


def _binaries(install: TritonInstall, *, is_native: bool) -> tuple[Check, ...]:
    variables = environment(install)
    analyzer = _perf_analyzer()
    bundled = [path.name for path in install.libraries.iterdir()]
    bash = shutil.which("bash", path=variables["PATH"])
    return (
        checks.bash(bash, needed=not is_native),
        checks.libraries(
            "server libraries",
            _ldd(install.tritonserver, variables),
            fix="Reinstall the server: pip install --force-reinstall nvidia-pytriton==0.7.0",
        ),
        checks.stub_libraries(_ldd(install.stub, variables), libdir=str(sysconfig.get_config_var("LIBDIR") or "")),
        checks.perf_analyzer(analyzer, None if analyzer is None else _ldd(analyzer, variables), bundled),
    )


def _openvino_backend(mode: NativeMode) -> Check:
    try:
        choice = choose(mode)
    except UnsupportedError as error:
        return Check("openvino backend", Status.FAILED, error.problem, error.remedy)
    return Check("openvino backend", Status.WARNING if choice.remedy else Status.OK, choice.summary, choice.remedy)


def _ldd(binary: Path, variables: dict[str, str]) -> str | None:
    """What ldd says under the server's own environment; None where it cannot be asked."""
    program = shutil.which("ldd")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, str(binary)],
            env={**variables, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_LDD_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout + done.stderr


def _perf_analyzer() -> Path | None:
    installed = Path(sys.executable).parent / "perf_analyzer"
    if installed.is_file():
        return installed
    path = shutil.which("perf_analyzer")
    return None if path is None else Path(path)


def _glibc() -> str:
    name, version = platform.libc_ver()
    return version if name == "glibc" else ""


def _version(module: str) -> str | None:
    """Version of an importable module, without importing it."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return "0 (version unknown)"


def _repository(repository: Path) -> Check:
    folder = repository.absolute()
    while not folder.exists():
        folder = folder.parent
    return checks.disk(folder, free_bytes=_free(folder), writable=os.access(folder, os.W_OK | os.X_OK))


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _holders(numbers: Iterable[int], host: str) -> dict[int, str]:
    return {number: holder(number) for number in numbers if not is_free(number, host=host)}


def _cpu() -> Check:
    hardware = detect()
    return checks.cpu(hardware.cores, hardware.flags)
