"""Load a TorchScript program only if all that it can do is compute.

A program may read and write files, print, and change its own attributes, and
it does so wherever it is loaded: here, and in the server. So every function
that comes with it is looked through, called or not, before any of them runs.
An operator counts as computing by its schema: it gives a result or writes to
an argument, and it takes no name of a file. What prints or warns is taken out.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import torch

from policyctl.errors import UsageError, first_line
from policyctl_exporters.inlining import require_bounded

_NAMESPACES: Final = frozenset({"aten", "prim", "quantized"})
_STRUCTURE: Final = frozenset(
    f"prim::{name}"
    for name in (
        *("Constant", "Uninitialized", "GetAttr", "SetAttr", "CreateObject", "CallMethod", "CallFunction"),
        *("If", "Loop", "Enter", "Exit", "RaiseException", "isinstance", "tolist"),
        *("ListConstruct", "ListUnpack", "DictConstruct", "TupleConstruct", "TupleUnpack", "TupleSlice"),
    )
)
"""Nodes that have no schema, or one that says nothing: control flow, attributes and containers."""

_CONTAINED: Final = frozenset({"aten::set_grad_enabled"})
"""Operators that give nothing and are harmless: `torch.no_grad()` ends where it began."""

_CODE_BYTES: Final = 64 << 20
_SPOKEN: Final = frozenset({"prim::Print", "aten::warn"})
_OBJECTS: Final = ".torch.classes."
_PLAIN_OBJECTS: Final = (".torch.classes.quantized.", ".torch.classes.rnn.")


@dataclass(slots=True)
class Program:
    """A TorchScript module and every function that came with it.

    Attributes:
        functions: Graphs of all functions and methods, by qualified name.
        notes: What was taken out, for the person who exports.
    """

    module: torch.jit.ScriptModule
    functions: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())


def load_program(content: bytes, *, name: str, trusted: bool = False) -> Program:
    """Load a program, and make sure that it computes and does nothing else.

    Raises:
        UsageError: Not TorchScript, or a program that does more than compute.
    """
    _require_program(content, name, trusted=trusted)
    try:
        program = _read(content)
        require_bounded({key: _called(graph) for key, graph in program.functions.items()}, name=name)
        effects = [] if trusted else _effects(program.functions)
    # A program nested too deep for Python's stack is one of them.
    except RuntimeError as error:
        raise UsageError(
            f"{name} is not TorchScript that this version of torch reads: {first_line(error)}",
            remedy="Save it again with torch.jit.save.",
        ) from error
    if effects:
        raise UsageError(
            f"{name} does more than compute: {'; '.join(effects[:5])}",
            remedy="Take that out of the policy. If you trust its author with the server's files, and know why it"
            " does so: --trust-operators, trust_operators=True.",
        )
    return program


def holds_program(content: bytes) -> bool:
    """Whether a file has the code of a program; a damaged one has none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError):
        return False


def _read(content: bytes) -> Program:
    unit = torch._C.CompilationUnit()
    read: Any = torch._C.import_ir_module_from_buffer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded = read(unit, content, torch.device("cpu"), {}, False)
        functions = _functions(unit)
        module = torch.jit._recursive.wrap_cpp_module(loaded)  # type: ignore[no-untyped-call]
    return Program(module, functions, (*_silence(functions), *_move(functions)))


def _require_program(content: bytes, name: str, *, trusted: bool) -> None:
    remedy = "Save the policy itself: torch.jit.save(torch.jit.script(module), FILE). Or give FILE.py:callable"
    remedy += " that builds the module and loads its state dict (policyctl docs frameworks)."
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            code = [e for e in archive.infolist() if "/code/" in e.filename and e.filename.endswith(".py")]
            if sum(entry.file_size for entry in code) > _CODE_BYTES:
                raise UsageError(
                    f"{name} holds more than {_CODE_BYTES >> 20} MiB of code", remedy="Look where it is from."
                )
            at_load = [entry.filename for entry in code if b"__setstate__" in archive.read(entry)]
            saved = any(filename.endswith("/data.pkl") for filename in archive.namelist())
    except zipfile.BadZipFile as error:
        # Before version 1.6, torch.save wrote a bare pickle.
        what = "was written by torch.save" if content[:1] == b"\x80" else "is damaged, or no file of torch"
        raise UsageError(f"{name} {what}: it holds no TorchScript program", remedy=remedy) from error
    if not code:
        what = (
            "was written by torch.save, not by torch.jit.save: it holds weights" if saved else "is not a file of torch"
        )
        raise UsageError(f"{name} {what} and no program", remedy=remedy)
    if at_load and not trusted:
        # It would run before anything could look at it.
        raise UsageError(
            f"{name} runs code while it is loaded: {at_load[0]} defines __setstate__",
            remedy="If you trust its author: --trust-operators, trust_operators=True.",
        )


def _functions(unit: Any) -> dict[str, Any]:
    """Every function of a compilation unit; looking at one compiles what it calls, so until nothing is new."""
    functions: dict[str, Any] = {}
    while fresh := [f for f in unit.get_functions() if f.qualified_name not in functions]:
        functions.update({function.qualified_name: function.graph for function in fresh})
    return functions


def _silence(functions: Mapping[str, Any]) -> tuple[str, ...]:
    """Take out what prints and warns; say where."""
    places = []
    for name, graph in functions.items():
        spoken = [node for node in nodes_of(graph) if node.kind() in _SPOKEN]
        for node in spoken:
            node.destroy()
        if spoken:
            torch._C._jit_pass_dce(graph)
            places.append(name.removeprefix("__torch__."))
    # Torch's own functions warn of what only their author could change.
    places = [place for place in places if not place.startswith("torch.")]
    return (f"what {', '.join(places)} prints and warns is left out",) if places else ()


def _move(functions: Mapping[str, Any]) -> tuple[str, ...]:
    """Let tensors that a program makes on another device be made on the CPU, as `map_location` does with weights."""
    devices: set[str] = set()
    for graph in functions.values():
        for node in nodes_of(graph):
            if node.kind() != "prim::Constant" or str(node.output().type()) != "Device":
                continue
            if (device := node.s("value")) != "cpu":
                node.s_("value", "cpu")
                devices.add(device)
    return (f"tensors that it makes on {', '.join(sorted(devices))} are made on the CPU",) if devices else ()


def _effects(functions: Mapping[str, Any]) -> list[str]:
    return [
        f"{node.kind()} in {name.removeprefix('__torch__.')}"
        for name, graph in functions.items()
        for node in nodes_of(graph)
        if not _computes(node)
    ]


def _computes(node: Any) -> bool:
    """Whether a node computes and does nothing else."""
    kind = node.kind()
    if any(_OBJECTS in text and not text.startswith(_PLAIN_OBJECTS, text.index(_OBJECTS)) for text in _types(node)):
        return False
    if kind in _STRUCTURE or kind in _CONTAINED:
        return True
    schema = schema_of(node)
    if schema is None or kind.partition("::")[0] not in _NAMESPACES:
        return False
    if kind.startswith("prim::") and "..." in str(schema):
        return False
    files = any("file" in argument.name and "str" in str(argument.type) for argument in schema.arguments)
    return not files and (bool(schema.returns) or any(is_written(argument) for argument in schema.arguments))


def _called(graph: Any) -> list[str]:
    """For each operator of a function the qualified name of what it calls; its own where it calls nothing."""
    called: list[str] = []
    for node in nodes_of(graph):
        match node.kind():
            case "prim::CallMethod":
                called.append(f"{next(iter(node.inputs())).type()}.{node.s('name')}")
            case "prim::CallFunction":
                called.append(str(next(iter(node.inputs())).type()))
            case _:
                called.append(node.kind())
    return called


def _types(node: Any) -> list[str]:
    return [str(value.type()) for value in (*node.inputs(), *node.outputs())]


def is_written(argument: Any) -> bool:
    """Whether an operator writes to this argument of its schema."""
    return argument.alias_info is not None and argument.alias_info.is_write


def schema_of(node: Any) -> Any:
    """The schema of a node's operator; None for one that has none, as control flow."""
    return _schema_of(node.kind(), node.schema())


@lru_cache(maxsize=4096)
def _schema_of(kind: str, text: str) -> Any:
    return next((s for s in torch._C._jit_get_schemas_for_operator(kind) if str(s) == text), None)


def nodes_of(block: Any) -> Iterator[Any]:
    """All nodes of a block or graph, and of the blocks in them."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from nodes_of(inner)
        for name in node.attributeNames():
            if node.kindOf(name) == "g":
                yield from nodes_of(node.g(name))
