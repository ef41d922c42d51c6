"""A TorchScript program that takes its memory as arguments, and gives what continues it.

Its arguments have names without shapes. So the spaces say the shape of one row of each, and the program is asked which
of the shapes with a batch in them it takes. Then it is the only node of a bundle, to which its own outputs flow back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from policyctl.domain.contract import ActionKind
from policyctl.errors import UsageError, last_line
from policyctl_exporters.conduct import checked
from policyctl_exporters.leapp_bundle import Bundle, Node
from policyctl_exporters.leapp_source import Chain
from policyctl_exporters.onnx_file import Port
from policyctl_exporters.onnx_roles import Sorting
from policyctl_exporters.pt2_source import open_text
from policyctl_exporters.source import Head, Options, Source
from policyctl_exporters.spaces import action_of

_NODE: Final = "program"


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
        UsageError: An argument has no space, no shape fits the program, or a pair does not.
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
    for asked in _askings(program, name, {key: said[key] for key in arguments}, states):
        nothing: dict[str, frozenset[str]] = {port.name: frozenset() for port in asked.outputs}
        pairs = Sorting(asked, options.head, nothing, {*said}, set()).memory(states)
        more = replace(
            options,
            states=None,
            observation_space=spaces.Dict({key: space for key, space in said.items() if key not in states}),
            head=options.head or _only(asked.outputs, pairs, options.action_space),
        )
        found.append(open_text(Chain(_bundle(asked, pairs, content), more), more, name=name, kind="torchscript"))
        if found[-1].contract.max_batch is None:
            break
    return found[-1] if found[-1].contract.max_batch is None else found[0]


def _askings(program: nn.Module, name: str, said: Mapping[str, Any], states: Mapping[str, str]) -> list[_Asked]:
    """What the program takes and gives with its batch wherever it may be, the likeliest place first.

    Raises:
        UsageError: It takes none of these.
    """
    weights = (*program.parameters(), *program.buffers())
    precision = next((value.dtype for value in weights if value.dtype.is_floating_point), torch.float32)
    found: list[_Asked] = []
    failure: Exception | None = None
    for batched, place in product((True, False), range(max(len(_shapes(said[key])) for key in states))):
        rows = {}
        for key, space in said.items():
            shapes = _shapes(space) if key in states else [(1, *space.shape) if batched else space.shape]
            dtype = precision if space.dtype.kind == "f" else getattr(torch, str(space.dtype))
            rows[key] = torch.zeros(shapes[min(place, len(shapes) - 1)], dtype=dtype)
        try:
            with torch.no_grad():
                given = _named(program(*(value.clone() for value in rows.values())))
        # Whatever the program's own code raises.
        except Exception as error:  # noqa: BLE001
            failure = failure or error
            continue
        if all(given[after].shape == rows[key].shape for key, after in states.items() if after in given):
            found.append(_Asked(name, _ports(rows), _ports(given)))
    if not found:
        raise UsageError(
            f"{name} takes and gives no tensors of these shapes{f': {last_line(failure)}' if failure else ''}",
            remedy="Say the shape of one row of each argument, without the batch.",
        ) from failure
    return found


def _shapes(space: Any) -> list[tuple[int, ...]]:
    """The shape of a state with its batch, which layers may come before, and without one."""
    shape = tuple(space.shape)
    axes = sorted(range(len(shape) + 1), key=lambda axis: (len(shape) == 2 and axis != 1, axis))
    return [*((*shape[:axis], 1, *shape[axis:]) for axis in axes), shape]


def _ports(tensors: Mapping[str, Tensor]) -> tuple[Port, ...]:
    return tuple(
        Port(name, str(value.dtype).removeprefix("torch."), tuple(value.shape)) for name, value in tensors.items()
    )


def _named(results: Any) -> dict[str, Tensor]:
    """Tensors by their keys, or by their places."""
    if isinstance(results, Mapping):
        return {str(key): value for key, value in results.items()}
    return {str(place): value for place, value in enumerate(tree_leaves(results))}


def _only(outputs: Sequence[Port], pairs: Mapping[str, str], space: Any) -> Head:
    """What the only output is that continues nothing: as of a module that gives one tensor."""
    ports = [port for port in outputs if port.name not in pairs.values()]
    if len(ports) != 1:
        return Head()
    chosen = space is not None and action_of(space)[0] is not ActionKind.CONTINUOUS
    return Head(named={ports[0].name: "logits" if chosen and ports[0].dtype.startswith("float") else "action"})


def _bundle(asked: _Asked, pairs: Mapping[str, str], content: bytes) -> Bundle:
    node = Node(_NODE, "jit", Path(asked.name), content, asked.inputs, asked.outputs, {})
    return Bundle(
        name=asked.name,
        digest="",
        nodes=(node,),
        wires={},
        feedback={(_NODE, given): (_NODE, after) for given, after in pairs.items()},
        initial={},
        inputs={port.name: (_NODE, port.name) for port in asked.inputs if port.name not in pairs},
        outputs={port.name: (_NODE, port.name) for port in asked.outputs if port.name not in pairs.values()},
    )
