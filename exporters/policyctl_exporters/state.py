"""What a module remembers from one call to the next, by the names of its buffers and attributes."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

_DEPTH: Final = 6
_OWN: Final = frozenset(vars(nn.Module()))


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Buffers, parameters and plain attributes of a module and all modules in it, by dotted name.

    Of a TorchScript program only buffers and parameters: its attributes have
    no list, see `torchscript.changed_attributes`.
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
