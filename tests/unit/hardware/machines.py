"""Machines that do not exist."""

from __future__ import annotations

from typing import Any

from policyctl.domain.hardware import Cache, Gpu, Hardware

GIB = 1 << 30


def machine_of(**changes: Any) -> Hardware:
    """An ordinary server of 8 cores, with `changes`."""
    facts: dict[str, Any] = {
        "cpu_model": "Intel(R) Xeon(R) Platinum",
        "architecture": "x86_64",
        "flags": frozenset({"sse", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16"}),
        "physical_cores": 4,
        "logical_cores": 8,
        "usable_cores": 8,
        "cpu_limit": None,
        "numa_nodes": 1,
        "caches": (Cache(1, "data", 32768, 2), Cache(3, "unified", 32 << 20, 8)),
        "memory_bytes": 16 * GIB,
        "memory_limit_bytes": None,
        "virtual": False,
        "gpus": (),
        "kernel": "6.1.0-18-amd64",
        "triton": "nvidia-pytriton 0.7.0",
    }
    return Hardware(**{**facts, **changes})


def gpu_of(**changes: Any) -> Gpu:
    """A GPU of the data centre, with `changes`."""
    facts: dict[str, Any] = {
        "name": "NVIDIA H100 80GB HBM3",
        "compute_capability": "9.0",
        "driver": "550.54.15",
        "cuda": "12.4",
        "memory_bytes": 80 * GIB,
    }
    return Gpu(**{**facts, **changes})
