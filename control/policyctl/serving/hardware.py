"""Look at the machine: CPU, limits, memory, caches, GPUs.

The one reader of these facts: `policyctl hardware`, `doctor`, `serve` and the
store of benchmark results all call `detect`. It takes some milliseconds, and
more only where an NVIDIA driver has to be asked.

Linux's own files say it. A CPU that they do not name (ARM) has its architecture
for a name. Nothing here raises: what cannot be read is left out, and a note says so.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from policyctl.domain.hardware import Cache, Gpu, Hardware
from policyctl.errors import UnsupportedError
from policyctl.serving.locate import locate

_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_NO_LIMIT_BYTES: Final = 1 << 60
"""cgroup v1 writes a number near 2**63 for none."""


def detect(*, root: Path = Path("/")) -> Hardware:
    """The machine as this process may use it.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    import psutil

    notes: list[str] = []
    named = cpu_fields(root)
    usable = len(os.sched_getaffinity(0))
    return Hardware(
        cpu_model=named.get("model name") or platform.machine(),
        architecture=platform.machine(),
        flags=frozenset((named.get("flags") or named.get("Features") or "").split()),
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=psutil.cpu_count() or usable,
        usable_cores=usable,
        cpu_limit=cpu_limit(root),
        numa_nodes=numa_nodes(root),
        caches=caches(root),
        memory_bytes=psutil.virtual_memory().total,
        memory_limit_bytes=memory_limit(root),
        virtual="hypervisor" in (named.get("flags") or "").split(),
        gpus=_gpus(notes),
        kernel=platform.release(),
        triton=_triton(notes),
        notes=tuple(notes),
    )


def cpu_fields(root: Path = Path("/")) -> dict[str, str]:
    """What ``/proc/cpuinfo`` says of the first core."""
    fields: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        if not line.strip():
            if fields:
                break
            continue
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return fields


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that the tightest control group allows; None for no limit."""
    limits = []
    for folder in _group_folders(root, "cpu"):
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
        if not quota:  # version 1
            quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes that the tightest control group allows; None for no limit."""
    return min((limit for _, limit, _ in _memory_groups(root)), default=None)


@dataclass(frozen=True, slots=True)
class MemoryLeft:
    """What one more process could still have.

    Attributes:
        left_bytes: Before something is swapped out or killed.
        limit_bytes: Of how much.
        limited_by: ``the machine`` or ``its control group``, whichever ends first.
    """

    left_bytes: int
    limit_bytes: int
    limited_by: str


def memory_left(root: Path = Path("/"), *, process: str = "self") -> MemoryLeft:
    """What is left of the machine's memory, or of the tightest control group's where that is less.

    Args:
        root: Where ``proc`` and ``sys`` are.
        process: Whose control groups: a process id, or ``self``.
    """
    import psutil

    machine = psutil.virtual_memory()
    rooms = [MemoryLeft(int(machine.available), int(machine.total), "the machine")]
    for folder, limit, used in _memory_groups(root, process=process):
        if used is not None:
            # Pages of files that nobody reads are counted, and given up before anybody is refused.
            left = limit - used + _idle_file_bytes(folder)
            rooms.append(MemoryLeft(max(0, left), limit, "its control group"))
    return min(rooms, key=lambda each: each.left_bytes)


def _memory_groups(root: Path, *, process: str = "self") -> Iterable[tuple[Path, int, int | None]]:
    """Each control group that limits memory: its folder, the limit, and what is used where that is known."""
    for folder in _group_folders(root, "memory", process=process):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            allowed, taken = _read(folder / limit).strip(), _read(folder / used).strip()
            if allowed.isdigit() and int(allowed) < _NO_LIMIT_BYTES:
                yield folder, int(allowed), int(taken) if taken.isdigit() else None


def _idle_file_bytes(folder: Path) -> int:
    fields = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
    text = fields.get("total_inactive_file") or fields.get("inactive_file") or ""
    return int(text) if text.strip().isdigit() else 0


def numa_nodes(root: Path = Path("/")) -> int:
    """Nodes that have memory; 1 where the kernel does not say."""
    text = _read(root / "sys/devices/system/node/has_memory") or _read(root / "sys/devices/system/node/online")
    return max(1, _count(text))


def caches(root: Path = Path("/")) -> tuple[Cache, ...]:
    """Of the first core."""
    listed = []
    for folder in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        size, level = _read(folder / "size").strip(), _read(folder / "level").strip()
        if not level.isdigit() or not size[:-1].isdigit() or size[-1] not in _UNITS:
            continue
        shared = max(1, _count(_read(folder / "shared_cpu_list")))
        kind = _read(folder / "type").strip().lower()
        listed.append(Cache(int(level), kind, int(size[:-1]) * _UNITS[size[-1]], shared))
    return tuple(listed)


def _group_folders(root: Path, controller: str, *, process: str = "self") -> Iterable[Path]:
    """Every folder from a process's control group up, in version 2's tree and in version 1's."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc" / process / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        base = mount / controller if controllers else mount
        # In a container the path may be the host's, of which only the lower end is mounted: the top is asked too.
        parts = [part for part in path.split("/") if part not in {"", "..", "."}]
        for depth in range(len(parts), -1, -1):
            yield base.joinpath(*parts[:depth])


def _gpus(notes: list[str]) -> tuple[Gpu, ...]:
    try:
        import pynvml
    except ImportError:
        notes.append("GPUs were not looked for: nvidia-ml-py is not installed")
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return ()  # no driver, hence no GPU that could be used: nothing to note
    except pynvml.NVMLError as error:
        notes.append(f"GPUs could not be read: {error}")
        return ()
    try:
        driver, cuda = str(pynvml.nvmlSystemGetDriverVersion()), int(pynvml.nvmlSystemGetCudaDriverVersion())
        return tuple(_gpu(pynvml, index, driver, cuda) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        notes.append(f"GPUs could not be read: {error}")
        return ()
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int, driver: str, cuda: int) -> Gpu:
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(device)
    return Gpu(
        name=str(nvml.nvmlDeviceGetName(device)),
        compute_capability=f"{major}.{minor}",
        driver=driver,
        cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(device).total),
    )


def _triton(notes: list[str]) -> str:
    try:
        return f"nvidia-pytriton {locate().version}"
    except UnsupportedError as error:
        notes.append(f"no embedded Triton: {error.problem}")
        return ""


def _count(cpu_list: str) -> int:
    """How many numbers a list such as ``0-3,8`` holds."""
    total = 0
    for part in cpu_list.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            total += int(last) - int(first) + 1 if last.isdigit() else 1
    return total


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
