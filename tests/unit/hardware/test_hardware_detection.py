"""Reading the machine from Linux's files, of this machine and of made-up ones."""

from __future__ import annotations

import os
import platform
import sys
import types
from pathlib import Path

import pytest

from policyctl.serving.hardware import caches, cpu_fields, cpu_limit, detect, memory_left, memory_limit, numa_nodes


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_this_machine_is_read_without_a_note_of_failure() -> None:
    """Cores and memory are what the kernel says, and the fingerprint is the same twice."""
    found = detect()
    assert found.usable_cores == len(os.sched_getaffinity(0))
    assert 0 < found.cores <= found.usable_cores <= found.logical_cores
    assert found.memory_bytes > 1 << 28
    assert found.cpu_model
    assert detect().fingerprint == found.fingerprint


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({}, None, None),
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n",
                "sys/fs/cgroup/pod/box/memory.max": "max\n",
            },
            None,
            None,
        ),
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/box/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/pod/box/memory.max": "1073741824\n",
            },
            1.5,
            1 << 30,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/host/path\n3:cpu,cpuacct:/host/path\n0::/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
            },
            0.5,
            1 << 29,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/\n3:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            None,
            None,
        ),
        ({"proc/self/cgroup": "nonsense\n0::/../..\n", "sys/fs/cgroup/cpu.max": "x y z\n"}, None, None),
    ],
    ids=["none", "v2 unlimited", "v2 the tightest counts", "v1 in a container", "v1 unlimited", "nonsense"],
)
def test_limits_of_control_groups_are_found(tmp_path: Path, files, cores, memory) -> None:
    """In both versions of control groups, at any height; what cannot be read does not limit."""
    root = lay(tmp_path, files)
    assert (cpu_limit(root), memory_limit(root)) == (cores, memory)


def test_caches_and_nodes_are_counted(tmp_path: Path) -> None:
    """Sizes with their unit, who shares them, and lists of nodes with gaps."""
    folder = "sys/devices/system/cpu/cpu0/cache"
    root = lay(
        tmp_path,
        {
            f"{folder}/index0/level": "1",
            f"{folder}/index0/type": "Data",
            f"{folder}/index0/size": "48K",
            f"{folder}/index0/shared_cpu_list": "0,32",
            f"{folder}/index3/level": "3",
            f"{folder}/index3/type": "Unified",
            f"{folder}/index3/size": "32M",
            f"{folder}/index3/shared_cpu_list": "0-7,32-39",
            f"{folder}/index9/level": "?",
            "sys/devices/system/node/has_memory": "0-1,4",
        },
    )
    found = [(c.level, c.kind, c.size_bytes, c.shared_by) for c in caches(root)]
    assert found == [(1, "data", 48 << 10, 2), (3, "unified", 32 << 20, 16)]
    assert numa_nodes(root) == 3
    assert (caches(tmp_path / "none"), numa_nodes(tmp_path / "none"), cpu_fields(tmp_path / "none")) == ((), 1, {})


def fake_nvml(**changes):
    """NVIDIA's binding, with one GPU."""

    class NVMLError(Exception):
        pass

    class LibraryNotFoundError(NVMLError):
        pass

    module = types.ModuleType("pynvml")
    facts = {
        "NVMLError": NVMLError,
        "NVMLError_LibraryNotFound": LibraryNotFoundError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "550.54.15",
        "nvmlSystemGetCudaDriverVersion": lambda: 12040,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda device: "NVIDIA L4",
        "nvmlDeviceGetCudaComputeCapability": lambda device: (8, 9),
        "nvmlDeviceGetMemoryInfo": lambda device: types.SimpleNamespace(total=24 << 30),
    }
    vars(module).update(facts)
    for name, error in changes.items():

        def fail(*_, error=error):
            raise getattr(module, error)("it broke")

        setattr(module, name, fail)
    return module


def test_a_gpu_is_told_with_its_driver(monkeypatch) -> None:
    """Older releases of the binding return bytes; both are read."""
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    (gpu,) = detect().gpus
    assert (gpu.name, gpu.compute_capability, gpu.driver, gpu.cuda) == ("NVIDIA L4", "8.9", "550.54.15", "12.4")


@pytest.mark.parametrize(
    ("changes", "noted"),
    [
        ({"nvmlInit": "NVMLError_LibraryNotFound"}, False),
        ({"nvmlInit": "NVMLError"}, True),
        ({"nvmlDeviceGetCount": "NVMLError"}, True),
    ],
    ids=["no driver", "driver broken", "driver breaks later"],
)
def test_a_driver_that_is_absent_or_broken_leaves_no_gpu(monkeypatch, changes, noted: bool) -> None:
    """An absent one is not worth a word, a broken one is."""
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(**changes))
    found = detect()
    assert found.gpus == ()
    assert any("GPUs could not be read" in note for note in found.notes) == noted


def test_a_cpu_that_linux_does_not_name_has_its_architecture_for_a_name(tmp_path: Path) -> None:
    """As on ARM."""
    lay(tmp_path, {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd sve\n\nprocessor\t: 1\nFeatures\t: x\n"})
    machine = detect(root=tmp_path)
    assert (machine.cpu_model, machine.isa) == (platform.machine(), ("NEON", "SVE"))


GROUPS = {
    "version 2": (
        {
            "proc/4711/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/pod/box/memory.max": "1000000\n",
            "sys/fs/cgroup/pod/box/memory.current": "900000\n",
            "sys/fs/cgroup/pod/box/memory.stat": "anon 1\ninactive_file 300000\nactive_file 5\n",
            "sys/fs/cgroup/pod/memory.max": "max\n",
            "sys/fs/cgroup/pod/memory.current": "950000\n",
        },
        400_000,
    ),
    "version 1": (
        {
            "proc/4711/cgroup": "4:memory:/box\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1000000\n",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "990000\n",
            "sys/fs/cgroup/memory/box/memory.stat": "inactive_file 1\ntotal_inactive_file 20000\n",
        },
        30_000,
    ),
    "the parent is tighter": (
        {
            "proc/4711/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/pod/box/memory.max": "1000000\n",
            "sys/fs/cgroup/pod/box/memory.current": "100000\n",
            "sys/fs/cgroup/pod/memory.max": "500000\n",
            "sys/fs/cgroup/pod/memory.current": "499000\n",
        },
        1_000,
    ),
    "more is used than allowed": (
        {
            "proc/4711/cgroup": "0::/box\n",
            "sys/fs/cgroup/box/memory.max": "1000\n",
            "sys/fs/cgroup/box/memory.current": "2000\n",
        },
        0,
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_what_is_left_is_what_the_tightest_control_group_leaves(tmp_path: Path, name: str) -> None:
    """Of the process that is asked about; pages of files that nobody reads are as good as free."""
    files, left = GROUPS[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = memory_left(tmp_path, process="4711")
    assert (found.left_bytes, found.limited_by) == (left, "its control group")


def test_without_a_limit_the_machine_is_what_there_is(tmp_path: Path) -> None:
    """No control group that says anything: what the kernel says is available."""
    found = memory_left(tmp_path)
    assert found.limited_by == "the machine"
    assert 0 < found.left_bytes <= found.limit_bytes
