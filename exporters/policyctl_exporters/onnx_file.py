"""An ONNX file as it came: read within bounds, and run unchanged by ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from policyctl.domain.manifest import digest_of
from policyctl.domain.tensor import DTYPES
from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters.plain_files import open_plain
from policyctl_exporters.reasons import first_line

MOST_BYTES: Final = 2**31 - 1
"""What protobuf can hold: graph and weights together, which stand in one file after an export."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as the file declares it.

    Attributes:
        name: In the graph.
        dtype: A NumPy dtype name, or ONNX Runtime's word for what no contract holds.
        dims: None where a dimension is not fixed.
    """

    name: str
    dtype: str
    dims: tuple[int | None, ...]

    @property
    def is_tensor(self) -> bool:
        """Whether a contract can hold it."""
        return self.dtype in DTYPES


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What a file holds, and the file itself, ready to run.

    Attributes:
        name: Of the file, without its folder.
        digest: Of the file; not of weights that lie next to it.
        model: The `onnx.ModelProto`, with all weights inside.
        inputs: What it takes, in its order.
        outputs: What it gives, in its order.
        session: ONNX Runtime with the unmodified file.
    """

    name: str
    digest: str
    model: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    session: Any

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """All outputs for one feed, by name.

        Raises:
            UsageError: The file itself fails on it.
        """
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

    Args:
        path: The file. Weights in other files are read from its own folder alone.

    Raises:
        UsageError: Not a valid model, too large, or weights that are missing or lie elsewhere.
        UnsupportedError: ONNX Runtime cannot load it, as for an operator that it does not have.
    """
    import onnx

    from policyctl.sessions.onnxruntime import dtype_of, open_graph

    with open_plain(path, most_bytes=MOST_BYTES) as reader:
        content = reader.read(MOST_BYTES)
    try:
        model = onnx.load_from_string(content)
    # protobuf raises what it likes on damaged files.
    except Exception as error:
        raise UsageError(f"{path.name} is not a valid ONNX model: {first_line(error)}") from error
    outside = _load_weights(model, path)
    try:
        session = open_graph(str(path) if outside else content)
    # The exceptions of ONNX Runtime share no class.
    except Exception as error:
        raise UnsupportedError(
            f"ONNX Runtime cannot load {path.name}: {plain_words(error)}",
            remedy="Policies are served with the operators of ONNX alone: export the policy again without others.",
        ) from error

    def port(node: Any) -> Port:
        return Port(node.name, dtype_of(node), tuple(d if isinstance(d, int) and d > 0 else None for d in node.shape))

    inputs, outputs = (tuple(map(port, nodes)) for nodes in (session.get_inputs(), session.get_outputs()))
    return OnnxFile(path.name, digest_of(content), model, inputs, outputs, session)


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


def plain_words(error: Exception) -> str:
    """What ONNX Runtime says, without its codes."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Fatal error: )?", "", first_line(error))


def _load_weights(model: Any, path: Path) -> bool:
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
