"""What depends on what in an ONNX graph, and how its tensors are renamed. Nothing is run here.

Nested graphs (branches of `If`, bodies of `Loop`) use tensors of the graphs
around them, and functions of the model hold more operators: both count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from policyctl_exporters.onnx_file import graphs, nested

RANDOM: Final = "(a random number)"
"""Stands among the sources of a tensor for a draw inside the graph; no tensor can be called so by accident."""

_RANDOM_OPERATORS: Final = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_SHAPING_OPERATORS: Final = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


def sources(model: Any) -> dict[str, frozenset[str]]:
    """For each tensor the inputs that it depends on, and `RANDOM` where a draw has a part in it.

    Args:
        model: An `onnx.ModelProto`.
    """
    functions = {(function.domain, function.name): function for function in model.functions}
    known = {name: frozenset({name}) for name in input_names(model)}
    for node in model.graph.node:
        found = frozenset[str]().union(*(known.get(name, frozenset()) for name in _reads(node)))
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
        if node.op_type not in _SHAPING_OPERATORS:
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
    """Rename tensors everywhere, all at once; a tensor that has a new name, or a reserved one, gives way.

    Returns:
        Every name that changed, and what it is now.
    """
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
