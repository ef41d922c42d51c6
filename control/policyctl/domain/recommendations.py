"""What to set on a machine, and why.

Rules only, no looking. Each recommendation says on what it rests: measured (on
a machine with two cores, see docs/hardware.md), documented by whoever made the
software, or a rule of thumb to start from. What a rule cannot know comes with
`candidates`: the values worth a paired comparison on the machine itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from policyctl.domain.hardware import Hardware

TENSORRT_NEEDS: Final = (7, 5)
"""Compute capability from which on TensorRT 10 runs."""

THREAD_VARIABLES: Final[Mapping[str, str]] = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""Environment of the backend processes: how many threads their numeric libraries may start.

Left alone, each of them starts one for every core of the machine, whatever a
control group allows, and a policy's inference has no use for more than the one
that runs it.
"""

_MOST_INSTANCES: Final = 8
_MOST_THREADS: Final = 16
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
        candidates: Values worth comparing; empty where there is nothing to search.
        is_default: Nothing has to be done for it.
    """

    setting: str
    value: str
    reason: str
    basis: Basis
    candidates: tuple[str, ...] = ()
    is_default: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**asdict(self), "basis": self.basis.value, "candidates": list(self.candidates)}


def recommend(hardware: Hardware) -> tuple[Recommendation, ...]:
    """What to set on `hardware`, the most effective first."""
    return (
        instances(hardware),
        *_openvino(hardware),
        _format(hardware),
        *_batching(),
        *_libraries(hardware),
        _pools(hardware),
        _front_ends(),
        *_placement(hardware),
        *_gpu(hardware),
    )


def instances(hardware: Hardware) -> Recommendation:
    """Copies of the model."""
    most = max(1, min(int(hardware.cores) // 2, _MOST_INSTANCES))
    if most == 1:
        return Recommendation(
            "POLICYCTL_SERVING__INSTANCES",
            "1",
            f"{hardware.cores:g} cores are shared by server, backend and often the clients;"
            " two instances on two cores answered 0.84 times as many requests as one",
            Basis.MEASURED,
            is_default=True,
        )
    return Recommendation(
        "POLICYCTL_SERVING__INSTANCES",
        "1",
        "one instance sees every waiting request and forms the largest batches; more of them pay off only where"
        f" one process cannot use the {hardware.cores:g} cores, which has to be measured",
        Basis.RULE,
        candidates=_doubling(most),
        is_default=True,
    )


def _openvino(hardware: Hardware) -> tuple[Recommendation, ...]:
    reduced = [words for words in hardware.isa if "BF16" in words]
    threads = max(1, min(hardware.physical_cores or 1, int(hardware.cores), _MOST_THREADS))
    return (
        Recommendation(
            "POLICYCTL_SERVING__PARAMETERS INFERENCE_NUM_THREADS, NUM_STREAMS",
            "1, 1",
            "a policy's layers are too small to split: the default number of threads answered 0.8 times as many"
            " requests; wide layers and batches of hundreds may differ",
            Basis.MEASURED,
            candidates=_doubling(threads) if threads > 1 else (),
            is_default=True,
        ),
        Recommendation(
            "POLICYCTL_SERVING__PARAMETERS INFERENCE_PRECISION_HINT",
            "f32",
            f"this CPU has {reduced[0]}, and OpenVINO would compute in bf16 by itself, off by 3e-3 on outputs of 0.5;"
            " f32 takes the same time at batch 1"
            if reduced
            else "this CPU has no bf16, so nothing is gained by less, and actions stay those that were certified",
            Basis.MEASURED if reduced else Basis.DOCUMENTED,
            is_default=True,
        ),
    )


def _format(hardware: Hardware) -> Recommendation:
    if hardware.architecture not in {"x86_64", "AMD64"}:
        return Recommendation(
            "promote --format",
            "onnx",
            f"ONNX Runtime is tuned for {hardware.architecture} as well; OpenVINO's fast paths are x86's",
            Basis.RULE,
            candidates=("onnx", "openvino"),
        )
    wide = next((words for words in hardware.isa if words.startswith("AVX-512")), "")
    known = wide or ("AVX2" if "AVX2" in hardware.isa else "no AVX2")
    return Recommendation(
        "promote --format",
        "openvino",
        f"x86 with {known}; which of OpenVINO and ONNX Runtime is ahead depends on the policy, and both are"
        " ahead of TorchScript for small ones",
        Basis.RULE,
        candidates=("openvino", "onnx"),
        is_default=True,
    )


def _batching() -> tuple[Recommendation, ...]:
    return (
        Recommendation(
            "POLICYCTL_SERVING__MAX_QUEUE_DELAY_US",
            "0",
            "requests that wait while the instance computes are batched anyway; a delay adds itself to every"
            " latency, and helps only where requests come in bursts",
            Basis.RULE,
            candidates=("0", "100", "500"),
            is_default=True,
        ),
        Recommendation(
            "POLICYCTL_SERVING__MAX_BATCH_SIZE",
            "64",
            "a larger batch is allowed, never waited for; what each size costs here: policyctl bench --batch 1,8,64",
            Basis.RULE,
            candidates=("16", "64", "256"),
            is_default=True,
        ),
    )


def _libraries(hardware: Hardware) -> tuple[Recommendation, ...]:
    found = [
        Recommendation(
            ", ".join(THREAD_VARIABLES),
            "1",
            f"else every backend process starts {hardware.logical_cores} threads a library, whatever a control"
            " group allows; policyctl serve sets them where they are not set",
            Basis.DOCUMENTED,
            is_default=True,
        ),
        Recommendation(
            "ONEDNN_DEFAULT_FPMATH_MODE",
            "STRICT",
            "what oneDNN does unless told otherwise; BF16 or ANY would round the weights of TorchScript models"
            " without a trace in the answer",
            Basis.DOCUMENTED,
            is_default=True,
        ),
    ]
    if "amd" in hardware.cpu_model.lower():
        found.append(
            Recommendation(
                "MKL",
                "avoid it",
                "Intel's MKL, inside torch, takes slower paths on AMD: prefer OpenVINO or ONNX Runtime to TorchScript",
                Basis.RULE,
                is_default=True,
            )
        )
    return tuple(found)


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


def _pools(hardware: Hardware) -> Recommendation:
    found = pools(hardware)
    reason = (
        "tensors go to a GPU and back through these; Triton's own defaults, or less where memory is small"
        if hardware.gpus
        else "without a GPU nothing is ever taken from them"
    )
    return Recommendation(
        "POLICYCTL_SERVER__PINNED_POOL_MIB, ..._CUDA_POOL_MIB",
        f"{found.pinned_mib}, {found.cuda_mib}",
        f"{reason}; policyctl serve sets them where they are not set",
        Basis.DOCUMENTED,
        is_default=True,
    )


def _front_ends() -> Recommendation:
    return Recommendation(
        "tritonserver --http-thread-count, --grpc-infer-allocation-pool-size",
        "8, 8",
        "1 to 16 threads and pools of 1 to 64 requests were as fast as these, Triton's own, on two cores, and so were"
        " fewer malloc arenas and no CPU metrics: front ends spend their time in the kernel",
        Basis.MEASURED,
        is_default=True,
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
        return (
            Recommendation(
                "POLICYCTL_SERVING__GPU", "false", "no NVIDIA GPU is visible here", Basis.DOCUMENTED, is_default=True
            ),
        )
    gpu = hardware.gpus[0]
    capable = tuple(int(part) for part in gpu.compute_capability.split(".")) >= TENSORRT_NEEDS
    small = "copies to and from the GPU cost more than a small policy's whole inference on the CPU; compare both"
    found = [
        Recommendation(
            "POLICYCTL_SERVING__GPU",
            "false for small policies, true for convolutions and batches of hundreds",
            f"{gpu.name}, driver {gpu.driver} (CUDA {gpu.cuda}): {small}",
            Basis.RULE,
            candidates=("false", "true"),
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


def _doubling(most: int) -> tuple[str, ...]:
    values = []
    value = 1
    while value < most:
        values.append(value)
        value *= 2
    return tuple(map(str, [*values, most]))
