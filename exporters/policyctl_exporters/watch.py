"""Watch a policy answer in eager PyTorch: what Python reads of an observation, and what it draws.

An exporter records operators. A branch, a number or an array that Python makes
of an observation is not an operator: the exporter keeps what it was for one
observation, and nothing warns. So everything that is computed from the
observations is marked, by its storage, and each place where Python reads a
marked tensor is kept. Shapes, parameters and buffers are not marked: what
follows from them is the same for every observation.

A TorchScript program is compiled, and an exporter keeps its branches. But a
branch is taken by all rows of a batch at once, so that is kept apart.

What a module remembers shows in the digests of its buffers and attributes.
"""

from __future__ import annotations

import hashlib
import inspect
import linecache
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_stack
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READERS: Final = frozenset(
    {"numpy", "tolist", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage", "__deepcopy__"}
)
"""Methods that hand the values to Python without an operator."""

_PRINTERS: Final = frozenset({"__repr__", "__format__"})
"""Methods that read values for a person alone."""

_LONGEST: Final = 100
_LIBRARIES: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parent))

_DEPTH: Final = 6
_OWN: Final = frozenset(vars(nn.Module()))


@dataclass(frozen=True, slots=True)
class Place:
    """A line of code in a policy.

    Attributes:
        owners: Dotted names of the modules whose methods were at work, the innermost first.
    """

    file: str
    line: int
    owners: tuple[str, ...]

    def __str__(self) -> str:
        code = linecache.getline(self.file, self.line).strip()
        return f"{Path(self.file).name}:{self.line}" + (f" ({code[:_LONGEST]})" if code else "")


class Watch:
    """Asks a module for answers and keeps what it does.

    Attributes:
        reads: Where Python read what was computed from an observation.
        memories: Where it computed with what an earlier call had observed.
        draws: Random operators that ran, each with its place, or None within a TorchScript program.
        branches: Whether a TorchScript program read what was computed from an observation.
        failure: What the first operator that failed raised.
    """

    def __init__(self, module: nn.Module) -> None:
        self.reads: list[Place] = []
        self.draws: list[tuple[str, Place | None]] = []
        self.memories: list[Place] = []
        self.branches = False
        self.failure: Exception | None = None
        self._module = module
        self._names = {part: name for name, part in module.named_modules()}
        # Storages are held, so that none is freed and its address given to another.
        self._marked: dict[int, tuple[Any, int]] = {}
        self._call = 0

    def ask(self, observations: Sequence[Tensor]) -> Any:
        """The module's answer to one batch, of which it gets a copy: it may write to what it is given."""
        self._call += 1
        observations = [rows.clone() for rows in observations]
        self.mark(observations)
        calls = _Calls(self)
        with torch.no_grad(), calls, _Operators(self, calls):
            return self._module(*observations)

    def mark(self, values: Any) -> None:
        """Mark every tensor in `values` as computed from an observation."""
        for storage in _storages(values):
            self._marked[storage._cdata] = storage, self._call

    def marked(self, values: Any) -> bool:
        """Whether some tensor in `values` was computed from an observation."""
        return any(storage._cdata in self._marked for storage in _storages(values))

    def outlived(self, values: Any) -> bool:
        """Whether some tensor in `values` was computed from an observation of an earlier call."""
        marks = (self._marked.get(storage._cdata) for storage in _storages(values))
        return any(mark is not None and mark[1] < self._call for mark in marks)

    def place(self) -> Place:
        """The innermost line that is neither torch's nor the exporter's; torch's own where there is no other."""
        frames = [frame for frame, _ in walk_stack(sys._getframe())]
        own = [frame for frame in frames if not frame.f_code.co_filename.startswith(_LIBRARIES)]
        at = (own or frames)[0]
        owners = [frame.f_locals.get((*frame.f_code.co_varnames, "")[0]) for frame in frames]
        names = [self._names[owner] for owner in owners if isinstance(owner, nn.Module) and owner in self._names]
        return Place(at.f_code.co_filename, at.f_lineno, tuple(dict.fromkeys(names)))


class _Calls(TorchFunctionMode):
    """Sees what Python code calls: methods that read values, and whether an operator is Python's own."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.depth = 0
        self.printing = False
        self._watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READERS and self._watch.marked(args):
            self._watch.reads.append(self._watch.place())
        self.depth += 1
        self.printing = name in _PRINTERS
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.depth -= 1
            self.printing = False


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator that runs, those of TorchScript too, and passes the marks on."""

    def __init__(self, watch: Watch, calls: _Calls) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watch, self._calls = watch, calls

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            return self._run(func, args, kwargs or {})
        except Exception as error:
            self._watch.failure = self._watch.failure or error
            raise

    def _run(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        with self:
            # In inference mode an operator that is made of others arrives whole, and hides what those read.
            whole = func.decompose(*args, **kwargs)
        if whole is not NotImplemented:
            return whole
        reached = self._watch.marked((args, kwargs))
        seeded = torch.Tag.nondeterministic_seeded in func.tags
        before = torch.get_rng_state() if seeded else None
        answer = func(*args, **kwargs)
        # Attention carries the tag for the sake of its dropout, and draws nothing without it.
        if before is not None and (kwargs.get("generator") or not torch.equal(before, torch.get_rng_state())):
            place = self._watch.place() if self._calls.depth else None
            self._watch.draws.append((func.overloadpacket.__name__, place))
        if not reached:
            return answer
        if self._watch.outlived((args, kwargs)):
            self._watch.memories.append(self._watch.place())
        if _reads(func, args) and not self._calls.printing:
            if self._calls.depth:
                self._watch.reads.append(self._watch.place())
            else:
                self._watch.branches = True
        name = str(func.overloadpacket.__name__)
        # Such an operator takes a shape alone.
        if not (name.endswith("_like") or name.startswith("new_")):
            self._watch.mark((answer, _written(func, args, kwargs)))
        return answer


def _reads(func: Any, args: Sequence[Any]) -> bool:
    """Whether an operator gives Python a value, or a shape, that depends on the values of its tensors."""
    if func is torch.ops.aten.index.Tensor:
        return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in _tensors(args[1]))
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}.intersection(func.tags))


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    arguments = func._schema.arguments
    given = [*zip(arguments, args, strict=False), *((a, kwargs[a.name]) for a in arguments if a.name in kwargs)]
    return [value for argument, value in given if argument.alias_info is not None and argument.alias_info.is_write]


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))


def _storages(values: Any) -> list[Any]:
    # What the watch itself asks of a tensor is not a call of the policy.
    with torch._C.DisableTorchFunction():
        return [tensor.untyped_storage() for tensor in _tensors(values)]


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Buffers, parameters and plain attributes of a module and all modules in it, by dotted name.

    Of a TorchScript program only buffers and parameters: its attributes have
    no list, see `program_flow.written_attributes`.
    """
    for prefix, part in module.named_modules():
        items = [*part.named_buffers(recurse=False), *part.named_parameters(recurse=False)]
        if not isinstance(part, torch.jit.ScriptModule):
            items += [(name, value) for name, value in vars(part).items() if name not in _OWN]
        yield from ((f"{prefix}.{name}" if prefix else name, value) for name, value in items)


def fingerprint(module: nn.Module) -> dict[str, bytes]:
    """A digest of each attribute's content; it differs after a call that changed the attribute."""
    return {name: _digest(value, _DEPTH) for name, value in attributes(module)}


def tensors_in(value: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    """Every tensor that an attribute holds, also within containers and plain objects."""
    if isinstance(value, Tensor):
        yield value
    elif depth:
        for part in _parts(value):
            yield from tensors_in(part, depth - 1)


def _digest(value: Any, depth: int) -> bytes:
    hashed = hashlib.blake2b(type(value).__qualname__.encode())
    if isinstance(value, nn.Parameter):
        # Large, and as a rule unchanged: a write in place counts its version up.
        hashed.update(f"{id(value)} {value._version}".encode())
    elif isinstance(value, Tensor):
        hashed.update(f"{value.dtype} {tuple(value.shape)}".encode())
        hashed.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        hashed.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
    elif isinstance(value, torch.Generator):
        hashed.update(_digest(value.get_state(), depth))
    elif isinstance(value, np.random.Generator):
        hashed.update(repr(value.bit_generator.state).encode())
    elif depth and (parts := _parts(value)):
        hashed.update(b"".join(_digest(part, depth - 1) for part in parts))
    elif not isinstance(value, type | nn.Module):
        hashed.update(repr(value).encode())
    return hashed.digest()


def _parts(value: Any) -> list[Any]:
    """What a container, or an object of Python's own making, holds; modules are walked by `attributes`."""
    if isinstance(value, nn.Module | type | str | bytes) or inspect.isroutine(value):
        return []
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
    try:
        return list(vars(value).values())
    except TypeError:
        pass
    return list(value) if hasattr(value, "__len__") and hasattr(value, "__iter__") else []
