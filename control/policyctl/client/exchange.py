"""Decide what to ask a server and what its answers mean; no I/O happens here.

One question is a generator: it yields a `Call`, is sent the reply (or thrown
the error) and returns the `Action`. The blocking and the asyncio client drive
the same generator, so they cannot differ, and every order of events around a
promotion is tested without a server.

The law, which a promotion under load puts to the test: an action is read by
the contract of the release that answered. An answer that came from a release
of another contract is thrown away and the question asked again under the right
one, and so is a request that the server refused because the contract had moved.
Inference has no side effects, so asking again is safe; all of it happens
within the one deadline. Nothing else is ever tried twice: a late action is
worse than an error.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.client import sampling
from policyctl.client.action import Action, ServerTiming, TimingSource, needed_outputs, value_of
from policyctl.client.errors import NotServedError, RefusedError, UnknownReleaseError
from policyctl.client.observation import Observation, prepare
from policyctl.client.served import Memory, ModelConfig, Served
from policyctl.domain.contract import Contract
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import ServerError, UsageError

_ROUNDS = 3
_COUNTER_READINGS = 5


@dataclass(frozen=True, slots=True)
class FetchConfig:
    """Read the model's configuration, of one slot or of what is served."""

    slot: int | None = None


@dataclass(frozen=True, slots=True)
class FetchCounters:
    """Read the model's statistics for one slot."""

    slot: int


@dataclass(frozen=True, slots=True)
class Infer:
    """Ask for outputs by name; `inputs` have their batch dimension.

    Attributes:
        inputs: By name.
        outputs: Names.
        request_id: What the server calls it.
        specs: What the contract says of each output, in the order of `outputs`.
        traceparent: The trace that it belongs to; empty for none.
    """

    inputs: Mapping[str, NDArray[Any]]
    outputs: tuple[str, ...]
    request_id: str
    specs: tuple[TensorSpec, ...] = ()
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from `Infer`."""

    slot: int
    request_id: str
    outputs: Mapping[str, NDArray[Any]]
    parameters: Mapping[str, Any]
    round_trip_us: float


@dataclass(frozen=True, slots=True)
class Counters:
    """Triton's cumulative statistics of successful requests to one slot."""

    requests: int = 0
    queue_ns: int = 0
    compute_ns: int = 0


Call = FetchConfig | FetchCounters | Infer
Reply = ModelConfig | Counters | Answer


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that a caller says about one action, or one batch of them."""

    observation: Observation
    batched: bool
    request_id: str
    deterministic: bool = True
    seed: int | None = None
    check_bounds: bool = False
    timing: bool = False
    outputs: tuple[str, ...] = ()
    traceparent: str = ""


def exchange(model: str, memory: Memory, question: Question) -> Generator[Call, Any, Action]:
    """Ask `question` of `model`.

    Args:
        model: The Triton model, for messages.
        memory: What the client knows of it; learns more on the way.
        question: What is asked.

    Raises:
        UsageError: The observation does not fit the contract that is served.
        UnknownReleaseError: No release is known for the slot that answers.
        IncompatibleReleaseError: What is served, or answered, is not what the client requires.
        ServerError: Thrown in by whoever makes the calls, or an answer that
            is not what the contract says.
    """
    sampling.check_seed(question.seed)
    served = memory.current or (yield from learn(model, memory))
    for last in (round_ == _ROUNDS - 1 for round_ in range(_ROUNDS)):
        try:
            infer = _plan(served, question)
        except UsageError:
            # The caller may know of a newer contract than this client does.
            fresh = yield from learn(model, memory)
            if last or fresh.contract == served.contract:
                raise
            served = fresh
            continue
        before = yield from _counters_before(memory, served, question)
        try:
            answer: Answer = yield infer
        except RefusedError:
            fresh = yield from learn(model, memory)
            if last or fresh.contract == served.contract:
                raise
            served = fresh
            continue
        author = yield from _author(model, memory, answer)
        if author is not None and author.contract == served.contract:
            timing = yield from _server_timing(memory, question, before, answer)
            return _action(author, question, infer, answer, timing)
        served = yield from learn(model, memory)
    if author is None:
        raise UnknownReleaseError(
            f"{model}: slot {answer.slot} answered, and no release is known for it (known: {dict(served.releases)})",
            remedy="Do not act on it. Somebody changed what is served past policyctl: policyctl status",
        )
    raise ServerError(f"{model}: the contract changed {_ROUNDS} times while one question was asked")


def learn(model: str, memory: Memory, slot: int | None = None) -> Generator[Call, Any, Served]:
    """Ask what is served (or what `slot` is), and remember it.

    Raises:
        IncompatibleReleaseError: It is not what the client requires.
    """
    config: ModelConfig = yield FetchConfig(slot)
    served = Served.from_config(model, config)
    memory.remember(model, served)
    return served


def _author(model: str, memory: Memory, answer: Answer) -> Generator[Call, Any, Served | None]:
    """The release that wrote `answer`; None where that cannot be known."""
    named = answer.parameters.get("release")
    known = memory.of_slot(answer.slot)
    if known is not None and named in (None, known.release):
        return known
    try:
        served = yield from learn(model, memory, answer.slot)
    except NotServedError:
        # The slot answered and is gone already: another move came right after.
        return None
    agrees = served.releases.get(answer.slot) == served.release and named in (None, served.release)
    return served if agrees else None


def _plan(served: Served, question: Question) -> Infer:
    contract = served.contract
    inputs = prepare(contract, question.observation, batched=question.batched, check_bounds=question.check_bounds)
    rows = len(next(iter(inputs.values())))
    if served.max_batch and rows > served.max_batch:
        raise UsageError(
            f"a batch of {rows} observations, {served.release} is served with at most {served.max_batch}",
            remedy="Split the batch; two requests may be answered by two releases, see Action.release.",
        )
    wanted = [*needed_outputs(contract, deterministic=question.deterministic), *question.outputs]
    known = {spec.name for spec in contract.outputs}
    if unknown := [name for name in wanted if name not in known]:
        raise UsageError(
            f"output {', '.join(unknown)} is not in the contract of {served.release}",
            remedy=f"It has {', '.join(sorted(known))}.",
        )
    names = tuple(dict.fromkeys(wanted))
    return Infer(
        inputs, names, question.request_id, tuple(contract.output(name) for name in names), question.traceparent
    )


def _action(author: Served, question: Question, infer: Infer, answer: Answer, timing: ServerTiming | None) -> Action:
    rows = len(next(iter(infer.inputs.values())))
    if answer.request_id != infer.request_id:
        raise ServerError(
            f"request {infer.request_id} was answered with the answer to {answer.request_id or '(none)'}",
            remedy="Do not act on it. Look for a proxy or a shared connection that mixes answers up.",
        )
    _fits(author.contract, infer.outputs, answer.outputs, rows)
    value = value_of(
        author.contract,
        answer.outputs,
        deterministic=question.deterministic,
        seed=question.seed,
        batched=question.batched,
    )
    outputs = answer.outputs
    if not question.batched:
        outputs = {name: array[0] for name, array in outputs.items()}
    return Action(
        value=value,
        release=author.release,
        slot=answer.slot,
        request_id=answer.request_id,
        round_trip_us=answer.round_trip_us,
        outputs=outputs,
        server=timing,
    )


def _fits(contract: Contract, names: tuple[str, ...], outputs: Mapping[str, NDArray[Any]], rows: int) -> None:
    for name in names:
        spec, found = contract.output(name), outputs.get(name)
        if found is None or found.shape != (rows, *spec.shape) or found.dtype != np.dtype(spec.dtype):
            what = "nothing" if found is None else f"{found.dtype}{found.shape}"
            raise ServerError(
                f"output {name} is {what}, the contract says {spec.dtype}{(rows, *spec.shape)}",
                remedy="The server's files are not what was published: policyctl verify",
            )


def _counters_before(
    memory: Memory, served: Served, question: Question
) -> Generator[Call, Any, tuple[int, Counters] | None]:
    if not question.timing or memory.answers_tell_timing:
        return None
    slot = next((s for s, release in served.releases.items() if release == served.release), None)
    if slot is None:
        return None
    # Triton counts a request a moment after it has sent the answer, so the last
    # one may still be on its way into the counters: read until they rest.
    last: Counters | None = None
    try:
        for _ in range(_COUNTER_READINGS):
            counters: Counters = yield FetchCounters(slot)
            if counters == last:
                break
            last = counters
    except NotServedError:
        return None
    return slot, counters


def _server_timing(
    memory: Memory, question: Question, before: tuple[int, Counters] | None, answer: Answer
) -> Generator[Call, Any, ServerTiming | None]:
    if not question.timing:
        return None
    if (compute_us := answer.parameters.get("compute_us")) is not None:
        memory.answers_tell_timing = True
        queue_us = answer.parameters.get("queue_us")
        return ServerTiming(
            queue_us=None if queue_us is None else float(queue_us),
            compute_us=float(compute_us),
            requests=1,
            source=TimingSource.RESPONSE,
        )
    if before is None or before[0] != answer.slot:
        return None
    # For the same reason: look again until this one is counted.
    for _ in range(_COUNTER_READINGS):
        try:
            after: Counters = yield FetchCounters(answer.slot)
        except NotServedError:
            return None
        if timing := mean_between(before[1], after):
            return timing
    return None


def mean_between(before: Counters, after: Counters) -> ServerTiming | None:
    """Mean times of the requests that ended between two readings; None if none did."""
    requests = after.requests - before.requests
    if requests <= 0:
        return None
    return ServerTiming(
        queue_us=(after.queue_ns - before.queue_ns) / requests / 1e3,
        compute_us=(after.compute_ns - before.compute_ns) / requests / 1e3,
        requests=requests,
        source=TimingSource.STATISTICS,
    )
