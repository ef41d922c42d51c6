"""Judge what `preflight` saw: whether the embedded Triton can work on this machine.

Only judging, no looking: every function takes what was seen and returns a
`Check`, so each judgement is tested without a machine that has the fault.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from policyctl.errors import UnsupportedError
from policyctl.serving.compiled import how_to_have_them

MIB: Final = 1 << 20
GLIBC_NEEDED: Final = (2, 35)
"""The wheel of the server is built against it (its tag is manylinux_2_35)."""

INSTALL_SERVER: Final = "Install the server: pip install 'policyctl[serve]'"

WITHOUT_BASH: Final = "Triton starts Python-based backends through it, and without it every load hangs"

_NOT_FOUND: Final = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)
_VERSION_MISSING: Final = re.compile(r"version [`'](\S+)' not found \(required by (\S+)\)")
_LIBPYTHON: Final = re.compile(r"libpython3\.\d+\.so\.1\.0")
_INSTRUCTIONS: Final = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")


class Status(StrEnum):
    """What a check came to."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: What was looked at.
        status: Failed means that no server can work; a warning, that
            something else cannot.
        detail: What was seen.
        fix: What to do; empty where nothing is to be done.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


def require(checks: Iterable[Check]) -> None:
    """Refuse to go on where a check failed.

    Raises:
        UnsupportedError: Names every failed check, and how to mend each.
    """
    failed = [check for check in checks if check.status is Status.FAILED]
    if failed:
        alike: dict[str, list[str]] = {}
        for check in failed:
            alike.setdefault(check.detail, []).append(check.name)
        raise UnsupportedError(
            "the embedded Triton cannot run here: "
            + "; ".join(f"{', '.join(names)}: {detail}" for detail, names in alike.items()),
            remedy="; ".join(dict.fromkeys(c.fix for c in failed if c.fix)),
        )


def unresolved(ldd_output: str) -> tuple[str, ...]:
    """Libraries, and versions of libraries, that the loader does not find.

    Args:
        ldd_output: What ``ldd`` wrote, to standard output and error.
    """
    missing = _NOT_FOUND.findall(ldd_output)
    versions = [version for version, _ in _VERSION_MISSING.findall(ldd_output)]
    return tuple(dict.fromkeys([*missing, *versions]))


def libraries(name: str, ldd_output: str | None, *, fix: str) -> Check:
    """Whether the libraries of a binary resolve.

    Args:
        name: Of the check.
        ldd_output: What ``ldd`` wrote; None where there is no ``ldd``.
        fix: What to do if they do not.
    """
    if ldd_output is None:
        return Check(name, Status.WARNING, "there is no ldd to ask", "Install ldd (it comes with glibc).")
    missing = unresolved(ldd_output)
    if not missing:
        return Check(name, Status.OK, "all found")
    return Check(name, Status.FAILED, f"not found: {', '.join(missing)}", fix)


def stub_libraries(ldd_output: str | None, *, libdir: str) -> Check:
    """Whether the stub finds its libraries, of which Python's own is the one that lacks in practice.

    Args:
        ldd_output: What ``ldd`` wrote; None where there is no ``ldd``.
        libdir: Where this Python would have its shared library.
    """
    missing = "" if ldd_output is None else " ".join(unresolved(ldd_output))
    if match := _LIBPYTHON.search(missing):
        package = match.group().split(".so")[0]
        fix = (
            f"Install it: apt install {package}; or use a Python built with --enable-shared"
            f" (this one has none in {libdir or 'its LIBDIR'})."
        )
    else:
        fix = "Reinstall the server: pip install --force-reinstall nvidia-pytriton==0.7.0"
    return libraries("stub libraries", ldd_output, fix=fix)


def perf_analyzer(path: Path | None, ldd_output: str | None, bundled: Collection[str]) -> Check:
    """Whether perf_analyzer can run, given the libraries that the server's wheel brings along.

    Args:
        path: Where it is; None where it is not.
        ldd_output: What ``ldd`` wrote of it.
        bundled: File names in the wheel's folder of libraries.
    """
    name, fix = "perf_analyzer", "Benchmarks need it: pip install tritonclient==2.51.0"
    if path is None:
        return Check(name, Status.WARNING, "not found", fix)
    missing = [lib for lib in unresolved(ldd_output or "") if bundled_library(lib, bundled) is None]
    if missing:
        return Check(name, Status.WARNING, f"{path} does not find {', '.join(missing)}", fix)
    return Check(name, Status.OK, str(path))


def bundled_library(soname: str, bundled: Collection[str]) -> str | None:
    """The file in `bundled` that is `soname`, whose wheel put a hash into its name.

    ``libb64.so.0d`` is there as ``libb64-98cb6333.so.0d``, ``libcudart.so.12``
    as ``libcudart-09529672.so.12.6.77``.
    """
    stem, dot, suffix = soname.partition(".so")
    pattern = re.compile(rf"{re.escape(stem)}-[0-9a-f]{{8}}{re.escape(dot + suffix)}(\.[\w.]+)?")
    return next((name for name in sorted(bundled) if pattern.fullmatch(name)), None)


def bash(path: str | None, *, needed: bool) -> Check:
    """Whether Triton can start Python-based backends.

    Args:
        path: The first bash on PATH of the server; None where it is missing.
        needed: Whether such a backend serves the format that is served where nothing else is said.
    """
    if path is not None:
        return Check("bash", Status.OK, path)
    status = Status.FAILED if needed else Status.WARNING
    return Check("bash", status, f"not found: {WITHOUT_BASH}", "Install it: apt-get install bash")


def glibc(version: str) -> Check:
    """Whether the C library is new enough; `version` is empty where it is not glibc."""
    needed = ".".join(map(str, GLIBC_NEEDED))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    fix = f"Use a system with glibc {needed} or later: Debian 12, Ubuntu 22.04, RHEL 10."
    if len(numbers) != len(GLIBC_NEEDED):
        return Check("glibc", Status.FAILED, "the C library is not glibc", fix)
    if numbers < GLIBC_NEEDED:
        return Check("glibc", Status.FAILED, f"{version}, needed is {needed}", fix)
    return Check("glibc", Status.OK, version)


def ports(numbers: Mapping[str, int], *, host: str, holders: Mapping[int, str]) -> tuple[Check, ...]:
    """Whether the server can listen on its ports.

    Args:
        numbers: By the option of `policyctl serve` that chooses each.
        host: Where it is to listen.
        holders: Who holds those that are not free; empty where that is unknown.
    """
    options = " ".join(f"{option} N" for option, number in numbers.items() if number in holders)
    fix = f"Stop what holds it, or choose others: policyctl serve {options} (0 takes a free one)."
    return tuple(
        Check(f"port {number}", Status.OK, f"free on {host}")
        if number not in holders
        else Check(f"port {number}", Status.FAILED, f"held on {host} by {holders[number] or 'an unknown process'}", fix)
        for number in numbers.values()
    )


def disk(folder: Path, *, free_bytes: int, writable: bool) -> Check:
    """Whether releases and backends find room in the repository."""
    detail = f"{free_bytes // MIB:,} MiB free in {folder}"
    if not writable:
        return Check("repository", Status.FAILED, f"{folder} cannot be written", "Mind its owner and mode.")
    if free_bytes < 64 * MIB:
        fix = "Make room: what is served serves on, but nothing can be published, promoted or rolled back."
        return Check("repository", Status.WARNING, detail, fix)
    if free_bytes < 1024 * MIB:
        return Check("repository", Status.WARNING, detail, "A few releases may fill the disk: make room.")
    return Check("repository", Status.OK, detail)


def backend_code(problems: Sequence[str]) -> Check:
    """Whether what Triton runs is what was installed, and nobody else can change it."""
    if not problems:
        return Check("backend code", Status.OK, "as installed")
    fix = "Install it again (pip install --force-reinstall), and let nobody else write there (chmod o-w)."
    return Check("backend code", Status.FAILED, "; ".join(problems), fix)


def triton_guard(*, built: bool) -> Check:
    """Whether Triton is kept from crashing of what clients send."""
    if built:
        return Check("triton guard", Status.OK, "built: no request, cancelled call or trace ends the server")
    return Check(
        "triton guard",
        Status.WARNING,
        "not built: HTTP is off, gRPC clients can crash the server, policyctl record and tracing are refused",
        how_to_have_them(),
    )


def shared_memory(*, free_bytes: int, writable: bool) -> Check:
    """Whether Triton and its stubs find room for what they pass each other."""
    fix = "Give it more: docker run --shm-size=256m, or mount -o remount,size=256m /dev/shm"
    if not writable:
        return Check("shared memory", Status.FAILED, "it cannot be written", "Mount a tmpfs on /dev/shm, mode 1777.")
    detail = f"{free_bytes // MIB:,} MiB free in /dev/shm"
    if free_bytes < 16 * MIB:
        return Check("shared memory", Status.FAILED, detail, fix)
    if free_bytes < 64 * MIB:
        return Check("shared memory", Status.WARNING, f"{detail}, which is little for large batches", fix)
    return Check("shared memory", Status.OK, detail)


def runtimes(versions: Sequence[tuple[str, str | None]]) -> tuple[Check, ...]:
    """Which backends can compute.

    Args:
        versions: Module and its version, None where it is not installed.
    """
    none = all(version is None for _, version in versions)
    checks = []
    for module, version in versions:
        if version is not None:
            checks.append(Check(f"runtime {module}", Status.OK, version))
            continue
        # The server comes with two runtimes; torch is large, and only TorchScript artifacts need it.
        with_server = module != "torch"
        checks.append(
            Check(
                f"runtime {module}",
                Status.FAILED if none and with_server else Status.WARNING,
                "not installed: its artifacts cannot be served here",
                INSTALL_SERVER if with_server else "pip install 'policyctl[export]'",
            )
        )
    return tuple(checks)


def numpy(version: str | None) -> Check:
    """Whether the stub's own Python finds a numpy that it can use."""
    fix = "pip install 'numpy>=1.26,<2'"
    if version is None:
        return Check("numpy", Status.FAILED, "not installed", fix)
    if int(version.split(".")[0]) >= 2:
        return Check("numpy", Status.FAILED, f"{version}, the server's stub needs one below 2", fix)
    return Check("numpy", Status.OK, version)


def cpu(count: float, flags: Collection[str]) -> Check:
    """What computes, for the record."""
    extensions = ", ".join(name for name in _INSTRUCTIONS if name in flags) or "no vector extension that counts"
    return Check("cpu", Status.OK, f"{count:g} usable, {extensions}")
