"""A policy with memory, asked step by step: each step gets what the last one gave."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from policyctl.domain.contract import Contract
from policyctl.domain.memory import initial_states
from policyctl_exporters.observations import Batch, join, nudged, take

_STEPS = 50


def episode(answer: Callable[[Batch], Batch], contract: Contract, observations: Batch) -> tuple[Batch, Batch]:
    """Play one episode.

    Args:
        answer: A policy with `contract`, from inputs to all outputs.
        contract: Says what is remembered.
        observations: What the environment gives at each step, by name, each of shape (steps, *shape).

    Returns:
        Every input of each step, memory included, and every output; by name, each of shape (steps, *shape).
    """
    memory: Batch = dict(initial_states(contract))
    inputs, outputs = [], []
    for step in range(len(next(iter(observations.values())))):
        inputs.append(take(observations, slice(step, step + 1)) | memory)
        outputs.append(answer(inputs[-1]))
        memory = {state.input: outputs[-1][state.output] for state in contract.states}
    return join(*inputs), join(*outputs)


def begun(rows: Batch, contract: Contract) -> Batch:
    """Rows of what the environment gives, each with the memory that an episode begins with."""
    count = len(next(iter(rows.values())))
    return rows | {name: np.repeat(array, count, axis=0) for name, array in initial_states(contract).items()}


def memory_notes(contract: Contract) -> tuple[str, ...]:
    """What a person should know about it."""
    return tuple(
        f"{s.output} continues {s.input}: memory, which begins {'as in the file' if s.initial else 'with zeros'}"
        for s in contract.states
    )


def steps_of(drawn: Batch, contract: Contract) -> Batch:
    """What the environment gives, of rows that hold every input; `_STEPS` at most."""
    return {spec.name: drawn[spec.name][:_STEPS] for spec in contract.environment}


def drift(answer: Callable[[Batch], Batch], contract: Contract, observations: Batch, outputs: Batch) -> float:
    """How far an episode moves where observations differ in their last digits, as runtimes differ.

    Source: the same idea as `eager.Graph.sensitivity`, over time instead of layers.
    """
    _, moved = episode(answer, contract, nudged(observations, np.random.default_rng(0)))
    largest = 0.0
    for name, array in outputs.items():
        if array.dtype.kind == "f":
            both = np.isfinite(array) & np.isfinite(moved[name])
            largest = max(largest, float(np.abs(moved[name][both] - array[both]).max(initial=0.0)))
    return largest
