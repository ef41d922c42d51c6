"""Build the same graph from any torch module, live or TorchScript.

The module takes what the environment gives, as a batch: a tensor for a plain
space, a dict by key for a Dict space (or one argument a key, by its name, if
its `forward` takes several), discrete observations as integers of shape (n,).
It gives one tensor, a dict, or a tuple, whose names are 0, 1 and so on; `heads`
makes the contract's outputs of that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from policyctl.errors import UsageError
from policyctl_exporters.conduct import copied, examine
from policyctl_exporters.eager import EagerGraph
from policyctl_exporters.heads import OutputGraph, Outputs, describe, finish_of
from policyctl_exporters.layers import Normalize
from policyctl_exporters.memory import memory_notes
from policyctl_exporters.normalizer import FLAT, Normalizer, read_normalizer
from policyctl_exporters.observations import few
from policyctl_exporters.program_memory import Memory, Remembering
from policyctl_exporters.source import Options, Source
from policyctl_exporters.spaces import OUTPUT_NAMES, Observation, observations_of, pair, scales_of
from policyctl_exporters.watch import Watch
from policyctl_exporters.whole_numbers import whole

_LISTS: Final = ("List[", "Tuple[", "(Tensor")
"""How TorchScript writes the type of an argument that holds several tensors by their places."""

_STEPS: Final = 20
"""What a program is left alone for, to see that its memory is all that it remembers."""


class _Answer(nn.Module):
    """The module's answer as a dict by output name, from raw observations in contract order."""

    def __init__(
        self,
        module: nn.Module,
        observations: Sequence[Observation],
        normalizer: Normalizer | None,
        arguments: Sequence[str] | None = None,
    ) -> None:
        """`module` takes its memory before the observations if it is a `Remembering`; here that comes after them.

        Args:
            arguments: What it calls its arguments, where it does not say so itself; see `_arguments`.
        """
        super().__init__()
        self.module = module
        self.keys = [obs.key for obs in observations]
        self.shapes = [tuple(obs.space.shape) for obs in observations]
        self.encoders = nn.ModuleList(_encoder(obs, normalizer, module) for obs in observations)
        self.arguments = _arguments(module, observations) if arguments is None else arguments

    def forward(self, *observations: Tensor) -> Any:
        states = observations[len(self.keys) :]
        inputs = [
            encode(x).reshape(-1, *shape)
            for encode, x, shape in zip(self.encoders, observations, self.shapes, strict=False)
        ]
        if self.keys == [FLAT]:
            found = self.module(*states, *inputs)
        elif self.arguments:
            found = self.module(*states, **dict(zip(self.arguments, inputs, strict=True)))
        else:
            found = self.module(*states, dict(zip(self.keys, inputs, strict=True)))
        if isinstance(self.module, Remembering):
            return _by_place(found[0]), found[1]
        return _by_place(found)


def _by_place(found: Any) -> Any:
    """A tuple as a dict: its tensors by their places. Of one tensor, as TorchScript that was exported here, that."""
    if not isinstance(found, tuple):
        return found
    tensors = {str(place): each for place, each in enumerate(tree_leaves(found)) if isinstance(each, Tensor)}
    return tensors if len(tensors) > 1 else next(iter(tensors.values()), found)


class _Cast(nn.Module):
    """Floating observations in the module's own precision; others as they are."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype) if x.dtype.is_floating_point else x


def open_program(memory: Memory, options: Options, *, kind: str = "torchscript", notes: tuple[str, ...] = ()) -> Source:
    """A program with memory as a source: for any number of rows if its memory has a batch somewhere."""
    for layout in memory.layouts():
        source = open_module(Remembering(layout), options, kind=kind, notes=notes, memory=layout)
        if source.contract.max_batch is None:
            break
    return source


def open_module(
    module: nn.Module,
    options: Options,
    *,
    kind: str,
    notes: tuple[str, ...] = (),
    memory: Memory | None = None,
    original: nn.Module | None = None,
) -> Source:
    """A module as a source.

    Args:
        module: On the CPU, in evaluation mode.
        memory: What it remembers, where it is a `Remembering`.
        original: What `module` was made from, where that is something else: it takes one row, and is the reference.
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
    states = memory.specs([spec.name for spec in specs]) if memory else ()
    specs += states
    answer = _Answer(module, observations, normalizer)
    rows = [torch.from_numpy(values) for values in few(specs, scales).values()]
    conduct = examine(answer, rows, name=name)
    space = options.action_space
    given = _Given(answer, rows, memory=len(states))
    constant = [name for name in given.constant() if name not in (*OUTPUT_NAMES, *options.head.named)]
    notes += tuple(f"output {name} is left out: it is the same for every observation" for name in constant)
    observed = [spec.name for spec in specs]

    def described(count: int) -> Outputs:
        found = given.of(slice(0, count), less=constant)
        return describe(found, options.head, space, rows=count, observed=observed, whole=given.is_whole)

    outputs, batches = _for_rows(described, batches=conduct.batches)

    def completed(part: nn.Module) -> OutputGraph:
        return OutputGraph(part, outputs, finish_of(outputs.source, space))

    contract = outputs.contract(observations, batches=batches)

    def unmodified(part: nn.Module) -> nn.Module:
        return completed(_Answer(part, observations, normalizer, answer.arguments))

    reference = EagerGraph(completed(answer), contract)
    if original is not None:
        reference = EagerGraph(unmodified(original), replace(contract, max_batch=1))
    if memory:
        forgetful, contract = contract, memory.within(contract, states)
        remembering = unmodified(Remembering(memory, unmodified=True))
        reference = EagerGraph(remembering, replace(contract, max_batch=1))
        memory.prove(
            contract,
            reference,
            lambda program: EagerGraph(unmodified(program), forgetful),
            few(specs[: len(observations)], scales, rows=_STEPS),
            few(specs, scales, rows=_STEPS),
        )
        notes += memory_notes(contract)
    return Source(
        kind=kind,
        algorithm=name,
        contract=contract,
        reference=reference,
        graph=completed(conduct.module),
        scales=scales,
        clip_obs=normalizer.clip_obs if normalizer else None,
        normalizer_file=normalizer_file,
        trust_operators=options.trust_operators,
        notes=(*notes, *conduct.notes),
    )


def _for_rows(described: Callable[[int], Outputs], *, batches: bool) -> tuple[Outputs, bool]:
    """What the contract makes of a module's answers, and whether one inference may have any number of rows.

    Args:
        described: What it makes of the answer to so many rows.
        batches: Whether the module itself takes any number.
    """
    if not batches:
        return described(1), False
    try:
        outputs = described(2)
    except UsageError as refusal:
        # A program written for one row may fail on two, or give one row for them.
        try:
            return described(1), False
        except UsageError:
            raise refusal from None
    # What gives two values to one row may seem to give one value to each of two.
    described(1)
    return outputs, True


class _Given:
    """What a module gives for rows, without what it remembers.

    Args:
        rows: What it takes, memory last.
        memory: How many of them are memory.
    """

    def __init__(self, answer: nn.Module, rows: Sequence[Tensor], *, memory: int) -> None:
        self._answer, self._rows, self._memory = answer, rows, memory

    def of(self, part: slice, *, less: Sequence[str] = ()) -> Any:
        """For some of the rows, without the outputs that `less` names."""
        return self._asked([values[part] for values in self._rows], less)

    def _asked(self, rows: Sequence[Tensor], less: Sequence[str] = ()) -> Any:
        with torch.no_grad():
            found = copied(self._answer)(*rows)
        found = found[0] if self._memory else found
        return {name: each for name, each in found.items() if name not in less} if isinstance(found, dict) else found

    def is_whole(self, key: str) -> bool:
        """Whether an output is made of whole numbers, whatever is observed."""

        def chosen(found: Any) -> Any:
            found = found[0] if self._memory else found
            return found[key] if isinstance(found, dict) else found

        return whole(copied(self._answer), [values[:1] for values in self._rows], chosen)

    def constant(self) -> list[str]:
        """Names of outputs that depend on nothing, as a spread that a module gives next to its action.

        That all rows give one value is not enough: a warning is False on most of them.
        """
        first = self.of(slice(0, 1))
        if not (isinstance(first, dict) and all(isinstance(value, Tensor) for value in first.values())):
            return []
        watch = Watch(copied(self._answer))
        found = watch.ask([values[:1] for values in self._rows])
        # Behind a branch a value follows from what the branch read.
        if watch.reads or watch.branches:
            return []
        found = found[0] if self._memory else found
        # With the memory of the first row: the program may fail with any other.
        observed = len(self._rows) - self._memory
        memory = [values[:1] for values in self._rows[observed:]]
        count = len(self._rows[0])
        others = [self._asked([v[at : at + 1] for v in self._rows[:observed]] + memory) for at in range(1, count)]
        free = [name for name in first if not watch.marked(found[name])]
        return [name for name in free if all(torch.equal(first[name], other[name]) for other in others)]


def _encoder(observation: Observation, normalizer: Normalizer | None, module: nn.Module) -> nn.Module:
    key = observation.key
    if normalizer is not None and key in normalizer.statistics:
        mean, std = normalizer.statistics[key].mean, normalizer.std(key)
        return Normalize(mean, std, normalizer.clip_obs)
    # Statistics of observations lie in buffers, and often in float64 where all weights are float32.
    held = (*module.parameters(), *module.buffers())
    return _Cast(next((value.dtype for value in held if value.dtype.is_floating_point), torch.float32))


def _arguments(module: nn.Module, observations: Sequence[Observation]) -> list[str]:
    """The argument of `forward` that takes each observation; empty where one argument takes them all as a dict."""
    keys = {obs.key for obs in observations}
    module = module.program if isinstance(module, Remembering) else module
    if isinstance(module, torch.jit.ScriptModule):
        schema: Any = module.forward.schema  # type: ignore[attr-defined]
        offered = {argument.name: argument.has_default_value() for argument in schema.arguments[1:]}
        kinds = {str(argument.type) for argument in schema.arguments[1:] if not argument.has_default_value()}
        if listed := [kind for kind in sorted(kinds) if kind.startswith(_LISTS)]:
            raise UsageError(
                f"forward() of {name_of(module)} takes {listed[0]}, whose tensors have no names",
                remedy="Give it one argument for each observation, or a dict, and script it again.",
            )
        if keys == {*offered} and all(str(argument.type) == "Tensor" for argument in schema.arguments[1:]):
            return [observation.key for observation in observations]
    else:
        ways = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = inspect.signature(module.forward).parameters.values()
        offered = {p.name: p.default is not inspect.Parameter.empty for p in parameters if p.kind in ways}
    names = [name for name, optional in offered.items() if not optional or name in keys]
    if len(names) < 2:
        return []
    paired = pair(observations, names, what=f"forward() of {name_of(module)}")
    by_key = {obs.key: name for obs, name in zip(paired, names, strict=True)}
    return [by_key[obs.key] for obs in observations]


def name_of(module: nn.Module) -> str:
    """The class that a module was written as, also where it is TorchScript now."""
    return str(getattr(module, "original_name", type(module).__name__))
