"""Small releases of one policy in every fmt, a repository for them, and a server that serves it.

A release is what publishing makes: artifacts, contract, golden set, parity,
card and manifest in a numbered folder. Its weights follow from a seed, so two
slots answer differently and a test can tell which one answered.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import http.client
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded import PATIENCE_S
from numpy.typing import NDArray

from policyctl.domain.artifacts import (
    BACKENDS,
    CARD_FILE,
    CONTRACT_FILE,
    FILES,
    GOLDEN_FILE,
    MANIFEST_FILE,
    PARITY_FILE,
    Format,
)
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.golden import Golden
from policyctl.domain.manifest import Manifest, canonical_json, digest_of
from policyctl.domain.parity import Tolerance
from policyctl.domain.tensor import TensorSpec
from policyctl.integrity import build_manifest
from policyctl.serving.backend_directory import assemble
from policyctl.serving.locate import locate
from policyctl.serving.logs import LogLine
from policyctl.serving.native import choose
from policyctl.serving.ports import free_ports
from policyctl.serving.process import ServerOptions, TritonProcess
from policyctl.settings import NativeMode

KEY = "test-key-0123456789abcdef"
MODEL = "walker"
OBSERVATION, ACTIONS, HIDDEN = 12, 4, 32
FORMATS = (Format.OPENVINO, Format.ONNX, Format.TORCHSCRIPT)
NATIVE = "openvino_native"
"""The compiled backend of OpenVINO artifacts, under a name of its own beside its Python-based twin."""
HAS_NATIVE = choose(NativeMode.AUTO).backend is not None
needs_native = pytest.mark.skipif(not HAS_NATIVE, reason="the native backend is not built: make native")
KINDS = (*FORMATS, pytest.param(NATIVE, marks=needs_native))
"""Every backend, by the format that it serves, or by its name."""
Kind = Format | str
MAX_BATCH = 64
_TYPES = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"} | {
    f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64)
}


def files_of(kind: Kind) -> tuple[str, ...]:
    """The files of the artifact that this backend serves."""
    return FILES[Format.OPENVINO if kind == NATIVE else Format(kind)]


def contract() -> Contract:
    """Two observations, so that their order matters, and an action with its value."""
    return Contract(
        observations=(
            TensorSpec(
                "observation", "float32", (OBSERVATION,), features=tuple(f"joint_{i}" for i in range(OBSERVATION))
            ),
            TensorSpec("goal", "float32", (2,)),
        ),
        outputs=(TensorSpec("action", "float32", (ACTIONS,), -1.0, 1.0), TensorSpec("value", "float32", (1,))),
        action_kind=ActionKind.CONTINUOUS,
    )


@functools.cache
def policy(seed: int) -> Any:
    """The torch policy of one seed. An `observation` above 1e30 makes its action NaN."""
    import torch

    class Policy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(
                torch.nn.Linear(OBSERVATION + 2, HIDDEN),
                torch.nn.Tanh(),
                torch.nn.Linear(HIDDEN, HIDDEN),
                torch.nn.Tanh(),
            )
            self.action, self.value = torch.nn.Linear(HIDDEN, ACTIONS), torch.nn.Linear(HIDDEN, 1)

        def forward(self, observation: Any, goal: Any) -> Any:
            hidden = self.body(torch.cat([observation, 2.0 * goal], dim=1))
            largest = observation.amax(dim=1, keepdim=True)
            # The root of a negative number for a huge observation, nothing to speak of for others.
            poison = torch.sqrt(1e30 - largest) * 1e-30
            return torch.tanh(self.action(hidden)) + poison, self.value(hidden)

    torch.manual_seed(seed)
    return Policy().eval()


def answer(seed: int, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What the policy itself says."""
    import torch

    with torch.no_grad():
        action, value = policy(seed)(*[torch.from_numpy(inputs[name]) for name in ("observation", "goal")])
    return {"action": action.numpy(), "value": value.numpy()}


def observations(rows: int, *, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random observations, shape (rows, ...)."""
    rng = np.random.default_rng(seed)
    return {s.name: rng.standard_normal((rows, *s.shape)).astype(s.dtype) for s in contract().observations}


@functools.cache
def artifacts(seed: int) -> Path:
    """The policy of one seed in every fmt, exported once for all tests of this run."""
    folder = Path(tempfile.mkdtemp(prefix="policyctl-test-artifacts-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    export(seed, folder / "files")
    return folder / "files"


def export(seed: int, folder: Path) -> None:
    """Write the policy in every format."""
    import openvino as ov
    import torch

    folder.mkdir(parents=True)
    example = tuple(torch.from_numpy(a) for a in observations(2).values())
    names = ["observation", "goal"], ["action", "value"]
    axes = {name: {0: "n"} for group in names for name in group}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both ways say that there is a newer one
        torch.onnx.export(
            policy(seed),
            example,
            str(folder / "model.onnx"),
            dynamo=False,
            input_names=names[0],
            output_names=names[1],
            dynamic_axes=axes,
        )
        torch.jit.trace(policy(seed), example).save(str(folder / "model.pt"))
    ov.save_model(ov.convert_model(folder / "model.onnx"), folder / "model.xml", compress_to_fp16=False)


def fill_slot(slot: Path, *, seed: int, release: str, model: str = MODEL) -> Manifest:
    """Make `slot` a published release of the policy of `seed`."""
    shutil.copytree(artifacts(seed), slot)
    inputs = observations(8)
    golden = Golden(inputs, answer(seed, inputs), Tolerance())
    (slot / CONTRACT_FILE).write_bytes(canonical_json(contract().to_json()))
    (slot / GOLDEN_FILE).write_bytes(golden.to_bytes())
    (slot / PARITY_FILE).write_text("{}\n")
    (slot / CARD_FILE).write_text("schema_version: 2\nname: walker\n")
    return seal(slot, release=release, model=model)


def seal(slot: Path, *, release: str, model: str = MODEL) -> Manifest:
    """Write the manifest of what is in `slot`."""
    manifest = build_manifest(slot, model=model, release=release)
    (slot / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    return manifest


def config(
    fmt: Kind,
    *,
    version: int,
    release: str,
    digest: str,
    max_batch: int = MAX_BATCH,
    batching: str = "dynamic_batching {}",
    parameters: Mapping[str, str] | None = None,
    of: Contract | None = None,
    instances: int = 1,
    without: Sequence[str] = (),
) -> str:
    """The text of config.pbtxt; an empty `digest` leaves the parameter out, `without` names tensors to leave out."""
    values = {"release": release, "contract": json.dumps((of or contract()).to_json()), **(parameters or {})}
    if digest:
        values["manifest_digest"] = digest
    lines = [
        f'backend: "{NATIVE if fmt == NATIVE else BACKENDS[Format(fmt)]}"',
        f'default_model_filename: "{files_of(fmt)[0]}"',
        f"max_batch_size: {max_batch}",
        f"version_policy {{ specific {{ versions: [{version}] }} }}",
        f"instance_group {{ count: {instances} kind: KIND_CPU }}",
        batching if max_batch else "",
    ]
    lead = [] if max_batch else [-1]
    for kind, specs in (("input", (of or contract()).observations), ("output", (of or contract()).outputs)):
        for spec in (each for each in specs if each.name not in without):
            dims = [*lead, *spec.shape]
            lines.append(f'{kind} {{ name: "{spec.name}" data_type: TYPE_{_TYPES[spec.dtype]} dims: {dims} }}')
    for key, value in values.items():
        lines.append(f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }}')
    return "\n".join(line for line in lines if line) + "\n"


def publish(repository: Path, model: str, fmt: Kind, *, seed: int = 1, slot: int = 1, **options: Any) -> None:
    """Put the policy of `seed` into `slot`, unless it is there, and configure it."""
    folder, release = repository / model / str(slot), f"{seed}.0.0"
    if not folder.exists():
        fill_slot(folder, seed=seed, release=release)
    digest = digest_of((folder / MANIFEST_FILE).read_bytes())
    text = config(fmt, version=slot, release=release, digest=digest, **options)
    (repository / model / "config.pbtxt").write_text(text)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said: an HTTP status, and outputs or an error."""

    status: int
    outputs: dict[str, NDArray[Any]] = field(default_factory=dict)
    version: str = ""
    error: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Server:
    """A running server, its repository and its log."""

    process: TritonProcess
    repository: Path
    lines: list[LogLine]

    @property
    def port(self) -> int:
        return self.process.options.http_port

    def call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, key: str = KEY
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """One HTTP request, on a connection of its own; where the server has died, its last words are in the error."""
        sent = {**(headers or {}), **({"policyctl-key": key} if key else {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            try:
                connection.request(method, path, body, sent)
                response = connection.getresponse()
                return response.status, response.read(), dict(response.getheaders())
            except ConnectionError as error:
                said = "\n".join(line.message for line in self.lines[-60:])
                error.add_note(f"The server's exit code is {self.process.exit_code()}. It said last:\n{said}")
                raise

    def load(self, model: str, *, key: str = KEY) -> str:
        """Load; the error, or nothing."""
        status, body, _ = self.call("POST", f"/v2/repository/models/{model}/load", b"{}", key=key)
        return "" if status == 200 else json.loads(body).get("error", f"HTTP {status}")

    def unload(self, model: str) -> None:
        status, body, _ = self.call("POST", f"/v2/repository/models/{model}/unload", b"{}")
        assert status == 200, body

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        *,
        outputs: Sequence[str] = ("action", "value"),
        request_id: str = "",
    ) -> Answer:
        """Ask with binary tensors, which can carry what JSON cannot (NaN)."""
        header = {
            "id": request_id,
            "inputs": [
                {
                    "name": name,
                    "shape": list(a.shape),
                    "datatype": _TYPES[str(a.dtype)],
                    "parameters": {"binary_data_size": a.nbytes},
                }
                for name, a in inputs.items()
            ],
            "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
        }
        text = json.dumps(header).encode()
        body = text + b"".join(np.ascontiguousarray(a).tobytes() for a in inputs.values())
        status, content, headers = self.call(
            "POST", f"/v2/models/{model}/infer", body, {"Inference-Header-Content-Length": str(len(text))}
        )
        if status != 200:
            return Answer(status, error=json.loads(content)["error"])
        length = int({k.lower(): v for k, v in headers.items()}["inference-header-content-length"])
        described, at, found = json.loads(content[:length]), length, {}
        names = {triton: numpy for numpy, triton in _TYPES.items()}
        for output in described["outputs"]:
            size = output["parameters"]["binary_data_size"]
            flat = np.frombuffer(content[at : at + size], dtype=names[output["datatype"]])
            found[output["name"]] = flat.reshape(output["shape"])
            at += size
        return Answer(status, found, described["model_version"], parameters=described.get("parameters", {}))

    def statistics(self, model: str) -> dict[str, Any]:
        return dict(json.loads(self.call("GET", f"/v2/models/{model}/stats")[1])["model_stats"][0])

    def serve(self, model: str, fmt: Kind, **options: Any) -> None:
        """Publish a release, unless it is there, and load it."""
        publish(self.repository, model, fmt, **options)
        assert self.load(model) == ""

    def said(self, words: str) -> list[str]:
        """Log messages that hold `words`."""
        return [line.message for line in list(self.lines) if words in line.message]


def backends_in(folder: Path) -> Path:
    """A directory of all backends, the compiled one too if there is one."""
    found, native = assemble(locate(), folder), choose(NativeMode.AUTO).backend
    if native is not None:
        home = found / NATIVE
        home.mkdir()
        (home / f"libtriton_{NATIVE}.so").symlink_to(native.library.resolve())
        (home / "libs").symlink_to(native.openvino)
    return found


@contextlib.contextmanager
def serving(repository: Path, backends: Path, *, key: str = KEY, **options: Any) -> Iterator[Server]:
    """A live server on free ports, stopped at the end."""
    repository.mkdir(parents=True, exist_ok=True)
    http_port, grpc_port, metrics_port = free_ports(3)
    lines: list[LogLine] = []
    process = TritonProcess(
        ServerOptions(
            repository=repository,
            backend_directory=backends_in(backends),
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            api_key=key,
            **options,
        ),
        on_log=lines.append,
    )
    process.start()
    try:
        process.wait_live(PATIENCE_S)
        yield Server(process, repository, lines)
    finally:
        # Whoever tests an orderly stop has stopped it by now; the others need not wait for one.
        process.stop(timeout_s=0.2)
