"""What a torch module gives, and what the contract makes of it: the action, what it is made of, and the rest.

A module gives one tensor, or a dict. Keys that are named as outputs of a
contract are those; every other one is kept as a further output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    Distribution,
    DistributionKind,
    Transform,
)
from policyctl.domain.tensor import DTYPES, TensorSpec
from policyctl.errors import UsageError
from policyctl_exporters.head_option import FURTHER, Head
from policyctl_exporters.heads import chooser, clip_to
from policyctl_exporters.spaces import action_of
from policyctl_exporters.tensor_names import OUTPUT_NAMES, unique_names

SINGLE: Final = ""
"""Key of a module's only tensor."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The contract's side of what a module gives.

    Attributes:
        specs: Every output, `action` first.
        keys: The module's key of each, by its name in the contract; `action`
            stands there only if the module gives it.
        source: Name of what the action is made of.
        kind: What the environment takes.
        law: What the names promise; an export holds it against the answers.
    """

    specs: tuple[TensorSpec, ...]
    keys: Mapping[str, str]
    source: str
    kind: ActionKind
    law: Distribution


class ModuleGraph(nn.Module):
    """A module's answer, completed to all outputs of the contract."""

    def __init__(self, answer: nn.Module, outputs: Outputs, action_space: Any) -> None:
        super().__init__()
        self.answer, self.keys = answer, dict(outputs.keys)
        self.specs = [(s.name, s.shape, getattr(torch, s.dtype)) for s in outputs.specs]
        discrete = outputs.kind is not ActionKind.CONTINUOUS
        choose = chooser(action_space, start=True)[0] if discrete else clip_to(action_space)
        self.finish = _FinishAction(outputs.source, choose, outputs.specs[0].shape, discrete=discrete)

    def forward(self, *observations: Tensor) -> tuple[Tensor, ...]:
        """One tensor of shape (n, *spec.shape) for each observation."""
        found = self.answer(*observations)
        given = {name: found if key == SINGLE else found[key] for name, key in self.keys.items()}
        outputs = [self.finish(given)]
        for name, shape, dtype in self.specs[1:]:
            value = given[name].to(dtype).reshape(-1, *shape)
            # One spread for all observations is expanded to the batch.
            outputs.append(value + torch.zeros_like(outputs[0]) if name == "log_std" else value)
        return tuple(outputs)


class _FinishAction(nn.Module):
    """The action from whatever of `action`, a mean or scores was given."""

    def __init__(self, source: str, choose: nn.Module, shape: tuple[int, ...], *, discrete: bool) -> None:
        super().__init__()
        self.source, self.choose, self.shape, self.discrete = source, choose, shape, discrete

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        value = given[self.source]
        if self.source in SCORES:
            chosen: Tensor = self.choose(value)
            return chosen
        value = value.reshape(-1, *self.shape)
        if self.discrete:
            return value.to(torch.int64)
        clipped: Tensor = self.choose(value.to(torch.float32))
        return clipped


def describe(found: Any, head: Head, space: Any, *, rows: int, observed: Sequence[str]) -> Outputs:
    """What the contract makes of a module's answer.

    Args:
        found: What it gave: a tensor, or a dict of tensors.
        head: What was said about it.
        space: The action space.
        rows: How many observations it was asked.
        observed: Names of the observations, which no output may have.

    Raises:
        UsageError: It gives something else, or what does not fit the action space.
    """
    kind, action = action_of(space)
    given = _given(found, head, kind)
    named = {name: key for name, key in given.items() if name in OUTPUT_NAMES}
    source = _source(given, kind)
    values = {name: found if key == SINGLE else found[key] for name, key in given.items()}
    for name in named:
        _check_size(name, values[name], rows, action, kind, space)
    alone = source == "mean" and "log_std" not in named
    parameters = [name for name in PARAMETERS if name in named and not (name == "mean" and alone)]
    specs = [action, *(_parameter_spec(name, values[name], action) for name in parameters)]
    further = [name for name in given if name not in named]
    names = unique_names([given[name] for name in further], taken={*observed, *OUTPUT_NAMES}, prefix="out")
    specs += [_further_spec(name, values[key], rows) for name, key in zip(names, further, strict=True)]
    keys = named | {name: given[key] for name, key in zip(names, further, strict=True)}
    return Outputs(tuple(specs), keys, source, kind, _law(parameters, kind, space))


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
    raise UsageError(
        f"the module gives {shown}, from which no {kind.value} action follows",
        remedy=f"Give one of {', '.join(sources)}, or say which output is one: --head NAME=KIND.",
    )


def _check_size(name: str, value: Tensor, rows: int, action: TensorSpec, kind: ActionKind, space: Any) -> None:
    """Hold an output that the action depends on against the action space."""
    want = action.size
    if name in SCORES and kind is not ActionKind.CONTINUOUS:
        want = chooser(space, start=True)[1]
    per_row = int(np.prod(value.shape[1:])) if value.ndim else 0
    if name == "log_std" and value.numel() == action.size:
        return
    if value.ndim == 0 or value.shape[0] != rows or per_row != want:
        raise UsageError(
            f"the module's {name} has shape {tuple(value.shape)} for {rows} observations,"
            f" expected {want} values each for the action space {space}",
            remedy="Check head=, the action space, and that the module keeps the batch dimension first.",
        )


def _parameter_spec(name: str, value: Tensor, action: TensorSpec) -> TensorSpec:
    shape = tuple(value.shape[1:]) or (1,)
    return TensorSpec(name, "float32", shape if name in SCORES else action.shape)


def _further_spec(name: str, value: Tensor, rows: int) -> TensorSpec:
    dtype = str(value.dtype).removeprefix("torch.").replace("bfloat16", "float32")
    if dtype not in DTYPES or value.ndim == 0 or value.shape[0] != rows:
        raise UsageError(
            f"the module's {name} is {dtype}{list(value.shape)} for {rows} observations,"
            " expected numbers with one row for each",
            remedy="Return one row for each observation, or leave this output out.",
        )
    return TensorSpec(name, dtype, tuple(value.shape[1:]) or (1,))


def _law(parameters: Sequence[str], kind: ActionKind, space: Any) -> Distribution:
    if kind is ActionKind.CONTINUOUS:
        if {"mean", "log_std"} <= set(parameters):
            return Distribution(DistributionKind.GAUSSIAN, transform=Transform.CLIP)
        return Distribution()
    if "logits" not in parameters:
        return Distribution()
    match kind:
        case ActionKind.DISCRETE:
            return Distribution(DistributionKind.CATEGORICAL)
        case ActionKind.MULTI_DISCRETE:
            return Distribution(DistributionKind.MULTI_CATEGORICAL, nvec=tuple(int(n) for n in space.nvec))
        case _:
            return Distribution(DistributionKind.BERNOULLI)
