"""Build the same graph from any torch module, live or TorchScript.

The module takes what the environment gives, as a batch: a tensor for a plain
space, a dict by key for a Dict space (or one argument a key, by its name, if
its `forward` takes several), discrete observations as integers of shape (n,).
It gives one tensor or a dict, of which `heads` makes the contract's
outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from policyctl.errors import UsageError
from policyctl_exporters.conduct import copied, examine
from policyctl_exporters.eager import EagerGraph
from policyctl_exporters.heads import OutputGraph, describe, finish_of
from policyctl_exporters.layers import Normalize
from policyctl_exporters.normalizer import FLAT, Normalizer, read_normalizer
from policyctl_exporters.observations import few
from policyctl_exporters.source import Options, Source
from policyctl_exporters.spaces import Observation, observations_of, pair, scales_of


class _Answer(nn.Module):
    """The module's answer as a dict by output name, from raw observations in contract order."""

    def __init__(self, module: nn.Module, observations: Sequence[Observation], normalizer: Normalizer | None) -> None:
        super().__init__()
        self.module = module
        self.keys = [obs.key for obs in observations]
        self.shapes = [tuple(obs.space.shape) for obs in observations]
        self.encoders = nn.ModuleList(_encoder(obs, normalizer, module) for obs in observations)
        self.arguments = _arguments(module, observations)

    def forward(self, *observations: Tensor) -> Any:
        inputs = [
            encode(x).reshape(-1, *shape)
            for encode, x, shape in zip(self.encoders, observations, self.shapes, strict=True)
        ]
        if self.keys == [FLAT]:
            found = self.module(*inputs)
        elif self.arguments:
            found = self.module(**dict(zip(self.arguments, inputs, strict=True)))
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


def open_module(module: nn.Module, options: Options, *, kind: str, notes: tuple[str, ...] = ()) -> Source:
    """A module as a source.

    Args:
        module: On the CPU, in evaluation mode.
        options: What the caller says. One tensor of which nothing is said is known by its
            type: floating scores of a discrete space are ``logits``, all else is the ``action``.

    Raises:
        UsageError: The module does not run on its observations, or what it
            gives does not fit the action space.
        UnsupportedError: It keeps state, draws random numbers, or uses values
            of observations in code that cannot be compiled.
    """
    spaces = {"observes": options.observation_space, "does": options.action_space}
    if missing := [verb for verb, space in spaces.items() if space is None]:
        raise UsageError(
            f"a torch module does not say what it {' and '.join(missing)}",
            remedy="Say it: --observation 12 --action 4:-1..1 (see --help), --spaces FILE or --env ID; in Python"
            " observation_space= and action_space=.",
        )
    normalizer, normalizer_file = read_normalizer(options.normalizer, trust_pickle=options.trust_pickle)
    observations = observations_of(
        options.observation_space, normalizer=normalizer, feature_names=options.feature_names
    )
    scales = scales_of(observations, normalizer)
    specs, name = tuple(obs.spec for obs in observations), name_of(module)
    answer = _Answer(module, observations, normalizer)
    rows = [torch.from_numpy(values) for values in few(specs, scales).values()]
    conduct = examine(answer, rows, name=name)
    count = 2 if conduct.batches else 1
    with torch.no_grad():
        found = copied(answer)(*(values[:count] for values in rows))
    space = options.action_space
    outputs = describe(found, options.head, space, rows=count, observed=[spec.name for spec in specs])
    eager, graph = (OutputGraph(part, outputs, finish_of(outputs.source, space)) for part in (answer, conduct.module))
    contract = outputs.contract(observations, batches=conduct.batches)
    return Source(
        kind=kind,
        algorithm=name,
        contract=contract,
        reference=EagerGraph(eager, contract),
        graph=graph,
        scales=scales,
        clip_obs=normalizer.clip_obs if normalizer else None,
        normalizer_file=normalizer_file,
        trust_operators=options.trust_operators,
        notes=(*notes, *conduct.notes),
    )


def _encoder(observation: Observation, normalizer: Normalizer | None, module: nn.Module) -> nn.Module:
    key = observation.key
    if normalizer is not None and key in normalizer.statistics:
        mean, std = normalizer.statistics[key].mean, normalizer.std(key)
        return Normalize(mean, std, normalizer.clip_obs)
    floating = (value.dtype for value in module.state_dict().values() if value.dtype.is_floating_point)
    return _Cast(next(floating, torch.float32))


def _arguments(module: nn.Module, observations: Sequence[Observation]) -> list[str]:
    """The argument of `forward` that takes each observation; empty where one argument takes them all as a dict."""
    keys = {obs.key for obs in observations}
    if isinstance(module, torch.jit.ScriptModule):
        schema: Any = module.forward.schema  # type: ignore[attr-defined]
        offered = {argument.name: argument.has_default_value() for argument in schema.arguments[1:]}
    else:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = inspect.signature(module.forward).parameters.values()
        offered = {p.name: p.default is not inspect.Parameter.empty for p in parameters if p.kind in kinds}
    names = [name for name, optional in offered.items() if not optional or name in keys]
    if len(names) < 2:
        return []
    paired = pair(observations, names, what=f"forward() of {name_of(module)}")
    by_key = {obs.key: name for obs, name in zip(paired, names, strict=True)}
    return [by_key[obs.key] for obs in observations]


def name_of(module: nn.Module) -> str:
    """The class that a module was written as, also where it is TorchScript now."""
    return str(getattr(module, "original_name", type(module).__name__))
