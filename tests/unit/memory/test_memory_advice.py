"""What follows from measured costs."""

from __future__ import annotations

from dataclasses import replace

from policyctl.domain.artifacts import Format
from policyctl.domain.hardware import Gpu
from policyctl.domain.recommendations import pools
from policyctl.services.experiments.memory_report import ServedCost, recommend
from policyctl.serving.hardware import detect
from policyctl.serving.memory import ProcessUse

MB = 1_000_000
GIB = 1 << 30


def cost(alias: str = "production", *, own_mb: int = 100, kind: Format = Format.OPENVINO) -> ServedCost:
    use = ProcessUse(1, 2 * own_mb * MB, own_mb * MB, own_mb * MB, 2 * own_mb * MB, 10, 4)
    return ServedCost(alias, "1.0.0", kind, {f"walker.{alias}_0_0": use})


def advice(*served: ServedCost, available: int = 8 * GIB, free: int = GIB, cores: int = 64) -> dict[str, str]:
    machine = replace(detect(), usable_cores=cores, logical_cores=cores, cpu_limit=None)
    found = recommend(served, hardware=machine, available=available, in_memory=4 * MB, in_memory_free=free)
    return {r.setting: r.value for r in found}


def test_no_more_instances_are_recommended_than_fit_beside_a_promotion() -> None:
    """1 GB left, a fifth in reserve: (800 + 100) / 100 MB, halved, because a promotion holds both releases."""
    assert advice(cost(), available=1000 * MB)["POLICYCTL_SERVING__INSTANCES (production)"] == "at most 4"


def test_nor_more_than_there_are_cores() -> None:
    """However much memory there is."""
    assert advice(cost(), cores=2)["POLICYCTL_SERVING__INSTANCES (production)"] == "at most 2"


def test_one_instance_is_always_allowed() -> None:
    """It runs already."""
    assert advice(cost(), available=0)["POLICYCTL_SERVING__INSTANCES (production)"] == "at most 1"


def test_the_dear_format_and_the_second_alias_are_named() -> None:
    """TorchScript brings torch into every process, and each alias has its processes."""
    found = advice(cost(kind=Format.TORCHSCRIPT), cost("staging"))
    assert "promote --format openvino (production)" in found
    assert "promote --format openvino (staging)" not in found
    assert "aliases" in found
    assert "aliases" not in advice(cost())


def test_little_shared_memory_is_told() -> None:
    """Docker gives 64 MB by default, and a promotion takes as much again."""
    assert "shared memory (docker run --shm-size)" in advice(cost(), free=2 * MB)
    assert "shared memory (docker run --shm-size)" not in advice(cost())


def test_pools_are_for_gpus_and_never_most_of_their_memory() -> None:
    """None without a GPU; Triton's own sizes with a large one, less with a small one."""
    machine = replace(detect(), gpus=(), memory_bytes=16 * GIB, memory_limit_bytes=None)
    assert (pools(machine).pinned_mib, pools(machine).cuda_mib) == (0, 0)
    large = replace(machine, gpus=(Gpu("H100", "9.0", "550", "12.4", 80 * GIB),))
    assert (pools(large).pinned_mib, pools(large).cuda_mib) == (256, 64)
    small = replace(large, memory_bytes=GIB, gpus=(Gpu("T", "7.5", "550", "12.4", GIB),))
    assert (pools(small).pinned_mib, pools(small).cuda_mib) == (64, 16)
