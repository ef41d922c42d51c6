"""The memory of a TorchScript program: attributes that a call changes become arguments and results.

A server keeps nothing between requests, so what `forward` remembers has to come
with the observation and go with the answer. The program gets a further method:
its `forward` with every call inlined, in which each read of such an attribute
is the value that the call has for it by then. What is written in place is a
copy of what came in.

What is right is what the unmodified program answers, one row at a time, after
its attributes were set to the memory of the row. That it remembers nothing
else is proved by the program left alone for some steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from policyctl.domain.contract import Contract, State
from policyctl.domain.tensor import DTYPES, TensorSpec
from policyctl.errors import UnsupportedError, first_line, last_line
from policyctl_exporters.memory import episode
from policyctl_exporters.observations import Batch, take
from policyctl_exporters.program_flow import written_attributes
from policyctl_exporters.source import Answer
from policyctl_exporters.spaces import OUTPUT_NAMES, unique_names
from policyctl_exporters.torchscript import Program, load_program, nodes_of

_STEP: Final = "step_with_memory"
_ROUNDING: Final = 1e-5
_REMEDY: Final = (
    "Keep it in tensors that have one shape and type, and that begin with finite numbers: buffers, written by"
    " `self.h[:] = h` or `self.h = h`."
    " Or export a policy without memory."
)


@dataclass(frozen=True, slots=True)
class Kept:
    """One attribute that a call changes.

    Attributes:
        path: Its dotted name in the program.
        value: What it is when the program is loaded.
        axis: Where its batch is; None where it has none.
    """

    path: str
    value: Tensor
    axis: int | None = None

    @property
    def axes(self) -> list[int | None]:
        """Where the batch may be, the likeliest first; layers come before it."""
        ones = [axis for axis, size in enumerate(self.value.shape) if size == 1]
        return [*sorted(ones, key=lambda axis: (self.value.ndim == 3 and axis != 1, axis))] or [None]

    @property
    def row(self) -> NDArray[Any]:
        """Its value for one row."""
        value: NDArray[Any] = self.value.numpy()
        return value if self.axis is None else value.take(0, self.axis)

    def given(self, rows: Tensor) -> Tensor:
        """As the program has it, from shape (n, *shape) of the contract."""
        if self.axis is None:
            return rows.reshape(self.value.shape)
        return (rows if self.row.ndim else rows.squeeze(1)).movedim(0, self.axis)

    def taken(self, value: Tensor) -> Tensor:
        """As the contract has it, from what the program has."""
        if self.axis is None:
            return value.reshape(1, *(self.row.shape or (1,)))
        rows = value.movedim(self.axis, 0)
        return rows if self.row.ndim else rows.unsqueeze(1)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a program remembers.

    Attributes:
        name: Of the program, for messages.
        kept: In the order in which the further method takes and gives it.
        program: With that method.
        load: Gives the unmodified program, just loaded: TorchScript, or a module whose `original` has the attributes.
    """

    name: str
    kept: tuple[Kept, ...]
    program: torch.jit.ScriptModule
    load: Callable[[], nn.Module]

    def layouts(self) -> Iterator[Memory]:
        """The same with the batch wherever it may be, the likeliest first."""
        choices = [each.axes for each in self.kept]
        for number in range(max(map(len, choices))):
            axes = [each[min(number, len(each) - 1)] for each in choices]
            yield replace(self, kept=tuple(replace(k, axis=axis) for k, axis in zip(self.kept, axes, strict=True)))

    def specs(self, taken: Sequence[str]) -> tuple[TensorSpec, ...]:
        """The input of each; `taken` names the other inputs."""
        names = unique_names([each.path for each in self.kept], taken={*taken, *OUTPUT_NAMES}, prefix="state")
        return tuple(
            TensorSpec(name, str(each.row.dtype), each.row.shape or (1,))
            for name, each in zip(names, self.kept, strict=True)
        )

    def within(self, contract: Contract, specs: Sequence[TensorSpec]) -> Contract:
        """The contract of a policy that takes its memory, as `specs` has it, and gives what continues it."""
        taken = {spec.name for spec in (*contract.observations, *contract.outputs, *specs)}
        names = unique_names([f"{spec.name}_out" for spec in specs], taken=taken, prefix="state")
        begin = [tuple(float(number) for number in each.row.reshape(-1)) for each in self.kept]
        return replace(
            contract,
            observations=(*contract.observations, *specs),
            outputs=(*contract.outputs, *(replace(spec, name=name) for spec, name in zip(specs, names, strict=True))),
            states=tuple(
                State(spec.name, name, first if len({*first}) > 1 else first[0])
                for spec, name, first in zip(specs, names, begin, strict=True)
            ),
        )

    def prove(
        self, contract: Contract, answer: Answer, alone: Callable[[nn.Module], Answer], steps: Batch, drawn: Batch
    ) -> None:
        """Hold what a contract says of the memory against the program left alone, and against its own reset.

        Args:
            contract: With states, in the order of `kept`.
            answer: Of the unmodified program whose attributes are set to the memory of each row.
            alone: From a program without its memory in the contract to its answers.
            steps: What the environment gives, by name, each of shape (steps, *shape).
            drawn: Every input, by name, each of shape (n, *shape).

        Raises:
            UnsupportedError: It remembers more than the contract says, begins with something else, or fails
                with memory that it would not have made.
        """
        try:
            answer(drawn)
        except UnsupportedError:
            raise
        # Whatever the program's own code raises.
        except Exception as error:
            raise UnsupportedError(
                f"{self.name} fails with other memory than its own: {last_line(error)}",
                remedy="A client may send any number. Bring an index into its range where it is used.",
            ) from error
        _, expected = episode(answer, contract, steps)
        program = self._played(alone, steps, expected)
        last = [expected[state.output][-1:] for state in contract.states]
        if not all(
            _equal(k.taken(v).numpy(), row) for k, v, row in zip(self.kept, self._now(program), last, strict=True)
        ):
            self._refuse_more()
        for method in _resets(program):
            program = self._played(alone, steps, expected)
            before = self._now(program)
            try:
                with torch.no_grad():
                    getattr(program, method)()
            # Whatever it raises.
            except Exception as error:
                raise UnsupportedError(
                    f"{self.name}: {method}(), which begins an episode, fails: {last_line(error)}",
                    remedy="Repair it, or leave it out of the program.",
                ) from error
            after = self._now(program)
            other = [k.path for k, value in zip(self.kept, after, strict=True) if not torch.equal(k.value, value)]
            if other and not all(map(torch.equal, before, after)):
                raise UnsupportedError(
                    f"{self.name} begins with other memory than its {method}() sets: {', '.join(other)}",
                    remedy=f"Call {method}() before you save the program, so that both begin alike.",
                )

    def _played(self, alone: Callable[[nn.Module], Answer], steps: Batch, expected: Batch) -> nn.Module:
        """The program after these steps, in which it answered as expected."""
        program = self.load()
        play = alone(program)
        for step in range(len(next(iter(steps.values())))):
            for name, values in play(take(steps, slice(step, step + 1))).items():
                if not _equal(values, expected[name][step : step + 1]):
                    self._refuse_more()
        return program

    def _now(self, program: nn.Module) -> list[Tensor]:
        return [_value(program, each.path).detach().clone() for each in self.kept]

    def _refuse_more(self) -> None:
        raise UnsupportedError(
            f"{self.name} remembers more than {', '.join(each.path for each in self.kept)}, which a call changes",
            remedy=_REMEDY,
        )


def memory_of(program: Program, content: bytes, *, name: str, trusted: bool) -> Memory | None:
    """What a program remembers; None where a call changes nothing. The program gets a further method.

    Raises:
        UnsupportedError: A call changes what cannot become an argument.
    """
    paths = written_attributes(program)
    if not paths:
        return None
    values = {path: _value(program.module, path) for path in paths}
    if others := {path: _kind(value) for path, value in values.items() if _kind(value)}:
        _refuse(name, others, f"no tensor of numbers but {', '.join(sorted({*others.values()}))}")
    if endless := [path for path, value in values.items() if not bool(torch.isfinite(value).all())]:
        # A contract is JSON, which has neither.
        _refuse(name, endless, "which begins with NaN or infinity")
    _add_step(program, paths, name)
    kept = tuple(Kept(path, value.detach().clone()) for path, value in values.items())

    def load() -> torch.jit.ScriptModule:
        return load_program(content, name=name, trusted=trusted).module.eval()

    return Memory(name, kept, program.module, load)


class Remembering(nn.Module):
    """A program that takes its memory before the observations, and gives its answer and the memory after it.

    Args:
        unmodified: By the program as it was, whose attributes are set before each call: it answers one row.
    """

    def __init__(self, memory: Memory, *, unmodified: bool = False) -> None:
        super().__init__()
        self.program: nn.Module = memory.load() if unmodified else memory.program
        self.original_name = memory.program.original_name
        self.kept, self.name, self.unmodified = memory.kept, memory.name, unmodified

    def forward(self, *arguments: Tensor, **named: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
        """One step."""
        count = len(self.kept)
        before = [each.given(rows) for each, rows in zip(self.kept, arguments, strict=False)]
        step = self._as_it_was if self.unmodified else getattr(self.program, _STEP)
        found, *after = step(*before, *arguments[count:], **named)
        for each, old, new in zip(self.kept, before, after, strict=True):
            if not torch._C._is_tracing() and (old.shape, old.dtype) != (new.shape, new.dtype):
                _refuse(self.name, [each.path], f"{_shown(old)} before it and {_shown(new)} after it")
        return found, tuple(each.taken(value) for each, value in zip(self.kept, after, strict=True))

    def _as_it_was(self, *arguments: Tensor, **named: Tensor) -> tuple[Any, ...]:
        count = len(self.kept)
        for each, value in zip(self.kept, arguments, strict=False):
            owner, _, attribute = each.path.rpartition(".")
            setattr(_value(self.program, owner), attribute, value.clone())
        found = self.program(*arguments[count:], **named)
        return found, *(_value(self.program, each.path).clone() for each in self.kept)


def _add_step(program: Program, paths: Sequence[str], name: str) -> None:
    """Give a program the method that takes and gives what it remembers.

    Raises:
        UnsupportedError: Some path to an attribute is known only when the program runs.
    """
    module: Any = program.module
    own = [argument.name for argument in module.forward.schema.arguments]
    prefix = "memory"
    while any(argument.startswith(prefix) for argument in own):
        prefix += "_"
    states = [f"{prefix}{number}" for number in range(len(paths))]
    given = [
        f"{a.name}: {a.type.annotation_str}" + (f" = {a.default_value!r}" if a.has_default_value() else "")
        for a in module.forward.schema.arguments[1:]
    ]
    try:
        module.define(
            f"def {_STEP}(self, {', '.join([*(f'{state}: Tensor' for state in states), *given])}):\n"
            + "".join(f"    {state}_now = {state}.clone()\n" for state in states)
            + f"    return (self.forward({', '.join(own[1:])}), {', '.join(f'{state}_now' for state in states)})\n"
        )
    except RuntimeError as error:
        raise UnsupportedError(
            f"{name} keeps state between calls, and takes what no further method of it can: {first_line(error)}",
            remedy=_REMEDY,
        ) from error
    graph = module._c._get_method(_STEP).graph
    torch._C._jit_pass_inline(graph)
    given_back = next(iter(graph.outputs())).node()
    current = dict(zip(paths, list(given_back.inputs())[1:], strict=True))
    _Lift(graph).lift(graph, current)
    for number, path in enumerate(paths):
        given_back.replaceInput(number + 1, current[path])
    graph.lint()
    if left := [*written_attributes(program, _STEP), *_unsure(graph, paths)]:
        _refuse(name, sorted({*left}), "reached by a path that is known only when it runs")


class _Lift:
    """Turns reads and writes of attributes into values."""

    def __init__(self, graph: Any) -> None:
        self._self = next(iter(graph.inputs())).debugName()

    def lift(self, block: Any, current: dict[str, Any]) -> None:
        """Replace them in a block.

        Args:
            current: The value of each attribute before the block; afterwards what it is then.
        """
        for node in list(block.nodes()):
            path = self.path(node)
            if path in current and node.kind() == "prim::GetAttr":
                node.output().replaceAllUsesWith(current[path])
                node.destroy()
            elif path in current:
                current[path] = list(node.inputs())[1]
                node.destroy()
            elif inner := list(node.blocks()):
                self._lift_inner(node, inner, current)

    def path(self, node: Any) -> str | None:
        """The dotted name of the attribute that a node reads or writes; None where it does neither, or it is unsure."""
        if node.kind() not in ("prim::GetAttr", "prim::SetAttr"):
            return None
        owner = next(iter(node.inputs()))
        if owner.debugName() == self._self:
            return str(node.s("name"))
        before = self.path(owner.node())
        return None if before is None else f"{before}.{node.s('name')}"

    def _lift_inner(self, node: Any, blocks: Sequence[Any], current: dict[str, Any]) -> None:
        inside = [each for block in blocks for each in nodes_of(block) if each.kind() == "prim::SetAttr"]
        written = [path for path in current if path in {self.path(each) for each in inside}]
        loop = node.kind() == "prim::Loop"
        ends = []
        for block in blocks:
            begins = dict(current)
            for path in written if loop else ():
                node.addInput(current[path])
                begins[path] = block.addInputToBlock()
            ends.append(begins)
            self.lift(block, begins)
            for path in written:
                block.registerOutput(begins[path])
        current.update({path: node.addOutput() for path in written})


def _unsure(graph: Any, paths: Sequence[str]) -> list[str]:
    """Attributes that may still be read: by a path that is not known, or by a method behind an interface."""
    lift, nodes = _Lift(graph), list(nodes_of(graph))
    if any(node.kind() == "prim::CallMethod" for node in nodes):
        return list(paths)
    names = {path.rpartition(".")[2]: path for path in paths}
    reads = [node for node in nodes if node.kind() == "prim::GetAttr" and node.s("name") in names]
    return [names[node.s("name")] for node in reads if lift.path(node) is None]


def _resets(program: nn.Module) -> list[str]:
    """Methods that begin an episode."""
    if not isinstance(program, torch.jit.ScriptModule):
        return []
    methods = [name for name in program._c._method_names() if name.startswith("reset")]
    schemas: dict[str, Any] = {name: getattr(program, name).schema for name in methods}
    return [name for name in methods if all(a.has_default_value() for a in schemas[name].arguments[1:])]


def _value(module: Any, path: str) -> Any:
    module = getattr(module, "original", module)
    for part in filter(None, path.split(".")):
        module = getattr(module, part, None)
    return module


def _kind(value: Any) -> str:
    """What a value is that no contract holds as a tensor of numbers; empty where one does."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    dtype = str(value.dtype).removeprefix("torch.")
    return "" if dtype in DTYPES and value.numel() else _shown(value)


def _shown(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


def _equal(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether a program gave both: libraries round by where an array lies in memory."""
    largest = float(np.max(np.abs(second, dtype=np.float64), where=np.isfinite(second), initial=1.0))
    return bool(np.allclose(first, second, rtol=_ROUNDING, atol=_ROUNDING * largest, equal_nan=True))


def _refuse(name: str, paths: Mapping[str, Any] | Sequence[str], why: str) -> None:
    raise UnsupportedError(
        f"{name} keeps state between calls: a call changes {', '.join(paths)}, {why}", remedy=_REMEDY
    )
