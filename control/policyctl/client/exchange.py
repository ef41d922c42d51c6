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

A question that fitted the contract by which this client was answered, and does
not fit the one that is served now, is not the mistake of its caller: it raises
`IncompatibleReleaseError`, which is a `ServerError` (`agreement` has the rule).
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from policyctl.client import sampling
from policyctl.client.action import Action, ServerTiming, value_of
from policyctl.client.agreement import incompatible, is_older
from policyctl.client.calls import GENERATION, RELEASE, Answer, Call, FetchConfig, Infer
from policyctl.client.course import completed
from policyctl.client.episode import Episode, FinishElsewhereError, joined
from policyctl.client.errors import IncompatibleReleaseError, NotServedError, RefusedError, UnknownReleaseError
from policyctl.client.form import Form
from policyctl.client.observation import Observation, prepare
from policyctl.client.served import Memory, ModelConfig, Served
from policyctl.client.timing import counters_before, server_timing
from policyctl.errors import ServerError, UsageError

_ROUNDS = 3
_IS_LAST_ROUND = tuple(number == _ROUNDS - 1 for number in range(_ROUNDS))


@dataclass(slots=True)
class Question:
    """Everything that a caller says about one action, or one batch of them.

    `episodes`, if the policy is asked within such, are one a row. `author` is the release that answered.
    """

    observation: Observation
    batched: bool
    request_id: str
    deterministic: bool = True
    seed: int | None = None
    check_bounds: bool = False
    timing: bool = False
    outputs: tuple[str, ...] = ()
    traceparent: str = ""
    episodes: Sequence[Episode[Any]] = ()
    author: Served | None = None


def exchange(model: str, memory: Memory, question: Question) -> Generator[Call, Any, Action]:
    """Ask `question` of `model`.

    Args:
        model: The Triton model, for messages.
        memory: What the client knows of it; learns more on the way.
        question: What is asked.

    Raises:
        UsageError: The observation does not fit the contract, and never did.
        UnknownReleaseError: No release is known for the slot that answers.
        IncompatibleReleaseError: The release that is served, or that answered, is not one that the client
            requires, or breaks the contract by which the client was answered before.
        StaleError: The answer is of an older generation of the alias than this client has seen.
        ServerError: Thrown in by what makes the calls, or an answer that
            is not what the contract says.
    """
    if question.seed is not None:
        sampling.check_seed(question.seed)
    served = memory.current or (yield from learn(model, memory))
    for last in _IS_LAST_ROUND:
        if question.episodes:
            served = yield from _followed(model, memory, question.episodes, served)
        try:
            form = served.form(deterministic=question.deterministic, outputs=question.outputs)
            infer = _plan(served, form, question)
            agrees = served is not memory.agreement.release and memory.agreement.admits(
                served, form.names, deterministic=question.deterministic, fits=functools.partial(_fits, question)
            )
        except (UsageError, IncompatibleReleaseError) as error:
            # What this client knows may be out of date: the caller may know better, or a rollback has ended it.
            fresh = yield from learn(model, memory)
            if not last and fresh.contract != served.contract:
                served = fresh
                continue
            before = memory.agreement.release
            if isinstance(error, UsageError) and before is not None and _fits(question, before):
                raise incompatible(before, served, error.problem) from error
            raise
        counters = (yield from counters_before(memory, served)) if question.timing else None
        seen, proven = memory.agreement.generation, memory.proven
        try:
            answer: Answer = yield infer
        except RefusedError:
            fresh = yield from learn(model, memory)
            if last or fresh.contract == served.contract:
                raise
            served = fresh
            continue
        # Not every backend names it: then the configuration does, which was read before the question.
        generation = answer.parameters.get(GENERATION, proven)
        is_late = generation != seen and is_older(generation, seen, final=last or GENERATION in answer.parameters)
        author = _known_author(memory, answer) or (yield from _author(model, memory, answer))
        # An answer that another release gave to a memory is thrown away.
        if (
            author is not None
            and not is_late
            and (author is served or author.contract == served.contract)
            and not (question.episodes and any(episode.has_left(author) for episode in question.episodes))
        ):
            timing = (yield from server_timing(memory, counters, answer)) if question.timing else None
            action = _action(author, form, question, infer, answer, timing)
            action.generation = generation
            memory.agreement.see(generation)
            if agrees:
                memory.agreement.replace(author)
            question.author = author
            return action
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


def _followed(
    model: str, memory: Memory, episodes: Sequence[Episode[Any]], served: Served
) -> Generator[Call, Any, Served]:
    """What is to be asked, where an episode began with another release than `served`.

    Raises:
        EpisodeInterruptedError: An episode cannot go on.
        FinishElsewhereError: One goes on under the number of the release that it began with.
    """
    if not any(episode.has_left(served) for episode in episodes):
        return served
    # What this client knows may be out of date, and an episode is not given up for that.
    fresh = yield from learn(model, memory)
    left = [episode for episode in episodes if episode.has_left(fresh)]
    for episode in left:
        episode.follow(model, fresh)
    if any(episode.own_model for episode in left):
        raise FinishElsewhereError(f"{model} serves {fresh.release} now")
    return fresh


def _known_author(memory: Memory, answer: Answer) -> Served | None:
    """The release that wrote `answer`, if that is known without asking."""
    known = memory.of_slot(answer.slot)
    return known if known is not None and answer.parameters.get(RELEASE) in (None, known.release) else None


def _author(model: str, memory: Memory, answer: Answer) -> Generator[Call, Any, Served | None]:
    """The release that wrote `answer`; None where that cannot be known."""
    named = answer.parameters.get(RELEASE)
    try:
        served = yield from learn(model, memory, answer.slot)
    except NotServedError:
        # The slot answered and is gone already: another move came right after.
        return None
    agrees = served.releases.get(answer.slot) == served.release and named in (None, served.release)
    return served if agrees else None


def _plan(served: Served, form: Form, question: Question) -> Infer:
    observation = question.observation
    if question.episodes and (form.needs_course or any(e.course.is_assisted for e in question.episodes)):
        courses = [episode.course for episode in question.episodes]
        observation = completed(courses, served.contract, observation, batched=question.batched)
    inputs = prepare(form.inputs, observation, batched=question.batched, check_bounds=question.check_bounds)
    if form.initial:
        if not question.episodes:
            raise UsageError(
                f"{served.release} remembers its episode ({', '.join(form.initial)}), and is asked within none",
                remedy="with client.episode() as episode: episode.act(observation)",
            )
        inputs |= joined(question.episodes, form, _rows(inputs))
    if question.batched and 0 < served.max_batch < (rows := _rows(inputs)):
        raise UsageError(
            f"a batch of {rows} observations, {served.release} is served with at most {served.max_batch}",
            remedy="Split the batch; two requests may be answered by two releases, see Action.release.",
        )
    return Infer(inputs, form.names, question.request_id, form.specs, question.traceparent, question.timing)


def _rows(inputs: Mapping[str, NDArray[Any]]) -> int:
    return len(next(iter(inputs.values())))


def _fits(question: Question, served: Served) -> bool:
    try:
        _plan(served, served.form(deterministic=question.deterministic, outputs=question.outputs), question)
    except UsageError:
        return False
    return True


def _action(
    author: Served, form: Form, question: Question, infer: Infer, answer: Answer, timing: ServerTiming | None
) -> Action:
    if answer.request_id != infer.request_id:
        raise ServerError(
            f"request {infer.request_id} was answered with the answer to {answer.request_id or '(none)'}",
            remedy="Do not act on it. Look for a proxy or a shared connection that mixes answers up.",
        )
    form.check(answer.outputs, _rows(infer.inputs) if question.batched else 1)
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
