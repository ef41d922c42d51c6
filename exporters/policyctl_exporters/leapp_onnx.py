"""The ONNX nodes of a LEAPP bundle as one ONNX graph, whose reference is the nodes themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from policyctl.errors import UnsupportedError, UsageError, first_line
from policyctl_exporters.leapp_bundle import Bundle, Node, Place
from policyctl_exporters.onnx_file import OnnxFile, opened, read_onnx
from policyctl_exporters.onnx_source import open_onnx_file
from policyctl_exporters.source import Options, Source


def open_chain(bundle: Bundle, options: Options) -> Source:
    """The nodes as a policy.

    Raises:
        UsageError: A model that is not valid, or does not give what the description says.
        UnsupportedError: Models that cannot be one.
    """
    files = {node.name: read_onnx(node.path) for node in bundle.nodes}
    for node in bundle.nodes:
        file = files[node.name]
        own = [(len(file.inputs), len(node.inputs), "takes"), (len(file.outputs), len(node.outputs), "gives")]
        for has, says, verb in own:
            if has != says:
                raise UsageError(
                    f"{bundle.name}: the model of {node.name} {verb} {has} tensors, and it says {says}",
                    remedy="Write the bundle again by leapp.compile_graph().",
                )
    content = _joined(bundle, files).SerializeToString()
    import onnx

    file = opened(onnx.load_from_string(content), content, name=bundle.name, digest=bundle.digest)
    states = bundle.states
    file = replace(
        file,
        session=_Nodes(bundle, files),
        initial={name: bundle.initial[place] for name, place in states.items() if place in bundle.initial},
    )
    return open_onnx_file(file, replace(options, states=bundle.continued))


def _joined(bundle: Bundle, files: Mapping[str, OnnxFile]) -> Any:
    """One model: the tensors of each node have its name before theirs, and what is given and answered has its own."""
    import onnx

    try:
        graph, functions = onnx.GraphProto(name=bundle.name), []
        opsets: dict[str, int] = {}
        for node in bundle.nodes:
            part = onnx.compose.add_prefix(files[node.name].model, prefix=f"{node.name}/")
            functions += part.functions
            for each in part.opset_import:
                if opsets.setdefault(each.domain, each.version) != each.version:
                    raise ValueError(f"its models have the versions {opsets[each.domain]} and {each.version} of ONNX")
            _connect(graph, node, files[node.name], bundle)
            for name in ("node", "initializer", "sparse_initializer"):
                getattr(graph, name).extend(getattr(part.graph, name))
    # What ONNX says of models that it cannot join.
    except (ValueError, TypeError, onnx.checker.ValidationError) as error:
        raise UnsupportedError(
            f"{bundle.name} has nodes that cannot be one model: {first_line(error)}",
            remedy="Export all nodes again with one opset_version.",
        ) from error
    for name, place in (*bundle.inputs.items(), *bundle.states.items()):
        graph.input.append(_value(name, bundle, place))
    for name, place in bundle.answers.items():
        graph.node.append(onnx.helper.make_node("Identity", ["/".join(place)], [name]))
        graph.output.append(_value(name, bundle, place, output=True))
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    version = max(file.model.ir_version for file in files.values())
    return onnx.helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=version)


def _connect(graph: Any, node: Node, file: OnnxFile, bundle: Bundle) -> None:
    """Give a node's inputs what flows to them; their names in the graph are the node's and theirs."""
    import onnx

    given = {place: name for name, place in (*bundle.inputs.items(), *bundle.states.items())}
    for port, own in zip(node.inputs, file.inputs, strict=True):
        place = (node.name, port.name)
        source = "/".join(bundle.wires[place]) if place in bundle.wires else given[place]
        graph.node.append(onnx.helper.make_node("Identity", [source], [f"{node.name}/{own.name}"]))


def _value(name: str, bundle: Bundle, place: Place, *, output: bool = False) -> Any:
    import numpy as np
    import onnx

    port = bundle.port(place, output=output)
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
    return onnx.helper.make_tensor_value_info(name, element, port.dims)


class _Nodes:
    """The nodes, each in its own session, as one session: it answers what LEAPP's own runtime answers."""

    def __init__(self, bundle: Bundle, files: Mapping[str, OnnxFile]) -> None:
        self._bundle, self._files = bundle, files

    def run(self, names: Sequence[str], feed: Mapping[str, NDArray[Any]], options: Any) -> list[Any]:
        """Outputs by name for inputs by name, as a session of ONNX Runtime takes them."""
        given = {place: feed[name] for name, place in (*self._bundle.inputs.items(), *self._bundle.states.items())}
        results: dict[Place, Any] = {}
        for node in self._bundle.nodes:
            file, places = self._files[node.name], [(node.name, port.name) for port in node.inputs]
            values = [results[self._bundle.wires[p]] if p in self._bundle.wires else given[p] for p in places]
            own = dict(zip((port.name for port in file.inputs), values, strict=True))
            found = file.session.run([port.name for port in file.outputs], own, options)
            results |= {(node.name, port.name): each for port, each in zip(node.outputs, found, strict=True)}
        return [results[self._bundle.answers[name]] for name in names]
