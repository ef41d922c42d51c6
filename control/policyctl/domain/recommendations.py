"""What to set differently on a machine, and why.

Rules only, no looking. A recommendation differs from what policyctl does without it. Each says on
what it rests: measured (on a machine with two cores, see docs/hardware.md), documented by those
who made the software, or a rule of thumb to start from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from policyctl.domain.hardware import Hardware

TENSORRT_NEEDS: Final = (7, 5)
"""Compute capability from which on TensorRT 10 runs."""

THREAD_VARIABLES: Final[Mapping[str, str]] = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""Environment of the backend processes: how many threads their numeric libraries may start.

Without it, each library starts one for every core of the machine, whatever a
control group allows, and a policy's inference has no use for more than the one
that runs it.
"""

_GIB: Final = 1 << 30
_MIB: Final = 1 << 20
_PINNED_MIB: Final = 256
_CUDA_MIB: Final = 64


class Basis(StrEnum):
    """What a recommendation rests on."""

    MEASURED = "measured"
    DOCUMENTED = "documented"
    RULE = "rule of thumb"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One thing to set.

    Attributes:
        setting: What to set: a variable of policyctl or of the environment, or a few words.
        value: What to set it to.
        reason: Why, for this machine.
        basis: What that rests on.
        is_default: Nothing has to be done for it.
    """

    setting: str
    value: str
    reason: str
    basis: Basis
    is_default: bool = False


def recommend(hardware: Hardware) -> tuple[Recommendation, ...]:
    """What to set on `hardware`, the most effective first; nothing where the defaults suit it."""
    return (*_format(hardware), *_placement(hardware), *_gpu(hardware))


def _format(hardware: Hardware) -> tuple[Recommendation, ...]:
    if hardware.architecture in {"x86_64", "AMD64"}:
        return ()
    reason = f"ONNX Runtime is tuned for {hardware.architecture} as well; OpenVINO's fast paths are x86's"
    return (Recommendation("promote --format", "onnx", reason, Basis.RULE),)


@dataclass(frozen=True, slots=True)
class Pools:
    """How much tritonserver takes beforehand for passing tensors to GPUs and back.

    Attributes:
        pinned_mib: Of pinned memory, in all.
        cuda_mib: Of each GPU's memory.
    """

    pinned_mib: int
    cuda_mib: int


def pools(hardware: Hardware) -> Pools:
    """The pools that suit `hardware`: none without a GPU, and else no more than a small part of what is there."""
    if not hardware.gpus:
        return Pools(0, 0)
    smallest = min(gpu.memory_bytes for gpu in hardware.gpus)
    return Pools(
        pinned_mib=min(_PINNED_MIB, hardware.memory_usable_bytes // 16 // _MIB),
        cuda_mib=min(_CUDA_MIB, smallest // 64 // _MIB),
    )


def _placement(hardware: Hardware) -> tuple[Recommendation, ...]:
    found = []
    if hardware.numa_nodes > 1:
        found.append(
            Recommendation(
                "numactl --cpunodebind=0 --membind=0 policyctl serve",
                "one node",
                f"{hardware.numa_nodes} NUMA nodes: server and backends talk through shared memory, which is slower"
                " across nodes",
                Basis.RULE,
            )
        )
    if hardware.cpu_limit is not None and hardware.cpu_limit < hardware.usable_cores:
        found.append(
            Recommendation(
                "the control group's CPU limit",
                f"{max(1, round(hardware.cpu_limit))} whole cores, or pinned ones",
                f"a limit of {hardware.cpu_limit:g} on {hardware.usable_cores} cores stops all threads for the rest of"
                " each 100 ms once it is used up, which shows in P99 first",
                Basis.DOCUMENTED,
            )
        )
    if hardware.memory_usable_bytes < 2 * _GIB:
        found.append(
            Recommendation(
                "memory",
                "2 GiB or more",
                "tritonserver takes some 50 MB and each backend process 70 to 250 MB, and a promotion holds two"
                " releases at once",
                Basis.MEASURED,
            )
        )
    if hardware.cores <= 4:
        found.append(
            Recommendation(
                "clients",
                "on another machine",
                f"with {hardware.cores:g} cores a load generator takes time from the server that it measures: figures"
                " taken here are of both together",
                Basis.MEASURED,
            )
        )
    return tuple(found)


def _gpu(hardware: Hardware) -> tuple[Recommendation, ...]:
    if not hardware.gpus:
        return ()
    gpu = hardware.gpus[0]
    capable = tuple(int(part) for part in gpu.compute_capability.split(".")) >= TENSORRT_NEEDS
    small = "copies to and from the GPU cost more than a small policy's whole inference on the CPU; compare both"
    found = [
        Recommendation(
            "POLICYCTL_SERVING__GPU",
            "false for small policies, true for convolutions and batches of hundreds",
            f"{gpu.name}, driver {gpu.driver} (CUDA {gpu.cuda}): {small}",
            Basis.RULE,
        )
    ]
    needs = ".".join(map(str, TENSORRT_NEEDS))
    found.append(
        Recommendation(
            "promote --format",
            "tensorrt" if capable else "onnx",
            f"compute capability {gpu.compute_capability} is {'at least' if capable else 'below'} {needs}, from which"
            " on TensorRT 10 runs; a plan serves only the GPU and TensorRT that it was built with",
            Basis.DOCUMENTED,
        )
    )
    if capable and int(gpu.compute_capability.split(".")[0]) >= 8:
        found.append(
            Recommendation(
                "NVIDIA_TF32_OVERRIDE",
                "0",
                "GPUs from compute capability 8.0 on multiply in TF32 (10 bits) where a library allows it; 0 keeps the"
                " actions that were certified",
                Basis.DOCUMENTED,
            )
        )
    return tuple(found)
