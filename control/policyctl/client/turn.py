"""One turn of one or several episodes: ask the release of each, and let all go on together or none.

Where the alias has moved, the rows of a batch may have begun with different
releases. Each release is then asked for its own rows. Rows that still have an action of an
earlier answer are not asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.client.action import Action
from policyctl.client.calls import Begin, Call, Step, Wait
from policyctl.client.course import Pending
from policyctl.client.episode import Episode, FinishElsewhereError, finishing
from policyctl.client.errors import DeadlineError, NotServedError, OverloadedError, StaleError, UnreachableError
from policyctl.client.exchange import Question, exchange
from policyctl.client.observation import Observation
from policyctl.client.served import Memory
from policyctl.errors import UsageError

NO_ANSWER = (DeadlineError, UnreachableError, NotServedError, OverloadedError, StaleError)
"""Errors that a fallback stands in for: all others say that something is wrong with the question or the answer."""

_Part = tuple[list[int], Question, Action]
Ask = Callable[[Callable[[Memory], Generator[Call, Any, Any]]], Generator[Any, Any, Any]]


def turn(model: str, ask: Ask, question: Question) -> Generator[Any, Any, Action]:
    """Ask `question` within its episodes. What they remember changes only once every row has its action.

    Args:
        ask: Puts the steps of a question to a server that answers.

    Raises:
        EpisodeInterruptedError: An episode began with a release that does not answer any more.
        UsageError: The options of an episode do not go with the policy.
        PolicyctlError: See `exchange`.
    """
    courses = [episode.course for episode in question.episodes]
    if question.batched:
        _require_rows(question)
    if any(course.is_assisted for course in courses):
        actions = yield from _assisted(model, ask, question)
    else:
        parts = yield from ask(lambda memory: _answered(model, memory, question))
        if not any(course.is_assisted for course in courses):
            return parts[0][2] if len(parts) == 1 else _stacked(_in_order(parts))
        actions = _accepted(question.episodes, parts)  # the contract says so, which was unknown
    for row, course in enumerate(courses):
        course.advance(_row(question, row), actions[row])
    return _stacked(actions) if question.batched else actions[0]


def _require_rows(question: Question) -> None:
    """Raises: UsageError: Not one episode a row."""
    observation = question.observation
    arrays = observation.values() if isinstance(observation, Mapping) else [observation]
    counts = {np.shape(array)[0] if np.ndim(array) else 1 for array in arrays}
    if counts != {len(question.episodes)}:
        rows = ", ".join(map(str, sorted(counts)))
        raise UsageError(
            f"{rows} observations and {len(question.episodes)} episodes",
            remedy="Give one episode for each row of the batch.",
        )


def _assisted(model: str, ask: Ask, question: Question) -> Generator[Any, Any, list[Action]]:
    """The action of each row: of an answer, of an earlier one, or what stands in."""
    episodes = question.episodes
    for row, episode in enumerate(episodes):
        if question.batched and episode.course.options.ahead_steps:
            raise UsageError("ahead_steps goes with one observation at a time", remedy="Use act, or leave it out.")
        episode.course.check(_row(question, row))
    for episode in episodes:
        yield from _collected(episode)
    due = [row for row, episode in enumerate(episodes) if episode.course.must_ask]
    answers: dict[int, Action] = {}
    if due:
        part = question if len(due) == len(episodes) else _part(question, due, 0)
        try:
            parts = yield from ask(lambda memory: _answered(model, memory, part))
        except NO_ANSWER as error:
            answers = {row: episodes[row].course.without_answer(error, question.request_id) for row in due}
        else:
            answers = dict(zip(due, _accepted(part.episodes, parts), strict=True))
    for episode in episodes:
        if episode.course.may_ask_ahead:
            yield from _ask_ahead(model, ask, question, episode)
    return [answers[row] if row in answers else episode.course.from_queue() for row, episode in enumerate(episodes)]


def _ask_ahead(model: str, ask: Ask, question: Question, episode: Episode[Any]) -> Generator[Step, Any, None]:
    """Send the question about this step, and go on; it has until its answer is needed, and the deadline of one act."""
    course = episode.course
    chunk = None if course.author is None else course.author.contract.chunk
    interval_s = 0.0 if chunk is None or chunk.interval_s is None else chunk.interval_s
    twin = episode.twin()
    # A copy, because the caller's array may hold the next step by the time that it is sent.
    later = replace(question, observation=_copied(question.observation), episodes=(twin,))
    steps = ask(lambda memory: _answered(model, memory, later))
    task = yield Begin(steps, course.options.ahead_steps * interval_s)
    course.pending = Pending(task, twin, course.queue.step)


def _collected(episode: Episode[Any]) -> Generator[Step, Any, None]:
    """Take the answer to a question that was sent ahead, if it came, or if nothing else is left to do."""
    course = episode.course
    pending = course.pending
    if pending is None or not (pending.task.done() or course.queue.is_empty):
        return
    try:
        ((_, question, answer),) = yield Wait(pending.task)
    except NO_ANSWER:
        if pending.task.done():
            course.pending = None  # it is asked again
        return
    except BaseException:
        if pending.task.done():  # else the caller gave up waiting, and may come back for it
            course.pending = None
        raise
    course.pending = None
    episode.adopt(pending.episode)
    course.meet(question.author)
    course.queue.put(question.author.contract.chunk, pending.first, answer.value, answer)


def _answered(model: str, memory: Memory, question: Question) -> Generator[Call, Any, list[_Part]]:
    """Ask of each release its own rows, and let the episodes remember."""
    while True:
        try:
            parts = yield from _ask(model, memory, question)
            break
        except FinishElsewhereError:
            continue  # fewer episodes ask the alias each time
    for rows, part, action in parts:
        outputs = action.outputs if question.batched else {n: a[None] for n, a in action.outputs.items()}
        for at, row in enumerate(rows):
            if part.author is not None:
                question.episodes[row].keep(part.author, outputs, at)
    return parts


def _ask(model: str, memory: Memory, question: Question) -> Generator[Call, Any, list[_Part]]:
    groups: dict[str, list[int]] = {}
    for row, episode in enumerate(question.episodes):
        groups.setdefault(episode.own_model, []).append(row)
    parts = []
    # Those of the alias first: only they can find out that they have to go elsewhere.
    for number, (own_model, rows) in enumerate(sorted(groups.items())):
        part = question if len(groups) == 1 else _part(question, rows, number)
        if own_model:
            known = part.episodes[0].own_memories.setdefault(memory, Memory())
            by_alias = exchange(model, memory, part)
            action = yield from finishing(part.episodes, own_model, exchange(own_model, known, part), by_alias)
        else:
            action = yield from exchange(model, memory, part)
        parts.append((rows, part, action))
    return parts


def _part(question: Question, rows: list[int], number: int) -> Question:
    return replace(
        question,
        observation=_rows_of(question.observation, rows),
        episodes=[question.episodes[row] for row in rows],
        request_id=f"{question.request_id}-{number}" if number else question.request_id,
        seed=None if question.seed is None else question.seed + number,
    )


def _rows_of(observation: Observation, rows: list[int] | int) -> Observation:
    if isinstance(observation, Mapping):
        return {name: np.asarray(array)[rows] for name, array in observation.items()}
    taken: NDArray[Any] = np.asarray(observation)[rows]
    return taken


def _row(question: Question, row: int) -> Observation:
    """The observation of one row."""
    return _rows_of(question.observation, row) if question.batched else question.observation


def _copied(observation: Observation) -> Observation:
    if isinstance(observation, Mapping):
        return {name: np.array(array) for name, array in observation.items()}
    return np.array(observation)


def _accepted(episodes: Sequence[Episode[Any]], parts: Sequence[_Part]) -> list[Action]:
    """The action of each row for this step, of answers to its observation."""
    authors = {row: part.author for rows, part, _ in parts for row in rows}
    return [
        episodes[row].course.accept(author.contract, action)
        for row, action in enumerate(_in_order(parts))
        if (author := authors[row]) is not None
    ]


def _in_order(parts: Sequence[_Part]) -> list[Action]:
    """The action of each row."""
    actions: dict[int, Action] = {}
    for rows, part, action in parts:
        for at, row in enumerate(rows):
            outputs = {name: values[at] for name, values in action.outputs.items()} if part.batched else action.outputs
            value = np.asarray(action.value)[at] if part.batched else action.value
            actions[row] = replace(action, value=value, outputs=outputs)
    return [actions[row] for row in sorted(actions)]


def _stacked(rows: Sequence[Action]) -> Action:
    """One action of all rows; release and slot are those of the first."""
    first, fallbacks = rows[0], tuple(action.fallback for action in rows)
    releases = tuple(action.release for action in rows)
    shared = [
        name
        for name, values in first.outputs.items()
        if all(name in action.outputs and action.outputs[name].shape == values.shape for action in rows)
    ]
    return replace(
        first,
        value=np.stack([np.asarray(action.value) for action in rows]),
        outputs={name: np.stack([action.outputs[name] for action in rows]) for name in shared},
        releases=releases if len(set(releases)) > 1 else (),
        round_trip_us=sum({action.request_id: action.round_trip_us for action in rows}.values()),
        fallback=next(filter(None, fallbacks), ""),
        fallbacks=fallbacks if any(fallbacks) else (),
        blended_from=next((action.blended_from for action in rows if action.blended_from), ""),
    )
