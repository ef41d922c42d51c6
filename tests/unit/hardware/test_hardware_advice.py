"""What is recommended, and that everybody uses the same facts."""

from __future__ import annotations

import subprocess

import pytest

from policyctl.domain.recommendations import THREAD_VARIABLES, recommend
from policyctl.services.machine import hardware as service
from policyctl.serving.command import environment
from policyctl.serving.locate import locate
from policyctl.settings import ServingSettings

GIB = 1 << 30


def advice(hardware) -> dict[str, object]:
    return {r.setting: r for r in recommend(hardware)}


def test_each_recommendation_has_a_reason_and_says_what_it_rests_on(machine, gpu) -> None:
    """On whatever machine; and none is given twice for one setting but the format, which a GPU changes."""
    for hardware in (machine(), machine(usable_cores=1), machine(gpus=(gpu(),)), machine(architecture="aarch64")):
        found = recommend(hardware)
        assert all(len(r.reason) > 20 and r.value and r.basis for r in found)
        names = [r.setting for r in found if r.setting != "promote --format"]
        assert len(names) == len(set(names))


def test_nothing_is_recommended_where_the_defaults_suit_the_machine(machine) -> None:
    """A machine of eight x86 cores with enough memory and without a GPU."""
    assert recommend(machine(usable_cores=8)) == ()


def test_a_gpu_brings_tensorrt_where_it_can(machine, gpu) -> None:
    """From compute capability 7.5 on; below it, ONNX."""
    formats = {}
    for capability in ("9.0", "7.0", "10.0"):
        found = recommend(machine(gpus=(gpu(compute_capability=capability),)))
        formats[capability] = [r.value for r in found if r.setting == "promote --format"][-1]
    assert formats == {"9.0": "tensorrt", "7.0": "onnx", "10.0": "tensorrt"}
    assert "POLICYCTL_SERVING__GPU" not in advice(machine())


def test_the_place_is_spoken_of_where_it_matters(machine) -> None:
    """NUMA nodes, a limit on CPU time, little memory: each only where it is so."""
    assert not {"memory", "clients", "the control group's CPU limit"} & advice(machine()).keys()
    tight = advice(machine(numa_nodes=2, cpu_limit=1.5, memory_limit_bytes=GIB))
    assert {"memory", "clients", "the control group's CPU limit"} <= tight.keys()
    assert any("numactl" in setting for setting in tight)


def test_settings_that_the_machine_cannot_make_good_are_named(machine, gpu) -> None:
    """As the server does when it starts."""
    assert service.contradictions(machine(), ServingSettings()) == ()
    assert len(service.contradictions(machine(cpu_limit=1.0), ServingSettings(instances=2, gpu=True))) == 2
    assert service.contradictions(machine(gpus=(gpu(),)), ServingSettings(gpu=True)) == ()


def test_the_server_gives_its_backends_the_recommended_threads(monkeypatch) -> None:
    """Unless the operator has set them."""
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert THREAD_VARIABLES.items() <= environment(locate()).items()
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert environment(locate())["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize("output", ["", "not json\n", "[1\n"])
def test_runtimes_that_cannot_be_asked_do_not_stop_the_command(monkeypatch, output: str) -> None:
    """A runtime that crashes on this CPU is named, and the rest is shown."""
    done = subprocess.CompletedProcess([], -11, output, "")
    monkeypatch.setattr(service.subprocess, "run", lambda *a, **k: done)
    assert all("could not be asked" in answer["error"] for answer in service.ask_runtimes().values())


def test_what_a_runtime_says_is_shown_without_braces() -> None:
    """A name and a value a line, however deep they stand in its answer."""
    answer = {"version": "1.0", "devices": {"CPU": {"BITS": ["INT8", "BF16"], "PINNED": True}}, "pools": [{"n": 2}]}
    assert list(service.facts(answer)) == [
        ("version", "1.0"),
        ("devices CPU BITS", "INT8, BF16"),
        ("devices CPU PINNED", "yes"),
        ("pools 1 n", "2"),
    ]
    assert list(service.facts(None)) == [("", "not installed")]
