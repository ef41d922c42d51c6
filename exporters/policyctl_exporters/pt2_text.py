"""A program of `torch.export` as TorchScript: its graph written as text, and compiled over its weights.

The exporters here record what Python calls, and a graph of `torch.export` holds
sizes that Python would turn into numbers. TorchScript keeps them, its allow-list of
operators is here already, and so is the way from what it remembers to states:
a buffer that the program writes becomes an attribute that TorchScript writes.
"""

from __future__ import annotations

import copy
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as trees

from policyctl.errors import UnsupportedError, first_line
from policyctl_exporters.onnx_file import Port

_INFIX: Final[Mapping[Any, str]] = {
    operator.add: "({} + {})",
    operator.sub: "({} - {})",
    operator.mul: "({} * {})",
    operator.floordiv: "({} // {})",
    operator.mod: "({} % {})",
    operator.neg: "(-{})",
    operator.pos: "{}",
    operator.getitem: "{}[{}]",
    torch.sym_max: "max({}, {})",
    torch.sym_min: "min({}, {})",
    torch.sym_int: "int({})",
    torch.sym_float: "float({})",
}
_LISTS: Final = {
    "List[Optional[Tensor]]": "List[Optional[Tensor]]",
    "Optional[List[int]]": "List[int]",
    "List[int]": "List[int]",
    "List[Tensor]": "List[Tensor]",
}
_SAME: Final = frozenset({"alias", "detach", "detach_", "lift_fresh"})
"""Operators that give what they are given: nothing here computes a gradient."""

_COMPOSED: Final = frozenset(
    {"gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell", "scaled_dot_product_attention"}
)
"""Operators that ONNX's exporter does not know, or knows of known shapes alone, and that torch takes apart."""

_RENAMED: Final = {
    "_softmax": "torch.softmax({0}, {1})",
    "_log_softmax": "torch.log_softmax({0}, {1})",
    "copy": "{1}.type_as({0}).expand_as({0})",
}
_FIRST_OF: Final = {
    "_native_batch_norm_legit_no_training": "torch.batch_norm({0}, {1}, {2}, {3}, {4}, False, {5}, {6}, False)",
    "native_layer_norm": "torch.layer_norm({0}, {1}, {2}, {3}, {4})",
}
"""What ONNX's exporter knows under another name: programs that their author took apart. The second give a tuple."""

_ASSERTS: Final = re.compile(r"_assert_\w+|sym_constrain_\w+|_functional_\w*assert\w*")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_]\w*")


class ExportedProgram(nn.Module):
    """What the weights of a program hang on."""


@cache
def _take_name() -> None:
    """Let TorchScript number every class of this name, the first of a process as well: see `writers.number_classes`."""
    torch.jit.script(ExportedProgram())


def fresh_root() -> nn.Module:
    """A module of a class that no other program has, because TorchScript defines a method of a class once."""
    _take_name()
    kind = type(
        ExportedProgram.__name__, (nn.Module,), {"__module__": __name__, "__qualname__": ExportedProgram.__qualname__}
    )
    root: nn.Module = kind()
    return root


class ProgramText:
    """A program of `torch.export`, read.

    Attributes:
        inputs: Tensors that it takes, in order, by the names of its arguments or of the entries in them.
        outputs: Tensors that it gives: by their keys where it gives a dict, else ``output_0`` and so on.
        bare: Whether it gives one tensor, which has no name.
        initial: Empty: what a program takes as memory begins with zeros.
        written: Buffers that the graph gives again, dotted, by the node that each gets.
    """

    def __init__(self, program: Any, *, name: str) -> None:
        """Raises: UnsupportedError: An argument or a result is not a tensor."""
        self.name, self.initial = name, dict[str, Any]()
        self._original, self._name = program, name
        program = self.program = _decomposed(program)
        signature = program.graph_signature
        self._nodes = {node.name: node for node in program.graph.nodes}
        self._given = [each for each in signature.input_specs if each.kind is InputKind.USER_INPUT]
        self._kept = {
            each.arg.name: each.target for each in signature.input_specs if each.kind is not InputKind.USER_INPUT
        }
        results = [each for each in signature.output_specs if each.kind is OutputKind.USER_OUTPUT]
        kinds = {each.kind for each in signature.output_specs} - {OutputKind.USER_OUTPUT, OutputKind.BUFFER_MUTATION}
        if kinds:
            raise UnsupportedError(
                f"{name} gives {', '.join(sorted(kind.name for kind in kinds))}, which does not answer an observation",
                remedy="Export a policy that answers, and changes nothing but its buffers.",
            )
        tensors = [each for each in self._given if not isinstance(each.arg, ConstantArgument)]
        for each in (*tensors, *results):
            if not isinstance(each.arg, TensorArgument):
                raise UnsupportedError(
                    f"{name}: {getattr(each.arg, 'name', each.arg)} is not a tensor",
                    remedy="Export a policy that takes and gives tensors alone.",
                )
        self.written = {
            each.arg.name: each.target for each in signature.output_specs if each.kind is OutputKind.BUFFER_MUTATION
        }
        call = program.module_call_graph[0].signature
        self.inputs = tuple(map(self._port, _argument_names(tensors, self._given, call.in_spec), _names(tensors)))
        keys = _result_names(call.out_spec, len(results))
        self.bare = keys is None
        self.outputs = tuple(map(self._port, keys or ["output"], _names(results)))
        self._results = _names(results)

    def _port(self, name: str, node: str) -> Port:
        value = self._nodes[node].meta["val"]
        dims = tuple(int(size) if isinstance(size, int) else None for size in value.shape)
        return Port(name, str(value.dtype).removeprefix("torch."), dims)

    def reach(self) -> dict[str, frozenset[str]]:
        """The inputs that each output depends on."""
        known = {node: frozenset({port.name}) for node, port in zip(self._inputs(), self.inputs, strict=True)}
        for node in self.program.graph.nodes:
            found = known.get(node, frozenset()).union(*(known.get(each, frozenset()) for each in node.all_input_nodes))
            known[node] = found
            if _short(node.target).endswith("_") and node.all_input_nodes:
                # It writes to its first input.
                known[node.all_input_nodes[0]] = found
        results = (known[self._nodes[name]] for name in self._results)
        return dict(zip((port.name for port in self.outputs), results, strict=True))

    @property
    def least_rows(self) -> int:
        """The least batch that it takes, where its batch is open."""
        least = [1]
        for port in self._inputs():
            size = port.meta["val"].shape[:1]
            if size and not isinstance(size[0], int):
                limits = self.program.range_constraints.get(size[0].node.expr)
                least.append(1 if limits is None else max(1, int(limits.lower)))
        return max(least)

    def unmodified(self) -> nn.Module:
        """The program as torch runs it, with buffers that nobody else has."""
        with warnings.catch_warnings():
            # A copy of a tree of arguments warns of torch's own code.
            warnings.simplefilter("ignore", FutureWarning)
            module: nn.Module = copy.deepcopy(self._original.module(check_guards=False))
        return module

    def ask(self, module: nn.Module, named: Mapping[str, Tensor]) -> Any:
        """What `unmodified` gives for its inputs by name: one tensor, or tensors by name."""
        tensors = iter([named[port.name] for port in self.inputs])
        leaves = [e.arg.value if isinstance(e.arg, ConstantArgument) else next(tensors) for e in self._given]
        args, kwargs = trees.tree_unflatten(leaves, self.program.module_call_graph[0].signature.in_spec)
        results = trees.tree_leaves(module(*args, **kwargs))
        return results[0] if self.bare else {p.name: each for p, each in zip(self.outputs, results, strict=True)}

    def compiled(self, *, unbatched: bool) -> torch.jit.ScriptModule:
        """The program as TorchScript, on the CPU, with its weights.

        Args:
            unbatched: It takes and gives one row without a batch; the text takes and gives a batch of 1.

        Raises:
            UnsupportedError: An operator that TorchScript does not have.
        """
        root = fresh_root()
        parameters = {*self.program.graph_signature.parameters}
        for target, value in {**self.program.state_dict, **self.program.constants}.items():
            if isinstance(value, Tensor):
                own = value.detach().cpu().clone()
                _attach(root, target, nn.Parameter(own, requires_grad=False) if target in parameters else own)
        writer = _Writer(self._name)
        arguments = [f"{port.name}: Tensor" for port in self.inputs]
        for node, port in zip(self._inputs(), self.inputs, strict=True):
            writer.names[node] = port.name
            if unbatched:
                writer.line(f"{port.name} = {port.name}.reshape({[*port.dims]})")
        for node in self.program.graph.nodes:
            if node.op == "placeholder" and node.name in self._kept:
                writer.names[node] = _path(self._kept[node.name])
        for each in self._given:
            if isinstance(each.arg, ConstantArgument):
                writer.names[self._nodes[each.arg.name]] = writer.literal(each.arg.value)
        writer.write(self.program.graph_module)
        for node, target in self.written.items():
            writer.line(f"{_path(target)}.copy_({writer.names[self._nodes[node]]})")
        results = [writer.names[self._nodes[node]] + (".unsqueeze(0)" if unbatched else "") for node in self._results]
        pairs = ", ".join(f"{port.name!r}: {value}" for port, value in zip(self.outputs, results, strict=True))
        writer.line(f"return {results[0]}" if self.bare else f"return {{{pairs}}}")
        text = f"def forward(self, {', '.join(arguments)}):\n" + "".join(f"    {line}\n" for line in writer.lines)
        try:
            script: Any = torch.jit.script(root.eval())
            script.define(text)
        except RuntimeError as error:
            raise UnsupportedError(
                f"{self._name} has a step that TorchScript cannot hold: {first_line(error)}",
                remedy="Save the policy by torch.jit.save(torch.jit.script(policy), FILE), and export that file.",
            ) from error
        module: torch.jit.ScriptModule = script
        return module

    def _inputs(self) -> list[Any]:
        return [self._nodes[each.arg.name] for each in self._given if isinstance(each.arg, TensorArgument)]


def _decomposed(program: Any) -> Any:
    """The program with simpler operators, where it has one that ONNX cannot hold."""
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    if not any(_short(node.target) in _COMPOSED for graph in graphs for node in graph.nodes):
        return program
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return program.run_decompositions()


class _Writer:
    """Writes the nodes of a graph as lines."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.lines: list[str] = []
        self.names: dict[Any, str] = {}
        self._count = 0

    def line(self, text: str) -> None:
        """One more."""
        self.lines.append(text)

    def write(self, graph_module: Any) -> list[str]:
        """All nodes whose inputs have names; returns the names of what the graph gives."""
        found: list[str] = []
        for node in graph_module.graph.nodes:
            if node.op == "output":
                found = [self.literal(each) for each in trees.tree_leaves(node.args[0])]
            elif node.op == "call_function":
                self._call(node, graph_module)
        return found

    def _call(self, node: Any, graph_module: Any) -> None:
        target = node.target
        # A file lists every result of an operator, also those that nothing uses.
        if target is operator.getitem and not node.users:
            return
        if target is torch._C._set_grad_enabled or _ASSERTS.match(_short(target)):
            return
        if target is torch.ops.higher_order.wrap_with_set_grad_enabled:
            self._inline(node, graph_module)
        elif target is operator.getitem and isinstance(self.names.get(node.args[0]), list):
            given: Any = self.names[node.args[0]]
            if node.args[1] >= len(given):
                raise self._unknown(f"a further result of {_short(node.args[0].target)}")
            self.names[node] = given[node.args[1]]
        else:
            self._count += 1
            self.line(f"v{self._count} = {self._expression(node)}")
            alone: Any = [f"v{self._count}"]
            self.names[node] = alone if _short(target) in _FIRST_OF else alone[0]

    def _inline(self, node: Any, graph_module: Any) -> None:
        """A part of the graph without gradients, as all of it is here."""
        _, part, *arguments = node.args
        inner = graph_module.get_submodule(part.target)
        places = [each for each in inner.graph.nodes if each.op == "placeholder"]
        for place, given in zip(places, arguments, strict=True):
            self.names[place] = self.literal(given)
        results: Any = self.write(inner)
        self.names[node] = results

    def _expression(self, node: Any) -> str:
        target = node.target
        if target in _INFIX:
            return _INFIX[target].format(*map(self.literal, node.args))
        if not isinstance(target, torch._ops.OpOverload):
            raise self._unknown(_short(target))
        short, first = _short(target), [self.literal(each) for each in node.args]
        if form := _RENAMED.get(short) or _FIRST_OF.get(short):
            return form.format(*first)
        if short in _SAME:
            return first[0]
        if short == "lift_fresh_copy":
            return f"{first[0]}.clone()"
        if short == "sym_size":
            return f"{first[0]}.size({first[1]})"
        types = {argument.name: str(argument.type) for argument in target._schema.arguments}
        given = [self._typed(value, kind) for value, kind in zip(node.args, types.values(), strict=False)]
        given += [f"{key}={self._typed(value, types.get(key, ''))}" for key, value in node.kwargs.items()]
        return f"torch.ops.aten.{short}({', '.join(given)})"

    def _typed(self, value: Any, kind: str) -> str:
        text = self.literal(value)
        # TorchScript takes an empty list for one of tensors, and a list with None for one of nothing.
        if isinstance(value, list | tuple) and kind in _LISTS and (not value or None in value):
            return f"torch.jit.annotate({_LISTS[kind]}, {text})"
        return text

    def literal(self, value: Any) -> str:
        """A value as TorchScript writes it; a node by its name."""
        match value:
            case torch.fx.Node() if value in self.names:
                return self.names[value]
            case bool() | int() | None:
                return repr(value)
            case float():
                return repr(value) if math.isfinite(value) else f'float("{value}")'
            case str():
                return repr(value)
            case list() | tuple():
                return f"[{', '.join(map(self.literal, value))}]"
            case torch.device():
                return 'torch.device("cpu")'
            case torch.dtype() | torch.layout() | torch.memory_format():
                return str(value)
        raise self._unknown(f"{type(value).__name__} as an argument")

    def _unknown(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self._name} uses {what}, which no format here can hold",
            remedy="Write the policy with torch's own operators (aten) on tensors.",
        )


def _short(target: Any) -> str:
    name: Callable[[], str] | str = getattr(target, "name", getattr(target, "__name__", str(target)))
    text = name() if callable(name) else name
    return str(text).partition("::")[2].partition(".")[0] or str(text)


def _names(specs: Sequence[Any]) -> list[str]:
    return [each.arg.name for each in specs]


def _argument_names(tensors: Sequence[Any], given: Sequence[Any], spec: Any) -> list[str]:
    """What each tensor is called: by its argument, or by its key where it stands in a dict."""
    args, kwargs = trees.tree_unflatten(list(range(len(given))), spec)
    keys: dict[int, str] = {}

    def walk(value: Any, key: str, depth: int) -> None:
        if isinstance(value, Mapping):
            for inner, each in value.items():
                walk(each, str(inner), depth + 1)
        elif isinstance(value, list | tuple):
            for each in value:
                walk(each, "", depth + 1)
        elif depth and key:
            keys[value] = key

    for each in args:
        walk(each, "", 0)
    walk(kwargs, "", 0)
    numbers = [number for number, each in enumerate(given) if each in tensors]
    names = [keys.get(number, given[number].arg.name) for number in numbers]
    if len({*names}) == len(names) and all(_is_argument(name) for name in names):
        return names
    return [name if _is_argument(name) else f"arg_{n}" for n, name in enumerate(_names(tensors))]


def _is_argument(name: str) -> bool:
    """Whether the text can name an argument so; names that the text itself uses are taken."""
    return _IDENTIFIER.fullmatch(name) is not None and name not in ("self", "torch") and not re.match(r"v\d+$", name)


def _result_names(spec: Any, count: int) -> list[str] | None:
    """What each result is called; None where there is one, without a name."""
    found = trees.tree_unflatten([str(number) for number in range(count)], spec)
    if isinstance(found, Mapping) and len(found) == count and all(isinstance(v, str) for v in found.values()):
        return [str(key) for key in found]
    return None if count == 1 else [f"output_{number}" for number in range(count)]


def _attach(root: nn.Module, target: str, value: Tensor) -> None:
    """Hang a tensor on a module under its dotted name."""
    *owners, last = target.split(".")
    for owner in owners:
        if owner not in root._modules:
            root.add_module(owner, ExportedProgram())
        inner = root._modules[owner]
        if inner is None:
            raise UnsupportedError(f"the weight {target} stands in nothing")
        root = inner
    if isinstance(value, nn.Parameter):
        root.register_parameter(last, value)
    else:
        root.register_buffer(last, value)


def _path(target: str) -> str:
    """An attribute as TorchScript reads it; the name of a part may be a number."""
    text = "self"
    for part in target.split("."):
        text = f"{text}.{part}" if _IDENTIFIER.fullmatch(part) else f"getattr({text}, {part!r})"
    return text
