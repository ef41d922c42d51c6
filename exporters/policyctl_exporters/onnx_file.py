"""An ONNX file as it came: read within bounds, run unchanged by ONNX Runtime; and what depends on what in its graph.

Nested graphs (branches of `If`, bodies of `Loop`) use tensors of the graphs
around them, and functions of the model hold more operators: both count.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.manifest import digest_of
from policyctl.domain.tensor import DTYPES
from policyctl.errors import PolicyctlError, UnsupportedError, UsageError, first_line
from policyctl.plain_files import open_named
from policyctl_exporters.inlining import require_bounded

MOST_BYTES: Final = 2**31 - 1
"""What protobuf can hold: graph and weights together, which stand in one file after an export."""

RANDOM: Final = "(a random number)"
"""Stands among the sources of a tensor for a draw inside the graph; no tensor can be called so by accident."""

_RANDOM_OPERATORS: Final = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
SHAPING: Final = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators that change nothing but a shape."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as the file declares it.

    Attributes:
        dtype: A NumPy dtype name, or ONNX Runtime's word for what no contract holds.
        dims: None where a dimension is not fixed.
    """

    name: str
    dtype: str
    dims: tuple[int | None, ...]

    @property
    def is_tensor(self) -> bool:
        """Whether a contract can hold it."""
        return self.dtype in DTYPES and not self.is_empty

    @property
    def is_empty(self) -> bool:
        """Whether it has no elements, as the memory of a policy that has none."""
        return 0 in self.dims


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What a file holds, and the file itself, ready to run.

    Attributes:
        digest: Of the file; not of weights that lie next to it.
        model: The `onnx.ModelProto`, with all weights inside.
        session: ONNX Runtime with the unmodified file, or with one more of its tensors as an output.
        initial: What a state begins with, by the name of its input; zeros where nothing is said.
        blocks: How many choices each block of its scores has, where the graph itself says so.
        added: The output that `with_scores` added, which nobody can name; empty without one.
        limits: The least and the largest number of an input, by its name, where the file was found to fail on others.
    """

    name: str
    digest: str
    model: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    session: Any
    initial: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    blocks: tuple[int, ...] = ()
    added: str = ""
    limits: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)

    def with_scores(self, blocks: Sequence[str], name: str) -> OnnxFile:
        """The file with tensors of its graph, each of shape (n, size) and of one type, side by side as an output."""
        import onnx

        from policyctl.sessions.onnxruntime import dtype_of, open_graph

        model = copy.deepcopy(self.model)
        # A tensor inside that has this name already gives way.
        moved = rename(model, {}, reserved=[name])
        blocks = [moved.get(block, block) for block in blocks]
        joined = ("Concat", {"axis": 1}) if len(blocks) > 1 else ("Identity", {})
        model.graph.node.append(onnx.helper.make_node(joined[0], blocks, [name], **joined[1]))
        # Without a type, for it is that of the blocks.
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        session = open_graph(model.SerializeToString())
        made = Port(name, dtype_of(session.get_outputs()[-1]), (None, None))
        return replace(self, model=model, outputs=(*self.outputs, made), session=session, added=name)

    def shapes(self, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The shape of each of these tensors of its graph, for one row where the file does not say how many."""
        return {name: np.shape(value) for name, value in self.values(names).items()}

    def values(self, names: Iterable[str]) -> dict[str, Any]:
        """Each of these tensors of its graph, and its outputs, by name, for zeros."""
        import onnx

        from policyctl.sessions.onnxruntime import open_graph

        model = copy.deepcopy(self.model)
        known = {port.name for port in self.outputs}
        more = [name for name in dict.fromkeys(names) if name not in known]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in more)
        ports = (*self.outputs, *(Port(name, "", ()) for name in more))
        file = replace(self, outputs=ports, session=open_graph(model.SerializeToString()))
        return file.run(self.zeros())

    def zeros(self) -> dict[str, NDArray[Any]]:
        """Zeros for every input, one row where the file does not say how many."""
        ports = [port for port in self.inputs if port.dtype in DTYPES]
        return {p.name: np.zeros([1 if dim is None else dim for dim in p.dims], p.dtype) for p in ports}

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """All outputs for one feed, by name."""
        from policyctl.sessions.onnxruntime import quietly

        names = [port.name for port in self.outputs]
        try:
            return dict(zip(names, self.session.run(names, dict(feed), quietly()), strict=True))
        # The exceptions of ONNX Runtime share no class.
        except Exception as error:
            shown = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feed.items())
            raise UsageError(
                f"{self.name} itself fails on {shown}: {plain_words(error)}",
                remedy="A server asks for one row, and for many: export it again with a dynamic batch. If it takes"
                " indices, give the bounds of its observations: --env, observation_space=.",
            ) from error


def read_onnx(path: Path) -> OnnxFile:
    """Read a file, and its weights where they lie next to it.

    Raises:
        UsageError: Not a valid model, too large, or weights that are missing or lie elsewhere.
        UnsupportedError: ONNX Runtime cannot load it, as for an operator that it does not have.
    """
    import onnx
    import onnx.inliner

    with open_named(path, most_bytes=MOST_BYTES) as reader:
        content = reader.read(MOST_BYTES)
    try:
        model = onnx.load_from_string(content)
        if model.functions:
            _require_bounded(model, path.name)
            # Not every runtime knows functions, which torch writes a file full of.
            model = onnx.inliner.inline_local_functions(model)
    except UsageError:
        raise
    # protobuf raises what it likes on damaged files.
    except Exception as error:
        raise UsageError(
            f"{path.name} is not a valid ONNX model: {first_line(error)}",
            remedy="It is damaged, cut short, or of another kind: get the file again.",
        ) from error
    outside = load_weights(model, path)
    return opened(model, str(path) if outside else content, name=path.name, digest=digest_of(content))


def opened(model: Any, graph: str | bytes, *, name: str, digest: str) -> OnnxFile:
    """A model, ready to run.

    Args:
        model: The `onnx.ModelProto`, with all weights inside.
        graph: Its file, or its content.

    Raises:
        UnsupportedError: ONNX Runtime cannot load it.
        UsageError: It does not say the shape of an input.
    """
    from policyctl.sessions.onnxruntime import dtype_of, open_graph

    try:
        session = open_graph(graph)
    # The exceptions of ONNX Runtime share no class.
    except Exception as error:
        raise UnsupportedError(
            f"ONNX Runtime cannot load {name}: {plain_words(error)}",
            remedy="Policies are served with the operators of ONNX alone: export the policy again without others.",
        ) from error

    def port(node: Any) -> Port:
        return Port(node.name, dtype_of(node), tuple(d if isinstance(d, int) and d >= 0 else None for d in node.shape))

    unshaped = [value.name for value in model.graph.input if value.name in input_names(model) and _is_unshaped(value)]
    if unshaped:
        raise UsageError(
            f"{name} does not say which shape {', '.join(unshaped)} has",
            remedy="Export it again with inputs whose shapes are known.",
        )
    inputs, outputs = (tuple(map(port, nodes)) for nodes in (session.get_inputs(), session.get_outputs()))
    return OnnxFile(name, digest, model, inputs, outputs, session)


def _is_unshaped(value: Any) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def graphs(graph: Any) -> Iterator[Any]:
    """A graph and all that are nested in it: branches of `If`, bodies of `Loop` and `Scan`."""
    yield graph
    for node in graph.node:
        for inner in nested(node):
            yield from graphs(inner)


def nested(node: Any) -> Iterator[Any]:
    """The graphs that stand in a node's attributes, without those nested in them."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def _require_bounded(model: Any, name: str) -> None:
    """Raises: UsageError: Its functions call one another too often to be written out."""
    bodies = {f"{each.domain}::{each.name}": each for each in model.functions} | {name: model.graph}
    operators = {
        key: [f"{node.domain}::{node.op_type}" for graph in graphs(body) for node in graph.node]
        for key, body in bodies.items()
    }
    require_bounded(operators, name=name)


def plain_words(error: Exception) -> str:
    """What ONNX Runtime says, without its codes and the places in its source."""
    text = error.problem.splitlines()[0] if isinstance(error, PolicyctlError) else first_line(error)
    text = re.sub(r"(\w+: )?\[ONNXRuntimeError\] : \d+ : \w+ : (Fatal error: )?", "", text)
    return re.sub(r" Name:'[^']*'( Status Message: /\S.*)?", "", text)


def load_weights(model: Any, path: Path) -> bool:
    """Take weights of other files into the model; whether there are any.

    onnx itself refuses links, devices, and paths that leave the folder.
    """
    from onnx.external_data_helper import load_external_data_for_model, uses_external_data

    tensors = [tensor for graph in graphs(model.graph) for tensor in weights(graph)]
    outside = [tensor for tensor in tensors if uses_external_data(tensor)]
    if not outside:
        return False
    try:
        if (size := sum(_size_bytes(tensor, path.parent) for tensor in outside)) > MOST_BYTES:
            raise UsageError(f"{path.name} has weights of {size} bytes in other files, at most {MOST_BYTES} are read")
        load_external_data_for_model(model, str(path.parent))
    except UsageError:
        raise
    # The checker, the reader and the operating system each raise different exceptions.
    except Exception as error:
        raise UsageError(
            f"{path.name} has weights in other files, and they cannot be read: {first_line(error)}",
            remedy="Put them into the folder of the .onnx file, under the names that they had when it was saved.",
        ) from error
    return True


def weights(graph: Any) -> Iterator[Any]:
    """Every constant tensor of one graph, without those of graphs nested in it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t


def _size_bytes(tensor: Any, folder: Path) -> int:
    """Of what would be read for it: as long as it says, or to the end of the file."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    if said.get("length"):
        return int(said["length"])
    file = folder / said.get("location", "")
    return file.stat().st_size if file.is_file() else 0


def sources(model: Any, *, ignored: Set[str] = frozenset()) -> dict[str, frozenset[str]]:
    """For each tensor the inputs that it depends on, and `RANDOM` where a draw has a part in it.

    Args:
        ignored: Operators whose results count as constants.
    """
    functions = {(function.domain, function.name): function for function in model.functions}
    known = {name: frozenset({name}) for name in input_names(model)}
    for node in model.graph.node:
        reads = [] if node.op_type in ignored else _reads(node)
        found = frozenset[str]().union(*(known.get(name, frozenset()) for name in reads))
        if _draws(node, functions):
            found |= {RANDOM}
        known |= dict.fromkeys(filter(None, node.output), found)
    return known


def input_names(model: Any) -> list[str]:
    """Inputs that have to be fed: those that are no weights."""
    weights = {value.name for value in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in weights]


def passes_through(model: Any, output: str) -> str | None:
    """The input that an output is, but for its shape; None where anything is computed."""
    makers = {name: node for node in model.graph.node for name in node.output}
    while output in makers:
        node = makers[output]
        if node.op_type not in SHAPING:
            return None
        output = node.input[0]
    return output if output in input_names(model) else None


def prune(model: Any, outputs: Iterable[str]) -> None:
    """Remove the nodes and weights that no output of `outputs` depends on."""
    needed, kept = set(outputs), []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed.update(_reads(node))
            kept.append(node)
    nodes = [type(node).FromString(node.SerializeToString()) for node in reversed(kept)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for weights in (model.graph.initializer, model.graph.sparse_initializer):
        for index in reversed(range(len(weights))):
            if getattr(weights[index], "values", weights[index]).name not in needed:
                del weights[index]


def rename(model: Any, names: Mapping[str, str], *, reserved: Iterable[str] = ()) -> dict[str, str]:
    """Rename tensors everywhere; one that has a new name, or a reserved one, gives way. Gives what changed."""
    used = {name for graph in graphs(model.graph) for name in _names(graph)}
    taken = {*names.values(), *reserved}
    moved = dict(names)
    for new in (taken & used) - names.keys():
        moved[new] = fresh(f"{new}__inner", used | taken)
    for graph in graphs(model.graph):
        for node in graph.node:
            node.input[:] = [moved.get(name, name) for name in node.input]
            node.output[:] = [moved.get(name, name) for name in node.output]
        for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            value.name = moved.get(value.name, value.name)
        for weights in graph.sparse_initializer:
            weights.values.name = moved.get(weights.values.name, weights.values.name)
    return moved


def fresh(name: str, used: set[str]) -> str:
    """A name that is not used yet, after `name`."""
    while name in used:
        name += "_"
    return name


def _reads(node: Any) -> Iterator[str]:
    """Tensors that a node uses, itself or in graphs nested in it."""
    yield from node.input
    for inner in nested(node):
        yield from (value.name for value in inner.output)
        for each in inner.node:
            yield from _reads(each)


def _draws(node: Any, functions: Mapping[tuple[str, str], Any]) -> bool:
    """Whether a node, a graph nested in it, or the function that it calls has a random operator."""
    if node.op_type in _RANDOM_OPERATORS:
        return True
    function = functions.get((node.domain, node.op_type))
    inner = [*(function.node if function is not None else ()), *(each for g in nested(node) for each in g.node)]
    return any(_draws(each, functions) for each in inner)


def _names(graph: Any) -> Iterator[str]:
    for node in graph.node:
        yield from (*node.input, *node.output)
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
