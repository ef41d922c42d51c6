"""What a TorchScript program may write and draw, whatever branch an observation takes.

Asking a program shows only the branches that were taken. So its `forward`, with
every call inlined, is followed as far as conditions are unknown. A condition
is known where it is a constant, a flag of the module, or an argument's default;
`training` is False. What is written is traced to the attribute that holds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import torch

from policyctl_exporters.torchscript import Program, is_written, nodes_of, schema_of

_VALUES: Final = frozenset({"int", "float", "bool", "str", "NoneType", "Device", "Scalar", "number", "complex"})
"""Types that share no memory."""

_SHAPES: Final = frozenset({"aten::size", "aten::dim", "aten::len", "aten::numel", "aten::is_floating_point"})
_VARIABLE: Final = re.compile(r"\bt(Val)?\b")
_TRAINING: Final = frozenset({"train", "training"})
_RATES: Final = frozenset({"p", "dropout", "dropout_p"})


def written_attributes(program: Program, method: str = "forward") -> list[str]:
    """Attributes and buffers that a call of `method` may change."""
    return sorted({name for flow in _flows(program, method) for name in flow.written()})


def rare_draws(program: Program) -> list[str]:
    """Random operators that run for some observations only."""
    return sorted({node.kind() for flow in _flows(program) for node in flow.rare if flow.draws(node)})


def _flows(program: Program, method: str = "forward") -> list[_Flow]:
    """That of `method`, and those of methods that may stand behind an interface, which cannot be inlined."""
    module = program.module
    schema: Any = getattr(module, method).schema
    defaults = [a.default_value if a.has_default_value() else None for a in schema.arguments]
    flows = [_Flow(module._c._get_method(method).graph, module, defaults)]
    called: set[str] = set()
    for flow in flows:
        names = {f".{node.s('name')}" for node in flow.nodes if node.kind() == "prim::CallMethod"} - called
        called |= names
        methods = [graph for name, graph in program.functions.items() if name.endswith(tuple(names))]
        flows += [_Flow(graph, None, ()) for graph in methods] if names else []
    return flows


class _Flow:
    """One graph with all calls inlined.

    Args:
        graph: Of a method; its first input is the module.
        defaults: Of the inputs, None for one that has none.

    Attributes:
        nodes: What some observation may reach.
        rare: Those of them that other observations do not reach.
    """

    def __init__(self, graph: Any, module: Any, defaults: Iterable[Any]) -> None:
        graph = graph.copy()
        torch._C._jit_pass_inline(graph)
        self.nodes: list[Any] = []
        self.rare: list[Any] = []
        self._module = module
        inputs = list(graph.inputs())
        self._self = inputs[0].debugName()
        self._defaults = dict(zip((value.debugName() for value in inputs), defaults, strict=False))
        self._observed = {v.debugName() for v in inputs[1:] if self._defaults.get(v.debugName()) is None}
        self._assigned = {node.s("name") for node in nodes_of(graph) if node.kind() == "prim::SetAttr"}
        # Where the value of a block's parameter or result comes from; what is put into containers and local objects.
        self._passed: dict[str, list[Any]] = {}
        self._inserted: list[Any] = []
        self._walk(graph, rare=False)

    def written(self) -> set[str]:
        """Names of attributes that a node writes to."""
        names: set[str] = set()
        for node in self.nodes:
            inputs = list(node.inputs())
            if node.kind() == "prim::SetAttr":
                names |= {f"{owner}.{node.s('name')}".lstrip(".") for owner in self._origins(inputs[0])}
                continue
            for value in _written_inputs(node):
                names |= self._origins(value) - {""}
        return names

    def draws(self, node: Any) -> bool:
        """Whether a node draws random numbers in evaluation mode."""
        schema = schema_of(node)
        if schema is None or not _is_seeded(schema):
            return False
        given = {a.name: self._known(value) for a, value in zip(schema.arguments, node.inputs(), strict=False)}
        off = any(given.get(name) is False for name in _TRAINING) or any(given.get(name) == 0 for name in _RATES)
        return not off

    def _walk(self, block: Any, *, rare: bool) -> None:
        for node in block.nodes():
            self.nodes.append(node)
            if rare:
                self.rare.append(node)
            inputs, blocks = list(node.inputs()), list(node.blocks())
            if node.kind() == "prim::SetAttr":
                self._inserted.append(inputs[1])
            elif _is_generic(schema_of(node)):
                self._inserted += inputs[1:] if _written_inputs(node) else []
            if node.kind() == "prim::If":
                taken = self._known(inputs[0])
                blocks = blocks if taken is None else [blocks[not taken]]
                for index, value in enumerate(node.outputs()):
                    self._passed[value.debugName()] = [list(inner.outputs())[index] for inner in blocks]
            elif node.kind() == "prim::Loop":
                carried, results = inputs[2:], list(blocks[0].outputs())[1:]
                parameters = list(blocks[0].inputs())[1:]
                for name, *sources in zip(parameters, carried, results, strict=True):
                    self._passed[name.debugName()] = sources
                for name, *sources in zip(node.outputs(), carried, results, strict=True):
                    self._passed[name.debugName()] = sources
                inputs = [*inputs[:2], next(iter(blocks[0].outputs()))]
            unsure = rare or (bool(blocks) and any(self._is_observed(value) for value in inputs))
            for inner in blocks:
                self._walk(inner, rare=unsure)

    def _known(self, value: Any) -> Any:
        """What a value is for every observation; None where it is unknown."""
        node, name = value.node(), value.debugName()
        if name in self._defaults:
            return self._defaults[name]
        if name in self._passed:
            sources = self._passed[name]
            return self._known(sources[0]) if len(sources) == 1 else None
        match node.kind():
            case "prim::Constant":
                return value.toIValue()
            case "aten::__not__":
                inner = self._known(next(iter(node.inputs())))
                return None if inner is None else not inner
            case "prim::GetAttr":
                return self._flag(value)
        return None

    def _flag(self, value: Any) -> bool | None:
        """The value of a module's flag that nothing assigns."""
        node = value.node()
        name, owners = node.s("name"), self._origins(next(iter(node.inputs())))
        if str(value.type()) != "bool" or name in self._assigned or not owners:
            return None
        if name == "training":
            return False
        found = self._module
        for part in filter(None, f"{next(iter(owners))}.{name}".split(".")):
            found = getattr(found, part, None)
        return found if isinstance(found, bool) and len(owners) == 1 else None

    def _origins(self, value: Any) -> set[str]:
        """Dotted names of the attributes that a value is, or may share memory with; "" is the module."""
        found: set[str] = set()
        visited: set[str] = set()
        pending = [value]
        while pending:
            value = pending.pop()
            name, node = value.debugName(), value.node()
            if name in visited or str(value.type()) in _VALUES:
                continue
            visited.add(name)
            if name == self._self:
                found.add("")
            elif name in self._passed:
                pending += self._passed[name]
            elif node.kind() == "prim::GetAttr":
                owners = self._origins(next(iter(node.inputs())))
                found |= {f"{owner}.{node.s('name')}".lstrip(".") for owner in owners}
                pending += [] if owners else self._inserted
            else:
                pending += self._shared(node, value)
        return found

    def _shared(self, node: Any, value: Any) -> list[Any]:
        """Inputs of a node that its result may share memory with."""
        schema, inputs = schema_of(node), list(node.inputs())
        if node.kind() == "prim::CreateObject":
            return []
        if node.kind() == "prim::TupleUnpack" and inputs[0].node().kind() == "prim::TupleConstruct":
            return [list(inputs[0].node().inputs())[value.offset()]]
        if schema is None or node.kind().startswith("prim::") or _is_generic(schema):
            return inputs + self._inserted
        information = schema.returns[min(value.offset(), len(schema.returns) - 1)].alias_info
        if information is None:
            return []
        # Of the tensors in a list it has no names.
        names = set(information.after_set) or {"*"}
        pairs = [(given, a.alias_info) for given, a in zip(inputs, schema.arguments, strict=False) if a.alias_info]
        return [given for given, own in pairs if "*" in names or names & set(own.before_set)]

    def _is_observed(self, value: Any) -> bool:
        """Whether a value depends on the values of an observation."""
        visited: set[str] = set()
        pending = [value]
        while pending:
            value = pending.pop()
            name, node = value.debugName(), value.node()
            if name in self._observed:
                return True
            if name in visited or node.kind() in _SHAPES:
                continue
            visited.add(name)
            pending += [*self._passed.get(name, ()), *node.inputs()]
        return False


def _written_inputs(node: Any) -> list[Any]:
    schema = schema_of(node)
    pairs = zip(node.inputs(), schema.arguments if schema is not None else (), strict=False)
    return [value for value, argument in pairs if is_written(argument)]


def _is_generic(schema: Any) -> bool:
    """Whether an operator takes or gives elements of a list or a dict, whatever they are."""
    return schema is not None and _VARIABLE.search(str(schema).partition("(")[2]) is not None


def _is_seeded(schema: Any) -> bool:
    namespace, _, name = schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name, None)
    operator = getattr(packet, schema.overload_name or "default", None)
    return operator is not None and torch.Tag.nondeterministic_seeded in operator.tags
