"""Write a release as a LEAPP bundle, so that what was published here can be run by LEAPP's own runtime.

The bundle has one node: the release's ONNX or TorchScript artifact, byte for byte. States of the contract
flow back from their output to their input, and begin with their initial values. The description names
the release and the digest of its manifest.

LEAPP has fields for the rate of the pipeline, for what an output commands, and for what elements are called.
For bounds, histories, chunks, gains, masks and draws it has none. So the whole contract stands among the
pipeline's further settings, which LEAPP keeps and its runtime does not read.

Source:
    The package `leapp` 0.7, configuration version 1.3 (`GraphConfigs`, `TensorSemantics`, `OutputKindEnum`);
    see `policyctl_exporters.leapp_bundle`, which reads it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import policyctl
from policyctl.documents.yaml_text import dump
from policyctl.domain.artifacts import CONTRACT_FILE, FILES, Format
from policyctl.domain.contract import Contract
from policyctl.domain.drive import Drive
from policyctl.domain.leapp import CONTRACT, SAFETENSORS, TARGETS
from policyctl.domain.memory import initial_states
from policyctl.domain.tensor import OWN_ROLES, TensorSpec
from policyctl.errors import UnsupportedError, UsageError
from policyctl.integrity import read_release
from policyctl.services.control import Control

_BACKENDS: Final = {Format.ONNX: "onnx", Format.TORCHSCRIPT: "jit"}


@dataclass(frozen=True, slots=True)
class LeappExport:
    """What was written, or would be.

    Attributes:
        description: The YAML file that LEAPP's runtime is given.
        backend: ``onnx`` or ``jit``.
        states: Inputs that flow back.
        left_to_the_caller: What the contract says and LEAPP's runtime does not do, in words.
    """

    model: str
    release: str
    description: str
    backend: str
    manifest_digest: str
    states: tuple[str, ...]
    left_to_the_caller: tuple[str, ...] = ()
    dry_run: bool = False


def export_leapp(
    control: Control, *, model: str, release: str, destination: Path, dry_run: bool = False
) -> LeappExport:
    """Write a bundle to a new folder.

    Raises:
        UsageError: No such release, or a folder that is in use.
        IntegrityError: A file is not what was published.
        UnsupportedError: The release has no artifact that LEAPP runs.
    """
    from policyctl_exporters.folders import whole_folder

    published = control.known().release(model, release)
    folder = control.repository.slot(model, published.slot)
    form = next((form for form in _BACKENDS if all((folder / path).is_file() for path in FILES[form])), None)
    kept = (CONTRACT_FILE, *(FILES[form] if form else ()))
    # Read once: what is written are the very bytes that were verified.
    found = read_release(folder, keep=kept, expected_digest=published.manifest_digest)
    if form is None:
        raise UnsupportedError(
            f"{model} {release} has neither ONNX nor TorchScript, which LEAPP runs",
            remedy="Export the policy again with --format onnx, and publish it under a new number.",
        )
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UsageError(f"{destination} is in use", remedy="Give a new folder for the bundle.")
    (artifact,) = FILES[form]
    contract = Contract.from_json(json.loads(found.contents[CONTRACT_FILE]))
    content, description = found.contents[artifact], f"{model}.yaml"
    if not dry_run:
        memory = f"{model}_initial_values.safetensors" if contract.states else ""
        said = _description(contract, model, artifact, content, _BACKENDS[form], memory)
        said["system information"] |= {
            "policyctl version": policyctl.__version__,
            "policyctl release": f"{model} {release}",
            "policyctl manifest": published.manifest_digest,
        }
        with whole_folder(destination, force=False) as written:
            (written / artifact).write_bytes(content)
            (written / description).write_text(dump(said), encoding="utf-8")
            if memory:
                begin = {f"{model}/{name}": value for name, value in initial_states(contract).items()}
                (written / memory).write_bytes(safetensors(begin))
    return LeappExport(
        model=model,
        release=release,
        description=str(destination / description),
        backend=_BACKENDS[form],
        manifest_digest=published.manifest_digest,
        states=tuple(state.input for state in contract.states),
        left_to_the_caller=tuple(_left_to_the_caller(contract)),
        dry_run=dry_run,
    )


def _left_to_the_caller(contract: Contract) -> Iterator[str]:
    """What a client of policyctl does by the contract, and LEAPP's runtime does not."""
    for history in contract.histories:
        yield f"stack the last {history.length} steps in {history.observation}"
    for role in OWN_ROLES:
        yield from (f"give {role.words} as {spec.name}" for spec in contract.with_role(role))
    if contract.chunk is not None:
        yield f"hand out the actions of a chunk ({contract.chunk.words})"
    if contract.drive is not None and not contract.drive.in_graph:
        yield f"make the command of an action ({contract.drive.words})"


def _description(
    contract: Contract, model: str, artifact: str, content: bytes, backend: str, memory: str
) -> dict[str, Any]:
    """What LEAPP has to know, with a batch of one row."""
    fed, after = {state.input for state in contract.states}, {state.output for state in contract.states}
    node = {
        "inputs": [_tensor(spec) for spec in contract.observations],
        "outputs": [_tensor(contract.action) | _commanded(contract.drive), *map(_tensor, contract.outputs[1:])],
        "parameters": {
            "model_path": artifact,
            "md5sum": hashlib.md5(content, usedforsecurity=False).hexdigest(),
            "sha256sum": hashlib.sha256(content).hexdigest(),
            "backend": backend,
            "warp_segments": 0,
        },
    }
    pipeline: dict[str, Any] = {
        "data_flow": {},
        "feedback_flow": {f"{model}/{s.output}": [f"{model}/{s.input}"] for s in contract.states},
        "inputs": {model: [spec.name for spec in contract.observations if spec.name not in fed]},
        "outputs": {model: [spec.name for spec in contract.outputs if spec.name not in after]},
        "configs": {**_rate(contract.drive), CONTRACT: contract.to_json()},
    }
    if memory:
        pipeline["initial_values"] = memory
    return {"models": {model: node}, "pipeline": pipeline, "system information": {"leapp config version": "1.3"}}


def _commanded(drive: Drive | None) -> dict[str, str]:
    """What LEAPP calls a target of this kind, which an action is where nothing is left to apply to it."""
    return {"kind": TARGETS[drive.kind]} if drive and drive.kind and drive.in_graph else {}


def _rate(drive: Drive | None) -> dict[str, float]:
    return {"frequency": drive.rate_hz} if drive and drive.rate_hz is not None else {}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    names = {"element_names": [list(spec.features)]} if spec.features else {}
    units = {"units": [*spec.units] if isinstance(spec.units, tuple) else spec.units} if spec.units else {}
    return {"name": spec.name, "dtype": spec.dtype, "shape": [1, *spec.shape], "type": "tensor", **names, **units}


def safetensors(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The arrays as a safetensors file: the length of a header in JSON, the header, and bytes."""
    header, body = {}, b""
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": SAFETENSORS[str(array.dtype)], "shape": [*array.shape], "data_offsets": offsets}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    # The format wants the bytes to begin at a multiple of eight.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body
