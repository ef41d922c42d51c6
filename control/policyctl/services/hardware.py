"""Hardware: what this machine is, what the runtimes make of it, and what to set.

`policyctl serve` says and uses the same facts: `advise` is the single source.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from policyctl.domain.hardware import Hardware
from policyctl.domain.log_event import LogLevel
from policyctl.domain.recommendations import Recommendation, recommend
from policyctl.services.control import Control
from policyctl.serving.hardware import detect
from policyctl.settings import ServingSettings

RUNTIMES_TIMEOUT_S: Final = 60.0

# Runs in a process of its own: importing all of these takes seconds and hundreds of megabytes, a
# runtime that crashes on this CPU must not take the command with it, and none of them belongs here.
_ASK_RUNTIMES: Final = """
import importlib.metadata, json
found = {}
def ask(name, how):
    try:
        found[name] = how()
    except ImportError:
        found[name] = None
    except Exception as error:
        found[name] = {"error": repr(error)}
def openvino():
    import openvino as ov
    core = ov.Core()
    devices = {}
    for device in core.available_devices:
        properties = {}
        for key in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES", "RANGE_FOR_STREAMS", "INFERENCE_NUM_THREADS",
                    "NUM_STREAMS", "INFERENCE_PRECISION_HINT", "PERFORMANCE_HINT", "ENABLE_CPU_PINNING"):
            try:
                value = core.get_property(device, key)
            except Exception:
                continue
            value = value if isinstance(value, (int, float, str, list, tuple)) else str(value)
            properties[key] = list(value) if isinstance(value, tuple) else value
        devices[device] = properties
    return {"version": importlib.metadata.version("openvino"), "devices": devices}
def onnxruntime():
    import onnxruntime as ort
    return {"version": ort.__version__, "providers": ort.get_available_providers()}
def torch():
    import torch
    return {"version": torch.__version__, "threads": torch.get_num_threads(),
            "mkl": torch.backends.mkl.is_available(), "onednn": torch.backends.mkldnn.is_available(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(), "cuda": torch.cuda.is_available()}
def tensorrt():
    import tensorrt
    return {"version": tensorrt.__version__}
def pools():
    import numpy
    from threadpoolctl import threadpool_info
    keys = ("user_api", "internal_api", "version", "num_threads", "threading_layer", "architecture")
    return [{k: pool[k] for k in keys if k in pool} for pool in threadpool_info()]
for name, how in list(dict(openvino=openvino, onnxruntime=onnxruntime, tensorrt=tensorrt, torch=torch).items()):
    ask(name, how)
ask("thread_pools", pools)
print(json.dumps(found, default=str))
"""


@dataclass(frozen=True, slots=True)
class Advice:
    """A machine and what to set on it.

    Attributes:
        hardware: The machine.
        recommendations: What to set, and why.
        runtimes: What each runtime says of the machine; None where it is not
            installed, empty where they were not asked.
    """

    hardware: Hardware
    recommendations: tuple[Recommendation, ...]
    runtimes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "hardware": self.hardware.to_json(),
            "recommendations": [r.to_json() for r in self.recommendations],
            "runtimes": dict(self.runtimes),
        }


def advise(*, ask_runtimes: bool = False) -> Advice:
    """Look at this machine.

    Args:
        ask_runtimes: Also start a process that asks OpenVINO, ONNX Runtime and
            torch what they make of it, which takes seconds.
    """
    hardware = detect()
    return Advice(hardware, recommend(hardware), _runtimes() if ask_runtimes else {})


def contradictions(hardware: Hardware, serving: ServingSettings) -> tuple[str, ...]:
    """Settings that this machine cannot make good, a sentence each."""
    found = []
    if serving.instances > max(1.0, hardware.cores):
        found.append(
            f"POLICYCTL_SERVING__INSTANCES={serving.instances} is more than the {hardware.cores:g} cores that are there"
        )
    if serving.gpu and not hardware.gpus:
        found.append("POLICYCTL_SERVING__GPU=true, but no NVIDIA GPU is visible: models will not load")
    return tuple(found)


def announce(control: Control) -> None:
    """Say on which machine the server starts, and which settings it cannot make good."""
    hardware = detect()
    control.tell(f"Machine {hardware.fingerprint}: {hardware.words()}.")
    for words in contradictions(hardware, control.settings.serving):
        control.tell(f"WARNING {words}.", level=LogLevel.WARNING)


def _runtimes() -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_RUNTIMES],
            capture_output=True,
            text=True,
            timeout=RUNTIMES_TIMEOUT_S,
            check=False,
        )
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return {"error": f"the runtimes could not be asked: {error!r}"}
    return found
