"""A policy that comes as a `.pt2` file of `torch.export`.

What is right is what the unmodified program answers, one row at a time. What is
served is the same program as TorchScript (`pt2_text`), so that operators, random
draws and memory are judged, and memory becomes states, as they are of a TorchScript file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from policyctl.domain.manifest import digest_of
from policyctl.errors import UnsupportedError, UsageError, last_line
from policyctl.plain_files import open_named
from policyctl_exporters.conduct import checked
from policyctl_exporters.modules import open_module, open_program
from policyctl_exporters.onnx_file import Port
from policyctl_exporters.onnx_roles import Sorting, which_acts, with_action
from policyctl_exporters.program_memory import memory_of
from policyctl_exporters.pt2_file import load_exported
from policyctl_exporters.pt2_text import ProgramText
from policyctl_exporters.source import HEADS, Options, Source

_MOST_BYTES: Final = 4 << 30


def open_pt2(path: Path, options: Options) -> Source:
    """Read a `.pt2` file as a policy.

    Args:
        options: Spaces bound what the file takes and gives, and say how scores are read; without them the
            file's own shapes count. `head` says what outputs are.

    Raises:
        UsageError: Not such a file, one of another torch, or spaces that do not fit it.
        UnsupportedError: A program that cannot be served.
    """
    with open_named(path, most_bytes=_MOST_BYTES) as file:
        content = file.read()
    program = load_exported(content, name=path.name, trust_pickle=options.trust_pickle)
    text = ProgramText(program, name=path.name)
    memory = _memory(text, options)
    served: Text = _remembering(text, memory, path, content, options) if memory else text
    source = open_text(served, options, name=path.name, kind="pt2")
    return replace(source, file=(path.name, digest_of(content)))


def _memory(text: ProgramText, options: Options) -> Mapping[str, str]:
    """Inputs that are memory, each with the output that continues it.

    Raises:
        UsageError: An output may continue an input, and nobody says so.
    """
    names = [port.name for port in text.outputs]
    if text.bare:
        if options.states:
            raise UsageError(f"{text.name} gives one tensor, which continues nothing", remedy="Leave --state out.")
        return {}
    options.head.require(names)
    observed = {*(getattr(options.observation_space, "spaces", None) or ())}
    sorting = Sorting(text, options.head, text.reach(), observed, set())
    memory = sorting.memory(options.states or {})
    kinds = {*HEADS, "log_std"}
    head = with_action(options.head, names)
    made = [name for name in names if head.named.get(name, name) in kinds]
    further = [name for name in names if name not in (*made, *memory.values())]
    for source in made:
        sorting.refuse_what_may_be_memory(source, further, memory)
    return memory


def _remembering(text: ProgramText, memory: Mapping[str, str], path: Path, content: bytes, options: Options) -> Text:
    """The program whose memory is in buffers: the only node of a bundle, to which its own outputs flow back."""
    from policyctl_exporters.leapp_bundle import Bundle, Node
    from policyctl_exporters.leapp_source import Chain

    node = Node("program", "pt2", path, content, text.inputs, text.outputs)
    return Chain(Bundle.of_one(node, memory), options)


class Text(Protocol):
    """A program whose tensors have names, which can be written as TorchScript."""

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Tensors that it takes."""
        ...

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Tensors that it gives."""
        ...

    @property
    def bare(self) -> bool:
        """Whether it gives one tensor, which has no name."""
        ...

    @property
    def least_rows(self) -> int:
        """The least batch that it takes, where its batch is open."""
        ...

    def compiled(self, *, unbatched: bool) -> torch.jit.ScriptModule:
        """It as TorchScript; see `ProgramText.compiled`."""
        ...

    def unmodified(self) -> nn.Module:
        """What it was written from, just loaded, with its memory in attributes of the same names."""
        ...

    def ask(self, module: nn.Module, named: Mapping[str, Tensor]) -> Any:
        """What `unmodified` gives for tensors by name: one tensor, or tensors by name."""
        ...


def open_text(text: Text, options: Options, *, name: str, kind: str, notes: tuple[str, ...] = ()) -> Source:
    """A program whose tensors have names as a policy; see `open_pt2`."""
    if not text.inputs:
        raise UsageError(f"{name} takes nothing", remedy="Export a policy that takes an observation.")
    if not text.bare:
        options = replace(options, head=with_action(options.head, [port.name for port in text.outputs]))
    spaces = _given_spaces(text, options.observation_space)
    rows = _Rows.of(text, spaces, name)
    script = text.compiled(unbatched=rows.unbatched).save_to_buffer()
    compiled = checked(script, name=name, trusted=options.trust_operators, remembers=True)
    compiled.module.eval()
    options = replace(
        options,
        observation_space=_typed(text, options.observation_space, spaces),
        action_space=options.action_space or _action_space(text, options, rows, name),
    )
    notes = (*compiled.notes, *notes, *rows.notes(name))

    def load() -> nn.Module:
        return _Original(text, rows)

    try:
        if memory := memory_of(compiled, script, name=name, trusted=options.trust_operators):
            if rows.copies > 1:
                raise UnsupportedError(
                    f"{name} remembers {rows.copies} rows at once: {', '.join(each.path for each in memory.kept)}",
                    remedy="Export it for one row: each caller has a memory of one.",
                )
            return open_program(replace(memory, load=load), options, kind=kind, notes=notes)
        return open_module(compiled.module, options, kind=kind, notes=notes, original=load())
    except UsageError as error:
        if rows.copies == 1 or "fails on one observation" not in error.problem:
            raise
        raise UnsupportedError(
            f"{name} takes {rows.copies} rows at once, and not any other number: {last_line(error)}",
            remedy="Export it again with a dynamic batch, or for one row.",
        ) from error


class _Rows:
    """How one row reaches a program.

    Attributes:
        unbatched: Whether it takes one row, without a batch.
        copies: Rows that it wants at once: 1, or its fixed batch.
    """

    def __init__(self, *, unbatched: bool, copies: int) -> None:
        self.unbatched, self.copies = unbatched, copies

    @classmethod
    def of(cls, text: Text, spaces: dict[str, Any], name: str) -> _Rows:
        """Raises: UsageError: The shapes of the spaces are not those of the program."""
        bare: list[bool] = []
        fixed: list[int] = []
        for port in text.inputs:
            shape = tuple(spaces[port.name].shape)
            batched = len(port.dims) == len(shape) + 1 and _fits(port.dims[1:], shape)
            if not batched and not _fits(port.dims, shape):
                raise UsageError(
                    f"{name}: input {port.name} is {port.dtype}{_shown(port)}, the observation space says {[*shape]}",
                    remedy="Give the space of what the policy takes, before a batch dimension.",
                )
            bare.append(not batched)
            fixed += [size for size in port.dims[:1] if batched and size is not None]
        if len({*bare}) > 1 or len({*fixed}) > 1:
            raise UnsupportedError(
                f"{name} takes {', '.join(f'{port.name} {_shown(port)}' for port in text.inputs)}: not one batch",
                remedy="Export it again with one batch dimension, the first of every input.",
            )
        return cls(unbatched=bare[0], copies=fixed[0] if fixed else text.least_rows)

    def notes(self, name: str) -> tuple[str, ...]:
        """What a person should know."""
        return (f"{name} takes one row without a batch, and is served one row at a time",) if self.unbatched else ()


class _Original(nn.Module):
    """The unmodified program, for one row.

    Attributes:
        original: A fresh module, whose attributes it changes.
    """

    def __init__(self, text: Text, rows: _Rows) -> None:
        super().__init__()
        self.original = text.unmodified()
        self._text, self._rows = text, rows

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """The answer to one row, with a batch of 1 first."""
        by_name = {port.name: value for port, value in zip(self._text.inputs, inputs, strict=False)} | named
        given = {port.name: self._fed(port, by_name[port.name]) for port in self._text.inputs}
        found = self._text.ask(self.original, given)
        return {key: self._row(value) for key, value in found.items()} if isinstance(found, dict) else self._row(found)

    def _fed(self, port: Port, value: Tensor) -> Tensor:
        value = value.to(getattr(torch, port.dtype))
        return value[0] if self._rows.unbatched else torch.cat([value] * self._rows.copies)

    def _row(self, value: Tensor) -> Tensor:
        if self._rows.unbatched:
            return value.unsqueeze(0)
        return value[:1] if self._rows.copies > 1 else value


def _given_spaces(text: Text, space: Any) -> dict[str, Any]:
    """The space of each input, by the program's name for it: as somebody says, else from its own shape."""
    inner = getattr(space, "spaces", None)
    if space is not None and inner is None and len(text.inputs) == 1:
        return {text.inputs[0].name: space}
    if space is not None:
        named = {port.name for port in text.inputs}
        if inner is None or {*inner} != named:
            raise UsageError(
                f"the program takes {', '.join(named)}; the observation space has"
                f" {'the keys ' + ', '.join(inner) if inner else 'one observation'}",
                remedy="Name each observation as the program does: --observation NAME=SPACE.",
            )
        return dict(inner)
    return {port.name: _own_space(port, text.outputs) for port in text.inputs}


def _own_space(port: Port, outputs: Sequence[Port]) -> Any:
    """What an input's own shape says: without bounds, and without its batch where it has one."""
    from gymnasium import spaces

    batched = bool(port.dims) and (port.dims[0] is None or (len(port.dims) > 1 and port.dims[0] == 1))
    if not batched and len(port.dims) > 1:
        batched = any(output.dims[:1] == port.dims[:1] for output in outputs)
    return own_space(port, port.dims[1:] if batched else port.dims, spaces)


def own_space(port: Port, dims: Sequence[int | None], spaces: Any) -> Any:
    """A space of this shape, without bounds, of the port's type."""
    if None in dims or port.dtype == "bfloat16":
        raise UsageError(
            f"{port.name} is {port.dtype}{_shown(port)}, which no contract can hold",
            remedy="Say what it is: --observation NAME=SPACE and --action SPACE.",
        )
    dtype = np.dtype(port.dtype)
    if dtype.kind == "b":
        return spaces.MultiBinary([*dims] or [1])
    limits = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return spaces.Box(*limits, tuple(dims), dtype.type)


def _typed(text: Text, given: Any, named: dict[str, Any]) -> Any:
    """The observation space with the program's own types: environments say float64 where policies take float32."""
    from gymnasium import spaces

    typed = {port.name: _retyped(named[port.name], port, spaces) for port in text.inputs}
    return next(iter(typed.values())) if given is not None and not hasattr(given, "spaces") else spaces.Dict(typed)


def _retyped(space: Any, port: Port, spaces: Any) -> Any:
    floating = port.dtype.startswith("float") and isinstance(space, spaces.Box) and space.dtype.kind == "f"
    if not floating or str(space.dtype) == port.dtype:
        return space
    return spaces.Box(space.low.astype(port.dtype), space.high.astype(port.dtype), dtype=np.dtype(port.dtype).type)


def _action_space(text: Text, options: Options, rows: _Rows, name: str) -> Any:
    """What the action's own shape says."""
    from gymnasium import spaces

    said = {key: kind for key, kind in options.head.named.items() if kind in HEADS}
    said = said or {port.name: port.name for port in text.outputs if port.name in HEADS}
    if text.bare:
        said = {text.outputs[0].name: options.head.bare or "action"}
    ports = [port for kind in HEADS for port in text.outputs if said.get(port.name) == kind]
    if not ports:
        raise UsageError(
            f"{name}: no output is called action, it gives {', '.join(port.name for port in text.outputs)}",
            remedy=which_acts([port.name for port in text.outputs]),
        )
    # Of a choice that is given with its scores, those say how many there are.
    port = next((port for port in ports if said[port.name] in ("logits", "q_values")), ports[0])
    port = ports[0] if ports[0].dtype.startswith("float") else port
    kind = said[port.name]
    dims = port.dims if rows.unbatched else port.dims[1:]
    if kind in ("logits", "q_values"):
        if len(dims) > 1:
            raise UsageError(
                f"{name}: its {kind} are {_shown(port)}, and nothing says which choices there are",
                remedy="Say it: --action discrete:6, multidiscrete:3,2 or multibinary:5.",
            )
        return spaces.Discrete(int(np.prod([size or 1 for size in dims])))
    if not port.dtype.startswith("float"):
        raise UsageError(
            f"{name}: its action is {port.dtype}, and nothing says which choices there are",
            remedy="Say it: --action discrete:6, multidiscrete:3,2 or multibinary:5.",
        )
    return own_space(replace(port, dtype="float32"), dims, spaces)


def _fits(dims: Sequence[int | None], shape: Sequence[int]) -> bool:
    return len(dims) == len(shape) and all(dim in (None, size) for dim, size in zip(dims, shape, strict=True))


def _shown(port: Port) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in port.dims)}]"
