"""What a machine is, as far as it decides how fast a policy answers.

Plain values: `serving.hardware` looks, this module keeps, compares and names.

A figure means something only together with the machine that it was taken on, so
results are kept by `Hardware.fingerprint`. It names what is expected to move a
figure and stays the same for what is not: free memory, the host's name or the
order of the CPU's flags do not count. Versions of the runtimes inside the
backends do not count either: an upgrade of OpenVINO is a change to be seen in
the history, not one that begins a new history.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from policyctl.domain.json_values import fields_to_json
from policyctl.domain.manifest import canonical_json

FINGERPRINT_LENGTH: Final = 12

ISA_FLAGS: Final[Mapping[str, str]] = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX-512F",
    "avx512vl": "AVX-512VL",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "avx_vnni": "AVX-VNNI",
    "amx_tile": "AMX",
    "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "asimdhp": "NEON FP16",
    "asimddp": "NEON dot product",
    "sve": "SVE",
    "bf16": "ARM BF16",
    "i8mm": "ARM I8MM",
}
"""Linux's flags, in the order in which they are shown, and how people write them."""

_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache of the first core.

    Attributes:
        level: 1, 2, 3.
        kind: ``data``, ``instruction`` or ``unified``.
        size_bytes: Its size.
        shared_by: Logical cores that share it.
    """

    level: int
    kind: str
    size_bytes: int
    shared_by: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        name: What its driver calls it.
        compute_capability: For example ``9.0``.
        driver: The driver's version.
        cuda: The newest CUDA that the driver can run, for example ``12.4``.
        memory_bytes: All of its memory.
    """

    name: str
    compute_capability: str
    driver: str
    cuda: str
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One machine, as this process may use it.

    Attributes:
        cpu_model: What the CPU calls itself.
        architecture: For example ``x86_64``.
        flags: All of the CPU's flags, as Linux names them.
        physical_cores: Cores; None where it is unknown.
        logical_cores: Hardware threads.
        usable_cores: Hardware threads that this process may run on.
        cpu_limit: Cores' worth of time that a control group allows; None for no limit.
        numa_nodes: Nodes that have memory.
        caches: Of the first core.
        memory_bytes: All memory.
        memory_limit_bytes: What a control group allows; None for no limit.
        virtual: Runs under a hypervisor.
        gpus: NVIDIA GPUs.
        kernel: Of the operating system.
        triton: The wheel that tritonserver comes from, with its version; empty without one.
        notes: What could not be read, and why.
    """

    cpu_model: str
    architecture: str
    flags: frozenset[str]
    physical_cores: int | None
    logical_cores: int
    usable_cores: int
    cpu_limit: float | None
    numa_nodes: int
    caches: tuple[Cache, ...]
    memory_bytes: int
    memory_limit_bytes: int | None
    virtual: bool
    gpus: tuple[Gpu, ...]
    kernel: str
    triton: str
    notes: tuple[str, ...] = field(default=())

    @property
    def isa(self) -> tuple[str, ...]:
        """Instruction sets that matter to inference, as people write them."""
        return tuple(words for flag, words in ISA_FLAGS.items() if flag in self.flags)

    @property
    def cores(self) -> float:
        """Cores' worth of time that is really there: hardware threads, or less by a limit."""
        return float(self.usable_cores) if self.cpu_limit is None else min(float(self.usable_cores), self.cpu_limit)

    @property
    def memory_usable_bytes(self) -> int:
        """All memory, or less by a limit."""
        limit = self.memory_limit_bytes
        return self.memory_bytes if limit is None else min(self.memory_bytes, limit)

    @property
    def memory_class_gib(self) -> float:
        """Usable memory to the nearest power of two: two machines of 16 GB differ by what their firmware takes."""
        return 2.0 ** round(math.log2(max(self.memory_usable_bytes, 1) / _GIB))

    def identity(self) -> dict[str, Any]:
        """What `fingerprint` is made of, to show why two differ."""
        return {
            "architecture": self.architecture,
            "cores": round(self.cores, 2),
            "cpu_model": " ".join(self.cpu_model.split()),
            "gpus": sorted(f"{g.name} {g.compute_capability} driver {g.driver.split('.')[0]}" for g in self.gpus),
            "isa": sorted(self.isa),
            "kernel": ".".join(self.kernel.split(".")[:2]),
            "memory_class_gib": self.memory_class_gib,
            "triton": self.triton,
        }

    @property
    def fingerprint(self) -> str:
        """A short, stable name of machines on which figures may be compared."""
        return fingerprint(self.identity())

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "fingerprint": self.fingerprint,
            "identity": self.identity(),
            **fields_to_json(self),
            "flags": sorted(self.flags & ISA_FLAGS.keys()),
            "isa": list(self.isa),
        }

    def rows(self) -> tuple[tuple[str, str], ...]:
        """A row a fact, for people."""
        limit = "none" if self.cpu_limit is None else f"{self.cpu_limit:g} cores"
        memory_limit = "none" if self.memory_limit_bytes is None else f"{self.memory_limit_bytes / _GIB:.2f} GiB"
        cache = ", ".join(f"L{c.level} {c.kind} {c.size_bytes >> 10} KiB (of {c.shared_by})" for c in self.caches)
        gpus = tuple(
            (
                "GPU",
                f"{g.name}, {g.memory_bytes / _GIB:.0f} GiB, compute capability {g.compute_capability},"
                f" driver {g.driver}, CUDA up to {g.cuda}",
            )
            for g in self.gpus
        )
        return (
            ("fingerprint", self.fingerprint),
            ("CPU", f"{self.cpu_model} ({self.architecture}{', virtual' if self.virtual else ''})"),
            ("instruction sets", ", ".join(self.isa) or "none that matters"),
            ("cores", f"{self.physical_cores or 'unknown'} physical, {self.logical_cores} logical"),
            ("usable", f"{self.usable_cores} by affinity; limit of the control group: {limit}"),
            ("NUMA nodes", str(self.numa_nodes)),
            ("caches", cache or "unknown"),
            ("memory", f"{self.memory_bytes / _GIB:.1f} GiB; limit of the control group: {memory_limit}"),
            *(gpus or (("GPU", "none visible"),)),
            ("kernel", self.kernel),
            ("Triton", self.triton or "none"),
            *(("not read", note) for note in self.notes),
        )

    def words(self) -> str:
        """One line for people."""
        limit = "" if self.cpu_limit is None else f" (limited to {self.cpu_limit:g})"
        gpus = ", ".join(f"{g.name} (compute capability {g.compute_capability})" for g in self.gpus) or "no GPU"
        return (
            f"{self.cpu_model}, {self.usable_cores} of {self.logical_cores} cores usable{limit},"
            f" {self.memory_usable_bytes / _GIB:.1f} GiB, {gpus}"
        )


def fingerprint(identity: Mapping[str, Any]) -> str:
    """The short name of an identity."""
    return hashlib.sha256(canonical_json(dict(identity))).hexdigest()[:FINGERPRINT_LENGTH]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """What keeps two identities apart, a sentence each."""
    keys = sorted(one.keys() | other.keys())
    return tuple(f"{key}: {one.get(key)} and {other.get(key)}" for key in keys if one.get(key) != other.get(key))
