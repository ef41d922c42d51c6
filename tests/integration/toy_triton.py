"""A real tritonserver with a policy of a few numbers, for tests of what talks to one.

The policy is ``logits = observation @ weights`` (discrete) or ``action =
observation @ weights`` (continuous), with one set of weights a slot, so a test
can tell from an answer which slot gave it. An observation whose first element
is `SLEEPY` is answered `SLEEP_S` late; one whose first element is `HELD`, when
`ToyTriton.holding` lets it go.

Everything that a test may do to a server is here: swap the served slot, kill
it, stop and continue it. Leaving the context ends every process and removes
every shared memory region that it made.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from policyctl.domain.contract import ActionKind, Contract, Distribution, DistributionKind, Transform
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UnsupportedError
from policyctl.serving.command import environment
from policyctl.serving.locate import locate
from policyctl.serving.ports import free_ports

SLEEPY = 999.0
SLEEP_S = 1.0
HELD = 998.0
MAX_BATCH = 16
_TYPES = {"float32": "TYPE_FP32", "float64": "TYPE_FP64", "int64": "TYPE_INT64", "uint8": "TYPE_UINT8"}

_BACKEND = f"""
import json, os, time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {{k: v["string_value"] for k, v in config["parameters"].items()}}
        self.contract = json.loads(parameters["contract"])
        self.weights = np.array(json.loads(parameters["weights"])[args["model_version"]], dtype=np.float32)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        name = self.contract["observations"][0]["name"]
        x = pb.get_input_tensor_by_name(request, name).as_numpy().astype(np.float32)
        if x.ravel()[0] == {SLEEPY}:
            time.sleep({SLEEP_S})
        while x.ravel()[0] == {HELD} and not os.path.exists("@GATE@"):
            time.sleep(0.005)
        y = x.reshape(len(x), -1) @ self.weights
        found = {{"mean": y, "action": y, "log_std": np.full_like(y, -1.0), "logits": y}}
        if self.contract["action_kind"] == "discrete":
            start = int(self.contract["outputs"][0]["low"] or 0)
            found["action"] = (y.argmax(axis=1) + start).astype(np.int64)[:, None]
        wanted = request.requested_output_names()
        return pb.InferenceResponse([pb.Tensor(n, np.ascontiguousarray(found[n])) for n in wanted])
"""


def discrete_contract(*, inputs: int = 4, choices: int = 3, start: int = 0, more: bool = False) -> Contract:
    """A categorical policy over `choices` actions that begin at `start`; with one output `more` that none needs."""
    return Contract(
        observations=(
            TensorSpec(
                "observation",
                "float32",
                (inputs,),
                low=-1000.0,
                high=1000.0,
                features=tuple(f"feature {i}" for i in range(inputs)),
            ),
        ),
        outputs=(
            TensorSpec("action", "int64", (1,), low=float(start), high=float(start + choices - 1)),
            TensorSpec("logits", "float32", (choices,)),
            *(TensorSpec("mean", "float32", (choices,)),) * more,
        ),
        action_kind=ActionKind.DISCRETE,
        distribution=Distribution(DistributionKind.CATEGORICAL),
    )


def continuous_contract(*, inputs: int = 4, actions: int = 2) -> Contract:
    """A Gaussian policy, clipped to [-2, 2]."""
    return Contract(
        observations=(TensorSpec("observation", "float32", (inputs,)),),
        outputs=(
            TensorSpec("action", "float32", (actions,), low=-2.0, high=2.0),
            TensorSpec("mean", "float32", (actions,)),
            TensorSpec("log_std", "float32", (actions,)),
        ),
        action_kind=ActionKind.CONTINUOUS,
        distribution=Distribution(DistributionKind.GAUSSIAN, transform=Transform.CLIP),
    )


@dataclass
class ToyModel:
    """What is published under one name: weights and release of every slot."""

    contract: Contract
    weights: Mapping[int, np.ndarray]
    releases: Mapping[int, str]
    contracts: Mapping[int, Contract] = field(default_factory=dict)

    def contract_of(self, slot: int) -> Contract:
        """The contract that `slot` is served with."""
        return self.contracts.get(slot, self.contract)

    def outputs(self, slot: int, observations: np.ndarray) -> dict[str, np.ndarray]:
        """What `slot` must answer to `observations`, shape (n, inputs)."""
        y = observations.astype(np.float32) @ self.weights[slot].astype(np.float32)
        contract = self.contract_of(slot)
        if contract.action_kind is ActionKind.DISCRETE:
            start = int(contract.action.low or 0)
            return {"action": (y.argmax(axis=1) + start).astype(np.int64)[:, None], "logits": y}
        return {"action": y, "mean": y, "log_std": np.full_like(y, -1.0)}


class ToyTriton:
    """One running tritonserver; use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._gate = folder / "gate"
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self._prefix = f"toy{uuid.uuid4().hex[:8]}_"
        self._process: subprocess.Popen[bytes] | None = None
        self._family: list[psutil.Process] = []
        self._lay_backend()

    @property
    def http_url(self) -> str:
        """Host and port of the HTTP endpoint."""
        return f"127.0.0.1:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        """Host and port of the gRPC endpoint."""
        return f"127.0.0.1:{self.grpc_port}"

    def url(self, protocol: str) -> str:
        """Host and port of `protocol`."""
        return self.grpc_url if protocol == "grpc" else self.http_url

    def __enter__(self) -> ToyTriton:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start on the same ports as before, and wait until it is live."""
        install = locate()
        command = [
            str(install.tritonserver),
            f"--model-repository={self.folder / 'repository'}",
            f"--backend-directory={self.folder / 'backends'}",
            "--model-control-mode=explicit",
            "--strict-readiness=false",
            "--disable-auto-complete-config",
            "--exit-timeout-secs=1",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
            f"--http-port={self.http_port}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment(install), stdout=log, stderr=log)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{self.http_url}/v2/health/live", timeout=1).close()
                return
            time.sleep(0.05)
        raise RuntimeError(f"tritonserver is not live:\n{self.log_tail()}")

    def serve(self, name: str, model: ToyModel, slot: int, *, edit: Callable[[str], str] = lambda text: text) -> None:
        """Write the configuration that serves `slot` of `model` alone (after `edit`), and load it."""
        folder = self.folder / "repository" / name
        for each in model.weights:
            (folder / str(each)).mkdir(parents=True, exist_ok=True)
        (folder / "config.pbtxt").write_text(edit(_config(name, model, slot)), encoding="utf-8")
        # Over gRPC: Triton answers HTTP on a few threads, and a load that came by
        # HTTP holds up every connection of its thread until it is done.
        control = triton.InferenceServerClient(self.grpc_url)
        try:
            control.load_model(name, client_timeout=300)
        except InferenceServerException as error:
            raise RuntimeError(f"{error}\n{self.log_tail()}") from error
        finally:
            control.close()
        self._remember_family()

    def kill(self) -> None:
        """SIGKILL the server, as the kernel does when memory runs out."""
        assert self._process is not None
        self._remember_family()
        self._process.kill()
        self._process.wait()
        self._end_family()

    def stop(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        status = psutil.Process(self._process.pid).status
        while status() != psutil.STATUS_STOPPED:
            time.sleep(0.001)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def holding(self) -> Iterator[Callable[[], None]]:
        """Requests that are `HELD` are not answered until the block ends, or calls what it gets."""
        self._gate.unlink(missing_ok=True)
        try:
            yield self._gate.touch
        finally:
            self._gate.touch()

    def answered(self, name: str, slot: int) -> int:
        """How many requests this slot has answered since it was loaded."""
        with contextlib.closing(triton.InferenceServerClient(self.grpc_url)) as client:
            (found,) = client.get_inference_statistics(name, str(slot)).model_stats
        return int(found.inference_stats.success.count)

    def close(self) -> None:
        """End every process and remove every shared memory region."""
        if self._process is not None:
            self.kill()
        for leftover in Path("/dev/shm").glob(f"{self._prefix}*"):
            leftover.unlink(missing_ok=True)

    def log_tail(self) -> str:
        """The end of the server's log."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")[-4000:]

    def _remember_family(self) -> None:
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family += psutil.Process(self._process.pid).children(recursive=True)

    def _end_family(self) -> None:
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self._family:
            # Whoever inherits them may take its time to reap them: dead is enough.
            with contextlib.suppress(psutil.NoSuchProcess):
                while process.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(0.005)
        self._family = []

    def _lay_backend(self) -> None:
        install = locate()
        python, toy = self.folder / "backends/python", self.folder / "backends/toy"
        python.mkdir(parents=True)
        toy.mkdir(parents=True)
        (self.folder / "repository").mkdir(exist_ok=True)
        shutil.copy(install.python_backend / "libtriton_python.so", python)
        for file in install.python_backend.glob("*.py"):
            shutil.copy(file, python)
        shutil.copy(install.stub, python)
        (python / "triton_python_backend_stub").chmod(0o755)
        (toy / "model.py").write_text(_BACKEND.replace("@GATE@", str(self._gate)), encoding="utf-8")


def _config(name: str, model: ToyModel, slot: int) -> str:
    contract = model.contract_of(slot)
    weights = {str(s): w.tolist() for s, w in model.weights.items()}
    parameters = {
        "contract": json.dumps(contract.to_json()),
        "release": model.releases[slot],
        "releases": json.dumps({str(s): r for s, r in model.releases.items()}),
        "manifest_digest": "sha256:" + "0" * 64,
        "weights": json.dumps(weights),
    }
    lines = [f'name: "{name}"', 'backend: "toy"', f"max_batch_size: {MAX_BATCH}"]
    for kind, specs in (("input", contract.observations), ("output", contract.outputs)):
        for spec in specs:
            dims = ", ".join(str(d) for d in spec.shape)
            lines.append(f'{kind} {{ name: "{spec.name}" data_type: {_TYPES[spec.dtype]} dims: [{dims}] }}')
    for key, value in parameters.items():
        lines.append(f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }}')
    lines.append("instance_group { count: 1 kind: KIND_CPU }")
    lines.append("dynamic_batching { }")
    lines.append(f"version_policy {{ specific {{ versions: [{slot}] }} }}")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def toy_triton(folder: Path) -> Iterator[ToyTriton]:
    """A running server, or a skipped test where this machine has no tritonserver."""
    try:
        locate()
    except UnsupportedError as error:
        pytest.skip(error.problem)
    with ToyTriton(folder) as server:
        yield server
