"""Hardware: what the server says of this machine, and what the runtimes make of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from policyctl.domain.hardware import Hardware
from policyctl.domain.log_event import LogLevel
from policyctl.services.control import Control
from policyctl.serving.hardware import detect
from policyctl.settings import ServingSettings

RUNTIMES_TIMEOUT_S: Final = 60.0

_RUNTIMES: Final = ("openvino", "onnxruntime", "tensorrt", "torch", "thread_pools")

# Run in separate processes, all at once: importing these takes seconds and hundreds of megabytes, a
# runtime that crashes on this CPU must not take the others with it, and none of them belongs here.
_ASK: Final = """
import importlib.metadata, json, sys
def openvino():
    from policyctl.sessions.quiet_openvino import ov
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
def thread_pools():
    import numpy
    from threadpoolctl import threadpool_info
    keys = ("user_api", "internal_api", "version", "num_threads", "threading_layer", "architecture")
    return [{k: pool[k] for k in keys if k in pool} for pool in threadpool_info()]
try:
    found = globals()[sys.argv[1]]()
except ImportError:
    found = None
except Exception as error:
    found = {"error": repr(error)}
print(json.dumps(found, default=str))
"""


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


def ask_runtimes() -> dict[str, Any]:
    """What each runtime makes of this machine, which takes seconds; None where it is not installed."""
    with ThreadPoolExecutor(len(_RUNTIMES)) as pool:
        return dict(zip(_RUNTIMES, pool.map(_asked, _RUNTIMES), strict=True))


def _asked(runtime: str) -> Any:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK, runtime],
            capture_output=True,
            text=True,
            timeout=RUNTIMES_TIMEOUT_S,
            check=False,
        )
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return {"error": f"it could not be asked: {error!r}"}


def facts(answer: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """What a runtime says, a name and a value a line."""
    if answer is None:
        yield name, "not installed"
    elif isinstance(answer, Mapping):
        for key, value in answer.items():
            yield from facts(value, f"{name} {key}".strip())
    elif isinstance(answer, list) and any(isinstance(each, Mapping) for each in answer):
        for number, each in enumerate(answer, 1):
            yield from facts(each, f"{name} {number}".strip())
    elif isinstance(answer, bool):
        yield name, "yes" if answer else "no"
    else:
        yield name, ", ".join(map(str, answer)) if isinstance(answer, list) else str(answer)
