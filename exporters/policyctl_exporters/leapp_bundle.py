"""A LEAPP bundle, read: nodes with their models, what flows between them, and what flows back.

A bundle is a folder with a YAML file, a model for each node (TorchScript, ONNX or
torch.export), and initial values of what flows back. Every model is held
against the SHA-256 that the description has for it; nothing outside the folder is read.

Source:
    The package `leapp` 0.7, configuration version 1.3: `leapp/inference_manager.py` runs the nodes in the order
    of the file. An output that flows back reaches its input at the next step.
"""

from __future__ import annotations

import json
import keyword
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from policyctl.documents.yaml_text import parse
from policyctl.domain.contract import Contract
from policyctl.domain.drive import Drive
from policyctl.domain.leapp import CONTRACT, SAFETENSORS, TARGETS
from policyctl.domain.manifest import digest_of
from policyctl.domain.tensor import DTYPES, Units
from policyctl.errors import UnsupportedError, UsageError
from policyctl.plain_files import DOCUMENT_BYTES, open_named
from policyctl_exporters.onnx_file import Port

_MOST_BYTES: Final = 4 << 30
_BACKENDS: Final = ("jit", "onnx", "pt2")
_TYPES: Final = {short: dtype for dtype, short in SAFETENSORS.items()}
_FREE: Final = re.compile(r"(?!(self|torch|training|v\d+|node_\d+)$)[A-Za-z]\w*")

Place = tuple[str, str]
"""A node, and an input or output of it."""


@dataclass(frozen=True, slots=True)
class Node:
    """One model of a bundle.

    Attributes:
        backend: ``jit``, ``onnx`` or ``pt2``.
        kinds: What LEAPP says that a tensor is, by the tensor's name.
        features: What the elements of a tensor are called, by its name.
        units: What 1 of each element is, by the tensor's name; LEAPP itself has no field for it.
    """

    name: str
    backend: str
    path: Path
    content: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    units: Mapping[str, Units] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a description says.

    Attributes:
        nodes: In the order in which they run.
        wires: Where an input comes from within a step.
        feedback: Where an input comes from at the next step.
        initial: What such inputs are at first; zeros where nothing is said.
        inputs: What somebody gives at each step, by the name that the contract has for it.
        outputs: What is answered, likewise.
        rate_hz: How often the nodes run each second, where the description says so.
        contract: Of the release that the bundle was written from, where it was one.
    """

    name: str
    digest: str
    nodes: tuple[Node, ...]
    wires: Mapping[Place, Place]
    feedback: Mapping[Place, Place]
    initial: Mapping[Place, NDArray[Any]]
    inputs: Mapping[str, Place]
    outputs: Mapping[str, Place]
    rate_hz: float | None = None
    contract: Contract | None = None

    @classmethod
    def of_one(cls, node: Node, memory: Mapping[str, str]) -> Self:
        """The bundle of one model, named as its file, whose own outputs flow back to it.

        Args:
            memory: Inputs that go on at the next step, each with the output that continues it.
        """
        return cls(
            name=node.path.name,
            digest="",
            nodes=(node,),
            wires={},
            feedback={(node.name, given): (node.name, after) for given, after in memory.items()},
            initial={},
            inputs={port.name: (node.name, port.name) for port in node.inputs if port.name not in memory},
            outputs={port.name: (node.name, port.name) for port in node.outputs if port.name not in memory.values()},
        )

    def port(self, place: Place, *, output: bool = False) -> Port:
        """An input or an output of a node."""
        node = next(node for node in self.nodes if node.name == place[0])
        return next(port for port in (node.outputs if output else node.inputs) if port.name == place[1])

    @property
    def has_batch(self) -> bool:
        """Whether every tensor that comes or goes has one row, as its first dimension."""
        ports = [*map(self.port, (*self.inputs.values(), *self.feedback))]
        ports += [self.port(place, output=True) for place in self.outputs.values()]
        return all(len(port.dims) > 1 and port.dims[0] == 1 for port in ports)

    @property
    def states(self) -> dict[str, Place]:
        """Inputs that flow back, by the names that the contract has for them."""
        return _named(self.feedback, taken=[*self.inputs])

    @property
    def continued(self) -> dict[str, str]:
        """The output that continues each state, by its own name where nothing else has that."""
        found: dict[str, str] = {}
        for name, place in self.states.items():
            own, taken = self.feedback[place][1], {*self.inputs, *self.outputs, *self.states, *found.values()}
            found[name] = own if _FREE.fullmatch(own) and own not in taken else f"{name}_next"
        return found

    @property
    def answers(self) -> dict[str, Place]:
        """What is answered, and what continues the states."""
        return {**self.outputs, **{self.continued[name]: self.feedback[place] for name, place in self.states.items()}}

    def drive(self, output: str) -> Drive | None:
        """What the description says of the command that an output is; None where it says nothing."""
        where, tensor = self.outputs.get(output, ("", ""))
        said = {node.name: node.kinds.get(tensor) for node in self.nodes}.get(where)
        kind = next((kind for kind, target in TARGETS.items() if target == said), None)
        # A target is what the machine is to reach: nothing is left to apply to it.
        return Drive(kind, rate_hz=self.rate_hz, in_graph=True if kind else None) if kind or self.rate_hz else None


def read_bundle(path: Path) -> Bundle:
    """Read a description and the models that it names.

    Raises:
        UsageError: Not a description of LEAPP, one that is not whole, or a model that is not the described one.
        UnsupportedError: A model that is not TorchScript, ONNX or torch.export, or flows that no step has.
    """
    with open_named(path, most_bytes=DOCUMENT_BYTES) as file:
        content = file.read()
    document = parse(content, what=path.name).data
    if not all(isinstance(document.get(key), Mapping) for key in ("models", "pipeline", "system information")):
        raise UsageError(
            f"{path.name} is not a description of LEAPP: it has no models, pipeline and system information",
            remedy="Name the YAML file that leapp.compile_graph() wrote.",
        )
    version = str(document["system information"].get("leapp config version", ""))
    if version and version.partition(".")[0] != "1":
        raise UsageError(
            f"{path.name} has version {version} of LEAPP's description, and 1 is read",
            remedy="Write it by leapp 0.7.",
        )
    return _Reading(document, path).bundle(digest_of(content))


class _Reading:
    def __init__(self, document: Mapping[str, Any], path: Path) -> None:
        self._document, self._path, self._pipeline = document, path, document["pipeline"]

    def bundle(self, digest: str) -> Bundle:
        """The whole."""
        nodes = tuple(self._node(str(name), said) for name, said in self._document["models"].items())
        if not nodes:
            self._refuse("it has no models")
        inputs = {(node.name, port.name) for node in nodes for port in node.inputs}
        outputs = {(node.name, port.name) for node in nodes for port in node.outputs}
        wires, feedback = (self._flow(key, inputs, outputs) for key in ("data_flow", "feedback_flow"))
        given, answered = ([*self._listed(key)] for key in ("inputs", "outputs"))
        if strange := [place for place in (*given, *answered) if place not in inputs | outputs]:
            self._refuse(f"no node has {'/'.join(strange[0])}")
        fed = [*wires, *feedback, *given]
        if left := sorted(inputs - {*fed}) or sorted({place for place in fed if fed.count(place) > 1}):
            self._refuse(f"{'/'.join(left[0])} does not come from one place")
        self._require_order([node.name for node in nodes], wires, feedback)
        return Bundle(
            name=self._path.name,
            digest=digest,
            nodes=nodes,
            wires=wires,
            feedback=feedback,
            initial=self._initial(nodes, feedback),
            inputs=_named(given, taken=[]),
            # What only flows back is an answer where there is no other.
            outputs=_named(answered or dict.fromkeys(feedback.values()), taken=[]),
            **self._settings(),
        )

    def _settings(self) -> dict[str, Any]:
        """The rate and the contract, where the pipeline says them."""
        said = self._pipeline.get("configs")
        said = said if isinstance(said, Mapping) else {}
        rate, contract = said.get("frequency"), said.get(CONTRACT)
        if rate is not None and not (type(rate) in (int, float) and 0 < rate < math.inf):
            self._refuse(f"the frequency of the pipeline is {rate}, expected more than 0")
        return {
            "rate_hz": rate and float(rate),
            "contract": None if contract is None else Contract.from_json(contract),
        }

    def _node(self, name: str, said: Any) -> Node:
        parameters = said.get("parameters") if isinstance(said, Mapping) else None
        if not isinstance(parameters, Mapping) or not isinstance(parameters.get("model_path"), str):
            raise UnsupportedError(
                f"{self._path.name}: the node {name} has no model",
                remedy="Export every node: annotate.output_tensors(..., export_with='jit').",
            )
        backend, where = str(parameters.get("backend")), PurePosixPath(parameters["model_path"])
        if backend not in _BACKENDS or parameters.get("warp_segments"):
            kind = "Warp kernels" if parameters.get("warp_segments") else f"a model of the backend {backend}"
            raise UnsupportedError(
                f"{self._path.name}: the node {name} has {kind}, which cannot be served",
                remedy=f"Export it with one of {', '.join(_BACKENDS)}.",
            )
        if where.is_absolute() or ".." in where.parts:
            self._refuse(f"the model of {name} lies outside its folder: {where}")
        path = self._path.parent / where
        if not path.is_file():
            self._refuse(f"the model of {name} is missing: {where}")
        with open_named(path, most_bytes=_MOST_BYTES) as file:
            content = file.read()
        if digest_of(content) != f"sha256:{parameters.get('sha256sum')}":
            self._refuse(f"{where} is not the model that it describes: its SHA-256 is {digest_of(content)[7:19]}...")
        described = {key: said.get(key) for key in ("inputs", "outputs")}
        ports = {key: tuple(map(self._port, value)) for key, value in described.items() if isinstance(value, list)}
        if len(ports) != 2:
            self._refuse(f"the node {name} has no inputs and outputs")
        tensors = [each for value in described.values() for each in value]
        features = {str(each["name"]): _features(each.get("element_names")) for each in tensors}
        units = {str(each["name"]): _units(each.get("units")) for each in tensors}
        kinds = {str(each["name"]): str(each.get("kind")) for each in tensors}
        return Node(name, backend, path, content, ports["inputs"], ports["outputs"], features, units, kinds)

    def _port(self, said: Any) -> Port:
        try:
            shape = json.loads(said["shape"]) if isinstance(said["shape"], str) else said["shape"]
            port = Port(str(said["name"]), str(said["dtype"]), tuple(int(size) for size in shape))
        except (KeyError, TypeError, ValueError):
            self._refuse(f"{said} is not a tensor with name, dtype and shape")
        if port.dtype not in DTYPES or not all(size and size > 0 for size in port.dims):
            self._refuse(f"{port.name} is {port.dtype}{[*port.dims]}, which no contract can hold")
        return port

    def _flow(self, key: str, inputs: set[Place], outputs: set[Place]) -> dict[Place, Place]:
        found: dict[Place, Place] = {}
        for source, targets in (self._pipeline.get(key) or {}).items():
            first = _place(source)
            for target in map(_place, targets):
                if first not in outputs or target not in inputs or target in found:
                    self._refuse(f"{key} of the pipeline has {source} -> {'/'.join(target)}")
                found[target] = first
        return found

    def _listed(self, key: str) -> Iterator[Place]:
        for node, names in (self._pipeline.get(key) or {}).items():
            yield from ((str(node), str(name)) for name in names)

    def _require_order(
        self, order: Sequence[str], wires: Mapping[Place, Place], feedback: Mapping[Place, Place]
    ) -> None:
        for target, source in wires.items():
            if order.index(source[0]) >= order.index(target[0]):
                self._refuse(f"{'/'.join(source)} flows to {'/'.join(target)}, which runs before it")
        for target, source in feedback.items():
            if order.index(source[0]) < order.index(target[0]):
                self._refuse(f"{'/'.join(source)} flows back to {'/'.join(target)}, which runs after it")

    def _initial(self, nodes: Sequence[Node], feedback: Mapping[Place, Place]) -> dict[Place, NDArray[Any]]:
        name = self._pipeline.get("initial_values")
        if not name:
            return {}
        where = PurePosixPath(str(name))
        path = self._path.parent / where
        if where.is_absolute() or ".." in where.parts or not path.is_file():
            self._refuse(f"the initial values are missing: {where}")
        with open_named(path, most_bytes=DOCUMENT_BYTES) as file:
            found = {_place(key): value for key, value in read_safetensors(file.read(), what=path.name).items()}
        if strange := [place for place in found if place not in feedback]:
            self._refuse(f"{where} has an initial value for {'/'.join(strange[0])}, to which nothing flows back")
        ports = {(node.name, port.name): port for node in nodes for port in node.inputs}
        for place, value in found.items():
            if (str(value.dtype), value.shape) != (ports[place].dtype, ports[place].dims):
                self._refuse(f"{where} has {value.dtype}{[*value.shape]} for {'/'.join(place)}")
        return found

    def _refuse(self, what: str) -> Any:
        raise UsageError(f"{self._path.name}: {what}", remedy="Write the bundle again by leapp.compile_graph().")


def _place(text: Any) -> Place:
    node, _, name = str(text).partition("/")
    return node, name


def _named(places: Any, *, taken: Sequence[str]) -> dict[str, Place]:
    """Each place by its own name, with its node before it where another has that name.

    The names stand in the text of a program as well, which uses a few itself.
    """
    names = [name for _, name in places]
    found: dict[str, Place] = {}
    for node, name in places:
        plain = re.sub(r"\W", "_", name)
        free = names.count(name) == 1 and plain not in taken and _FREE.fullmatch(plain) and not keyword.iskeyword(plain)
        found[plain if free else f"x_{re.sub(r'[^A-Za-z0-9]', '_', node)}_{plain}"] = (node, name)
    return found


def _features(names: Any) -> tuple[str, ...]:
    """One name an element, where the description has such."""
    inner = names
    while isinstance(inner, list) and len(inner) == 1 and isinstance(inner[0], list):
        inner = inner[0]
    plain = isinstance(inner, list) and all(isinstance(name, str) for name in inner)
    return tuple(inner) if plain else ()


def _units(said: Any) -> Units:
    """What a description has in addition to LEAPP's own fields: one unit, or one an element."""
    return said.strip() if isinstance(said, str) else tuple(unit.strip() for unit in _features(said)) or ""


def read_safetensors(content: bytes, *, what: str) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file: a length, a header in JSON, and bytes.

    Raises:
        UsageError: It is damaged, or of another form.
    """
    try:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        body = content[8 + length :]
        return {
            str(name): np.frombuffer(body[slice(*said["data_offsets"])], _TYPES[said["dtype"]]).reshape(said["shape"])
            for name, said in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise UsageError(
            f"{what} is damaged, or no safetensors file: {error}", remedy="Write the bundle again."
        ) from error
