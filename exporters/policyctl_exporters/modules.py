"""Build the same graph from any torch module, live or TorchScript.

The module takes what the environment gives, as a batch: a tensor for a plain
space, a dict by key for a Dict space (or one positional argument an
observation, if its `forward` has as many), discrete observations as integers
of shape (n,). It gives either a dict named as the contract's outputs, or one
tensor that `head` explains.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from policyctl.domain.contract import ActionKind, Contract, Distribution, DistributionKind, Transform
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError
from policyctl_exporters.heads import chooser, clip_to
from policyctl_exporters.layers import Normalize
from policyctl_exporters.normalizer import FLAT, Normalizer
from policyctl_exporters.spaces import OUTPUT_NAMES, Observation, action_of

HEADS: Final = ("action", "logits", "q_values", "mean")


class _Answer(nn.Module):
    """The module's answer as a dict by output name, from raw observations in contract order."""

    def __init__(self, module: nn.Module, observations: Sequence[Observation], normalizer: Normalizer | None) -> None:
        super().__init__()
        self.module = module
        self.keys = [obs.key for obs in observations]
        self.shapes = [tuple(obs.space.shape) for obs in observations]
        self.encoders = nn.ModuleList(_encoder(obs, normalizer, module) for obs in observations)
        self.positional = len(self.keys) > 1 and _positional_arguments(module) == len(self.keys)

    def forward(self, *observations: Tensor) -> Any:
        inputs = [
            encode(x).reshape(-1, *shape)
            for encode, x, shape in zip(self.encoders, observations, self.shapes, strict=True)
        ]
        if self.keys == [FLAT] or self.positional:
            found = self.module(*inputs)
        else:
            found = self.module(dict(zip(self.keys, inputs, strict=True)))
        # TorchScript that was exported here gives a tuple, also of one output.
        return found[0] if isinstance(found, tuple) and len(found) == 1 else found


class _Cast(nn.Module):
    """Floating observations in the module's own precision; others as they are."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype) if x.dtype.is_floating_point else x


class ModuleGraph(nn.Module):
    """A module's answer, completed to all outputs of the contract."""

    def __init__(self, answer: nn.Module, head: str | None, names: Sequence[str], finish: nn.Module) -> None:
        super().__init__()
        self.answer, self.head, self.names, self.finish = answer, head, list(names), finish

    def forward(self, *observations: Tensor) -> tuple[Tensor, ...]:
        """One tensor of shape (n, *spec.shape) for each observation."""
        found = self.answer(*observations)
        given: dict[str, Tensor] = found if self.head is None else {self.head: found}
        outputs = [self.finish(given)]
        for name in self.names[1:]:
            value = given[name].to(torch.float32)
            if name == "log_std":
                # One spread for all observations is expanded to the batch.
                value = value + torch.zeros_like(given["mean"].to(torch.float32))
            outputs.append(value)
        return tuple(outputs)


class _FinishAction(nn.Module):
    """The action from whatever of `action`, a mean or scores was given."""

    def __init__(self, source: str, choose: nn.Module, shape: tuple[int, ...], *, discrete: bool) -> None:
        super().__init__()
        self.source, self.choose, self.shape, self.discrete = source, choose, shape, discrete

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        value = given[self.source]
        if self.source in ("logits", "q_values"):
            chosen: Tensor = self.choose(value)
            return chosen
        value = value.reshape(-1, *self.shape)
        if self.discrete:
            return value.to(torch.int64)
        clipped: Tensor = self.choose(value.to(torch.float32))
        return clipped


def build_module_graph(
    module: nn.Module,
    observations: Sequence[Observation],
    action_space: Any,
    *,
    normalizer: Normalizer | None,
    head: str | None,
) -> tuple[ModuleGraph, Contract]:
    """The graph of a module, and its contract.

    Args:
        module: On the CPU, in evaluation mode.
        observations: Its inputs.
        action_space: What the environment takes.
        normalizer: Applied before the module, where it has statistics.
        head: What its one tensor is, one of `HEADS`; None to tell by its
            type: floating scores of a discrete space are ``logits``, all else is the ``action``.

    Raises:
        UsageError: The module does not run on its observations, or what it
            gives does not fit the action space.
    """
    answer = _Answer(module, observations, normalizer)
    found = _probe(answer, observations)
    kind, action = action_of(action_space)
    if isinstance(found, Mapping):
        head, given = None, {str(name): value for name, value in found.items()}
    else:
        head = _resolve_head(head, found, kind)
        given = {head: found}
    source = _check_outputs(given, kind, action, action_space)
    discrete = kind is not ActionKind.CONTINUOUS
    choose = chooser(action_space, start=True)[0] if discrete else clip_to(action_space)
    finish = _FinishAction(source, choose, action.shape, discrete=discrete)
    outputs, distribution = _describe(given, kind, action, action_space)
    graph = ModuleGraph(answer, head, [spec.name for spec in outputs], finish)
    graph.eval()
    graph.requires_grad_(requires_grad=False)
    specs = tuple(obs.spec for obs in observations)
    return graph, Contract(specs, outputs, action_kind=kind, distribution=distribution)


def _describe(
    given: Mapping[str, Tensor], kind: ActionKind, action: TensorSpec, space: Any
) -> tuple[tuple[TensorSpec, ...], Distribution]:
    if {"mean", "log_std"} <= given.keys():
        extra = tuple(TensorSpec(name, "float32", action.shape) for name in ("mean", "log_std"))
        return (action, *extra), Distribution(DistributionKind.GAUSSIAN, transform=Transform.CLIP)
    for name in ("logits", "q_values"):
        if name not in given:
            continue
        scores = TensorSpec(name, "float32", tuple(given[name].shape[1:]))
        if name == "q_values":
            return (action, scores), Distribution()
        match kind:
            case ActionKind.DISCRETE:
                law = Distribution(DistributionKind.CATEGORICAL)
            case ActionKind.MULTI_DISCRETE:
                nvec = tuple(int(n) for n in space.nvec)
                law = Distribution(DistributionKind.MULTI_CATEGORICAL, nvec=nvec)
            case _:
                law = Distribution(DistributionKind.BERNOULLI)
        return (action, scores), law
    return (action,), Distribution()


def _check_outputs(given: Mapping[str, Tensor], kind: ActionKind, action: TensorSpec, space: Any) -> str:
    """Hold what the module gives against the action space; return what the action is made of."""
    if unknown := given.keys() - set(OUTPUT_NAMES):
        raise UsageError(
            f"the module gives {', '.join(sorted(unknown))}, which no contract has",
            remedy=f"Name its outputs {', '.join(OUTPUT_NAMES)}.",
        )
    sources = ("action", "mean") if kind is ActionKind.CONTINUOUS else ("action", "logits", "q_values")
    source = next((name for name in sources if name in given), None)
    if source is None:
        raise UsageError(
            f"the module gives {', '.join(sorted(given))}, from which no {kind.value} action follows",
            remedy=f"Give one of {', '.join(sources)}.",
        )
    size = {"logits": 0, "q_values": 0}
    if kind is not ActionKind.CONTINUOUS:
        count = chooser(space, start=True)[1]
        size = dict.fromkeys(size, count)
    for name, value in given.items():
        want = size.get(name, action.size)
        per_row = int(np.prod(value.shape[1:])) if value.ndim else 0
        if name == "log_std" and value.numel() == action.size:
            continue
        if value.ndim == 0 or value.shape[0] != 2 or per_row != want:
            raise UsageError(
                f"the module's {name} has shape {tuple(value.shape)} for 2 observations,"
                f" expected {want} values each for the action space {space}",
                remedy="Check head=, the action space, and that the module keeps the batch dimension first.",
            )
    return source


def _resolve_head(head: str | None, found: Tensor, kind: ActionKind) -> str:
    if head is not None and head not in HEADS:
        raise UsageError(f"head {head!r} is not known", remedy=f"Use one of {', '.join(HEADS)}.")
    if head is not None:
        return head
    return "logits" if kind is not ActionKind.CONTINUOUS and found.dtype.is_floating_point else "action"


def _probe(answer: _Answer, observations: Sequence[Observation]) -> Any:
    zeros = [torch.zeros(2, *obs.spec.shape, dtype=torch_dtype(obs.spec.dtype)) for obs in observations]
    try:
        with torch.no_grad():
            found = answer(*zeros)
    # Whatever the module's own code raises on its first observation.
    except Exception as error:
        raise UsageError(
            f"the module fails on 2 observations of zeros: {type(error).__name__}: {_last_line(error)}",
            remedy="Check observation_space, and that the module takes a batch in its first dimension.",
        ) from error
    values = found.values() if isinstance(found, Mapping) else [found]
    if not all(isinstance(value, Tensor) for value in values):
        raise UsageError(
            f"the module gives {type(found).__name__}, expected one tensor or a dict of tensors",
            remedy=f"Return one tensor, or a dict with keys out of {', '.join(OUTPUT_NAMES)}.",
        )
    return found


def _last_line(error: Exception) -> str:
    """TorchScript puts its whole trace into the message; what went wrong is its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of a NumPy dtype name."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _encoder(observation: Observation, normalizer: Normalizer | None, module: nn.Module) -> nn.Module:
    key = observation.key
    if normalizer is not None and key in normalizer.statistics:
        mean, std = normalizer.statistics[key].mean, normalizer.std(key)
        return Normalize(mean, std, normalizer.clip_obs)
    floating = (value.dtype for value in module.state_dict().values() if value.dtype.is_floating_point)
    return _Cast(next(floating, torch.float32))


def _positional_arguments(module: nn.Module) -> int:
    if isinstance(module, torch.jit.ScriptModule):
        schema: Any = module.forward.schema  # type: ignore[attr-defined]
        return len(schema.arguments) - 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)
