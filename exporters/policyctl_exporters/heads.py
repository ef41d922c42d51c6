"""From what a policy gives to all outputs of its contract: the action, what it is made of, and the rest.

A torch module gives one tensor, or a dict. Keys that are named as outputs of a
contract are those; every other one is kept as a further output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from policyctl.domain.contract import (
    ACTION,
    PARAMETERS,
    SCORES,
    ActionKind,
    Contract,
    Distribution,
    DistributionKind,
    State,
    Transform,
)
from policyctl.domain.tensor import DTYPES, TensorSpec
from policyctl.errors import UnsupportedError, UsageError
from policyctl_exporters.layers import Clip, Greedy, Rescale, Threshold
from policyctl_exporters.onnx_roles import with_action
from policyctl_exporters.source import FURTHER, Head
from policyctl_exporters.spaces import OUTPUT_NAMES, Observation, action_of, float32_inside, unique_names

SINGLE: Final = ""
"""Key of a policy's only tensor."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The contract's side of what a policy gives.

    Attributes:
        specs: Every output, `action` first.
        keys: The policy's key of each, by its name in the contract; `action`
            stands there only if the policy gives it.
        source: Name of what the action is made of.
        law: What the names promise; an export holds it against the answers.
        inputs: What the policy takes behind its observations.
        states: Which of `inputs` are memory.
    """

    specs: tuple[TensorSpec, ...]
    keys: Mapping[str, str]
    source: str
    kind: ActionKind
    law: Distribution
    inputs: tuple[TensorSpec, ...] = ()
    states: tuple[State, ...] = ()

    def contract(self, observations: Sequence[Observation], *, batches: bool) -> Contract:
        """The contract of a policy that gives these for `observations`; `batches` where it answers several at once."""
        taken, limit = (*(obs.spec for obs in observations), *self.inputs), None if batches else 1
        return Contract(taken, self.specs, self.kind, self.law, max_batch=limit, states=self.states)


class OutputGraph(nn.Module):
    """A policy's answer, completed to all outputs of the contract."""

    def __init__(self, answer: nn.Module, outputs: Outputs, finish: nn.Module) -> None:
        super().__init__()
        self.answer, self.finish = answer, finish
        self.keys, self.source = dict(outputs.keys), outputs.source
        self.specs = [(s.name, s.shape, getattr(torch, s.dtype)) for s in outputs.specs]
        self.eval()
        self.requires_grad_(requires_grad=False)

    def forward(self, *observations: Tensor) -> tuple[Tensor, ...]:
        """One tensor of shape (n, *spec.shape) for each output."""
        found = self.answer(*observations)
        # A policy with memory gives that as well: see `program_memory.Remembering`.
        found, memory = found if isinstance(found, tuple) else (found, ())
        given = {name: found if key == SINGLE else found[key] for name, key in self.keys.items()}
        (_, shape, dtype), *others = self.specs
        value = given[self.source]
        action = self.finish(value if self.source in SCORES else value.reshape(-1, *shape).to(dtype))
        outputs = [action]
        for name, shape, dtype in others:
            value = given[name].to(dtype).reshape(-1, *shape)
            # One spread for all observations is expanded to the batch: a sum, which unlike
            # expand() traces the same for every runtime and batch.
            outputs.append(value + torch.zeros_like(action) if name == "log_std" else value)
        return (*outputs, *memory)


def finish_of(source: str, space: Any, *, squashed: bool = False) -> nn.Module:
    """From what the action is made of to an action of `space`.

    Args:
        squashed: A continuous source lies in [-1, 1] and is rescaled to the bounds; otherwise it is clipped to them.
    """
    if action_of(space)[0] is not ActionKind.CONTINUOUS:
        return chooser(space, start=True)[0] if source in SCORES else nn.Identity()
    low, high = (bound.reshape(space.shape or (1,)) for bound in float32_inside(space))
    if squashed and not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UnsupportedError(f"a squashed action needs finite bounds, the action space is {space}")
    return Rescale(low, high) if squashed else Clip(low, high)


def chooser(space: Any, *, start: bool) -> tuple[nn.Module, int]:
    """What turns scores into the action of a discrete space, and how many scores it takes."""
    kind, spec = action_of(space, start=start)
    if kind is ActionKind.MULTI_BINARY:
        return Threshold(), spec.size
    sizes = [int(n) for n in np.atleast_1d(space.n if kind is ActionKind.DISCRETE else space.nvec)]
    starts = [int(s) for s in np.atleast_1d(space.start)] if start else [0] * len(sizes)
    return Greedy(sizes, starts), sum(sizes)


def law_of(outputs: Sequence[TensorSpec], kind: ActionKind, choices: Sequence[int]) -> Distribution:
    """What the names of the outputs promise.

    Args:
        choices: How many each element of the action has; used where there are several discrete ones.
    """
    shapes = {spec.name: spec.shape for spec in outputs}
    if kind is ActionKind.CONTINUOUS:
        gaussian = shapes.get("mean") == shapes.get("log_std") == shapes[ACTION]
        return Distribution(DistributionKind.GAUSSIAN, transform=Transform.CLIP) if gaussian else Distribution()
    if "logits" not in shapes:
        return Distribution()
    match kind:
        case ActionKind.DISCRETE:
            return Distribution(DistributionKind.CATEGORICAL)
        case ActionKind.MULTI_DISCRETE:
            return Distribution(DistributionKind.MULTI_CATEGORICAL, nvec=tuple(int(n) for n in choices))
        case _:
            return Distribution(DistributionKind.BERNOULLI)


def describe(
    found: Any, head: Head, space: Any, *, rows: int, observed: Sequence[str], whole: Callable[[str], bool]
) -> Outputs:
    """What the contract makes of a module's answer.

    Args:
        whole: Whether an output, by its key, is made of whole numbers whatever the module observes.
    """
    kind, action = action_of(space)
    given = _given(found, head, kind)
    named = {name: key for name, key in given.items() if name in OUTPUT_NAMES}
    source = _source(given, kind)
    values = {name: found if key == SINGLE else found[key] for name, key in given.items()}
    if source == ACTION and kind is not ActionKind.CONTINUOUS:
        _require_choices(values[ACTION], given[ACTION], space, whole)
    for name in named:
        _check_size(name, values[name], rows, action, kind, space)
    alone = source == "mean" and "log_std" not in named
    parameters = [name for name in PARAMETERS if name in named and not (name == "mean" and alone)]
    specs = [action, *(_parameter_spec(name, values[name], rows, action) for name in parameters)]
    further = [name for name in given if name not in named]
    names = unique_names([given[name] for name in further], taken={*observed, *OUTPUT_NAMES}, prefix="out")
    specs += [_further_spec(name, values[key], rows) for name, key in zip(names, further, strict=True)]
    keys = named | {name: given[key] for name, key in zip(names, further, strict=True)}
    return Outputs(tuple(specs), keys, source, kind, law_of(specs, kind, getattr(space, "nvec", ())))


def _given(found: Any, head: Head, kind: ActionKind) -> dict[str, str]:
    """The module's keys, by what each one is; of a further output by itself."""
    if isinstance(found, Tensor):
        if head.named:
            raise UsageError(
                f"head names {', '.join(head.named)}, and the module gives one tensor without a name",
                remedy="Say what it is: --head KIND.",
            )
        scores = kind is not ActionKind.CONTINUOUS and found.dtype.is_floating_point
        return {head.bare or ("logits" if scores else ACTION): SINGLE}
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UsageError(
            f"the module gives {type(found).__name__}, expected one tensor or a dict of tensors",
            remedy=f"Return one tensor, or a dict; keys {', '.join(OUTPUT_NAMES)} say what the action is made of.",
        )
    if head.bare:
        raise UsageError(
            f"head {head.bare!r} says what one tensor is, and the module gives {', '.join(map(str, found))}",
            remedy=f"Say which one is meant: --head NAME={head.bare}.",
        )
    head.require([str(key) for key in found])
    head = with_action(head, [str(key) for key in found])
    said = {kind: key for key, kind in head.named.items() if kind != FURTHER}
    others = [key for key in map(str, found) if key not in said.values()]
    # A key that has the name of another one's kind, or was called a further output, is kept as such.
    return said | {f"{key} (further)" if key in {*said, *head.named} else key: key for key in others}


def _source(given: Mapping[str, str], kind: ActionKind) -> str:
    sources = (ACTION, "mean") if kind is ActionKind.CONTINUOUS else (ACTION, *SCORES)
    for name in sources:
        if name in given:
            return name
    shown = ", ".join(given.values()) or next(iter(given), "nothing")
    shown += " (places in a tuple)" if all(name.isdecimal() for name in given.values()) else ""
    raise UsageError(
        f"the module gives {shown}, from which no {kind.value} action follows",
        remedy=f"Give one of {', '.join(sources)}, or say which output is one: --head NAME=KIND.",
    )


def _require_choices(value: Tensor, key: str, space: Any, whole: Callable[[str], bool]) -> None:
    """Raises: UsageError: What should be a discrete action may have fractions, which would be cut off."""
    if value.dtype.is_floating_point and not whole(key):
        raise UsageError(
            f"the module's {key or ACTION} may have fractions, and an action of {space} has whole numbers",
            remedy=f"If these are scores: --head {f'{key}=' if key else ''}logits. If they are the action, return it"
            " as integers, by .long().",
        )


def _check_size(name: str, value: Tensor, rows: int, action: TensorSpec, kind: ActionKind, space: Any) -> None:
    """Hold an output that the action depends on against the action space."""
    want = action.size
    if name in SCORES and kind is not ActionKind.CONTINUOUS:
        want = chooser(space, start=True)[1]
    row = _row(value, rows)
    if name == "log_std" and value.numel() == action.size:
        return
    if row is None or math.prod(row) != want:
        raise UsageError(
            f"the module's {name} has shape {tuple(value.shape)} for {rows} observations,"
            f" expected {want} values each for the action space {space}",
            remedy="Check head=, the action space, and that the module keeps the batch dimension first.",
        )


def _parameter_spec(name: str, value: Tensor, rows: int, action: TensorSpec) -> TensorSpec:
    shape = _row(value, rows) or (1,)
    return TensorSpec(name, "float32", shape if name in SCORES else action.shape)


def _row(value: Tensor, rows: int) -> tuple[int, ...] | None:
    """The shape of one row; the whole of a single row may be without a batch. None where it is not for `rows`."""
    if value.ndim and value.shape[0] == rows:
        return tuple(value.shape[1:])
    return tuple(value.shape) if rows == 1 else None


def _further_spec(name: str, value: Tensor, rows: int) -> TensorSpec:
    dtype = str(value.dtype).removeprefix("torch.").replace("bfloat16", "float32")
    row = _row(value, rows)
    if dtype not in DTYPES or row is None:
        raise UsageError(
            f"the module's {name} is {dtype}{list(value.shape)} for {rows} observations,"
            " expected numbers with one row for each",
            remedy="Return one row for each observation, or leave this output out.",
        )
    return TensorSpec(name, dtype, row or (1,))
