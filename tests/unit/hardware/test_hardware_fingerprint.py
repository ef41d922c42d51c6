"""The fingerprint: the same for what does not matter, another for what does."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import gpu_of, machine_of

from policyctl.domain.hardware import FINGERPRINT_LENGTH, ISA_FLAGS, Hardware, differences

GIB = 1 << 30


def test_the_fingerprint_of_a_known_machine_never_changes(machine) -> None:
    """Results that were kept years ago are still found: the digest is part of the interface."""
    assert machine().fingerprint == "04e24a3d0f15"


@given(
    order=st.randoms(use_true_random=False),
    irrelevant=st.sets(st.sampled_from(["sse", "pni", "rdtscp", "hypervisor"])),
    missing_bytes=st.integers(0, GIB),
    patch=st.integers(0, 200),
)
def test_what_does_not_move_a_figure_does_not_move_the_fingerprint(order, irrelevant, missing_bytes, patch) -> None:
    """Order and other flags, what the firmware keeps of the memory, spaces and the kernel's patch level."""
    usual = machine_of(gpus=(gpu_of(), gpu_of(name="NVIDIA L4", compute_capability="8.9")))
    flags = [*usual.flags, *irrelevant]
    gpus = list(usual.gpus)
    order.shuffle(flags)
    order.shuffle(gpus)
    other = machine_of(
        flags=frozenset(flags),
        gpus=tuple(gpus),
        memory_bytes=usual.memory_bytes - missing_bytes,
        kernel=f"6.1.{patch}-x",
        cpu_model="  Intel(R)  Xeon(R) Platinum ",
        notes=("something",),
        virtual=True,
    )
    assert other.fingerprint == usual.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu_model": "AMD EPYC"},
        {"architecture": "aarch64"},
        {"flags": frozenset({"avx2"})},
        {"usable_cores": 4},
        {"cpu_limit": 2.5},
        {"memory_bytes": 64 * GIB},
        {"memory_limit_bytes": 2 * GIB},
        {"kernel": "6.8.0"},
        {"triton": ""},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_moves_a_figure_moves_the_fingerprint(machine, changes) -> None:
    """Each fact that counts, alone; and the difference is named."""
    assert machine(**changes).fingerprint != machine().fingerprint
    assert differences(machine().identity(), machine(**changes).identity())


def test_another_gpu_or_driver_is_another_machine(machine, gpu) -> None:
    """The driver's patch level is not."""
    one = machine(gpus=(gpu(),)).fingerprint
    assert one != machine().fingerprint
    assert one != machine(gpus=(gpu(driver="560.1"),)).fingerprint
    assert one != machine(gpus=(gpu(), gpu())).fingerprint
    assert one == machine(gpus=(gpu(driver="550.90.07"),)).fingerprint


@given(st.integers(1, 1 << 44), st.none() | st.integers(1, 1 << 44), st.none() | st.floats(0.01, 512))
def test_every_machine_has_a_fingerprint_and_a_json(memory: int, limit: int | None, cpus: float | None) -> None:
    """However little it has; and no more cores or memory are counted than are there."""
    found: Hardware = machine_of(memory_bytes=memory, memory_limit_bytes=limit, cpu_limit=cpus)
    assert len(found.fingerprint) == FINGERPRINT_LENGTH
    assert found.cores <= found.usable_cores
    assert found.memory_usable_bytes <= memory
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["fingerprint"] == found.fingerprint
    assert all(what and words for what, words in found.rows())


def test_instruction_sets_are_named_as_people_name_them(machine) -> None:
    """In a fixed order, and only those that matter."""
    assert machine().isa == ("AVX2", "FMA", "AVX-512F", "AVX-512 VNNI", "AVX-512 BF16", "AMX", "AMX BF16")
    assert machine(flags=frozenset(ISA_FLAGS)).isa == tuple(ISA_FLAGS.values())
