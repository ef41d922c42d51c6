"""A TorchScript program that takes its memory as arguments, and gives what continues it.

Its arguments have names without shapes. So the spaces say the shape of one row of each, and the program is asked which
of the shapes with a batch in them it takes. Then it is the only node of a bundle, to which its own outputs flow back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import Any, Final

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from policyctl.domain.contract import ActionKind
from policyctl.errors import PolicyctlError, UnsupportedError, UsageError, last_line
from policyctl_exporters.conduct import checked
from policyctl_exporters.leapp_bundle import Bundle, Node
from policyctl_exporters.leapp_source import Chain
from policyctl_exporters.onnx_file import Port
from policyctl_exporters.onnx_roles import Sorting
from policyctl_exporters.pt2_source import open_text
from policyctl_exporters.source import Head, Options, Source
from policyctl_exporters.spaces import action_of

_MOST_PLACES: Final = 64
_MOST_OPENED: Final = 8
"""Shapes of states that are tried together, and those of them that are read as a policy, which takes seconds."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a program takes and gives, of which it was asked once."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    initial: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def open_stateful(content: bytes, name: str, options: Options) -> Source:
    """A program whose memory `options.states` names.

    Args:
        options: The observation space is a Dict with one row of every argument, memory too.

    Raises:
        UsageError: An argument has no space, no shape fits the program, it gives no tensor, or a pair does not fit.
    """
    from gymnasium import spaces

    states = dict(options.states or {})
    program: Any = checked(content, name=name, trusted=options.trust_operators, remembers=True).module.eval()
    said = dict(getattr(options.observation_space, "spaces", None) or {})
    arguments = [a.name for a in program.forward.schema.arguments[1:] if a.name in said or not a.has_default_value()]
    if strange := [given for given in states if given not in arguments]:
        raise UsageError(
            f"{name} has no input {', '.join(strange)}: its forward() takes {', '.join(arguments)}",
            remedy="Leave --state out for what it keeps in its attributes: the export finds that.",
        )
    if {*arguments} != {*said}:
        raise UsageError(
            f"forward() of {name} takes {', '.join(arguments)}, and the observation space names"
            f" {', '.join(said) or 'none of them'}",
            remedy="Say the shape of one row of each, memory too: --observation obs=47 --observation h=1x64.",
        )
    found: list[Source] = []
    failure: PolicyctlError | None = None
    for asked in _askings(program, name, {key: said[key] for key in arguments}, states):
        nothing: dict[str, frozenset[str]] = {port.name: frozenset() for port in asked.outputs}
        pairs = Sorting(asked, options.head, nothing, {*said}, set()).memory(states)
        more = replace(
            options,
            states=None,
            observation_space=spaces.Dict({key: space for key, space in said.items() if key not in states}),
            head=options.head or _only(asked.outputs, pairs, options.action_space),
        )
        try:
            node = Node("program", "jit", Path(name), content, asked.inputs, asked.outputs)
            found.append(open_text(Chain(Bundle.of_one(node, pairs), more), more, name=name, kind="torchscript"))
        # A batch in the wrong place may fit by broadcasting, as far as the shapes go.
        except (UsageError, UnsupportedError) as error:
            failure = failure or error
            continue
        if found[-1].contract.max_batch is None:
            break
    if failure is not None and not found:
        raise failure
    return found[-1] if found[-1].contract.max_batch is None else found[0]


def _askings(program: nn.Module, name: str, said: Mapping[str, Any], states: Mapping[str, str]) -> list[_Asked]:
    """What the program takes and gives with its batch wherever it may be, the likeliest place first.

    Raises:
        UsageError: It takes none of these, or gives something else than tensors.
    """
    weights = (*program.parameters(), *program.buffers())
    precision = next((value.dtype for value in weights if value.dtype.is_floating_point), torch.float32)
    found: list[_Asked] = []
    failure: Exception | None = None
    shapes = {key: _shapes(said[key]) for key in states}
    for batched, places in product((True, False), _places([len(each) for each in shapes.values()])):
        chosen = {key: shapes[key][place] for key, place in zip(shapes, places, strict=True)}
        rows = {}
        for key, space in said.items():
            dtype = precision if space.dtype.kind == "f" else getattr(torch, str(space.dtype))
            rows[key] = torch.zeros(chosen.get(key, (1, *space.shape) if batched else space.shape), dtype=dtype)
        try:
            with torch.no_grad():
                results = program(*(value.clone() for value in rows.values()))
        # Whatever the program's own code raises.
        except Exception as error:  # noqa: BLE001
            failure = failure or error
            continue
        given = _named(results, name)
        if all(given[after].shape == rows[key].shape for key, after in states.items() if after in given):
            found.append(_Asked(name, _ports(rows), _ports(given)))
    if not found:
        raise UsageError(
            f"{name} takes and gives no tensors of these shapes{f': {last_line(failure)}' if failure else ''}",
            remedy="Say the shape of one row of each argument, without the batch.",
        ) from failure
    return found[:_MOST_OPENED]


def _places(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Which shape each state has, of so many: the same place for all first, then a place for each, up to a limit."""
    shared = (tuple(min(place, count - 1) for count in counts) for place in range(max(counts)))
    return [*dict.fromkeys((*shared, *islice(product(*map(range, counts)), _MOST_PLACES)))]


def _shapes(space: Any) -> list[tuple[int, ...]]:
    """The shape of a state with its batch, which layers may come before, and without one."""
    shape = tuple(space.shape)
    axes = sorted(range(len(shape) + 1), key=lambda axis: (len(shape) == 2 and axis != 1, axis))
    return [*((*shape[:axis], 1, *shape[axis:]) for axis in axes), shape]


def _ports(tensors: Mapping[str, Tensor]) -> tuple[Port, ...]:
    return tuple(
        Port(name, str(value.dtype).removeprefix("torch."), tuple(value.shape)) for name, value in tensors.items()
    )


def _named(results: Any, name: str) -> dict[str, Tensor]:
    """Tensors by their keys, or by their places."""
    by_key = results if isinstance(results, Mapping) else dict(enumerate(tree_leaves(results)))
    if strange := [f"{key} ({type(value).__name__})" for key, value in by_key.items() if not isinstance(value, Tensor)]:
        raise UsageError(
            f"forward() of {name} gives {', '.join(strange)} next to its tensors",
            remedy="Return tensors alone, in a tuple or a dict.",
        )
    return {str(key): value for key, value in by_key.items()}


def _only(outputs: Sequence[Port], pairs: Mapping[str, str], space: Any) -> Head:
    """What the only output is that continues nothing: as of a module that gives one tensor."""
    ports = [port for port in outputs if port.name not in pairs.values()]
    if len(ports) != 1:
        return Head()
    chosen = space is not None and action_of(space)[0] is not ActionKind.CONTINUOUS
    return Head(named={ports[0].name: "logits" if chosen and ports[0].dtype.startswith("float") else "action"})
