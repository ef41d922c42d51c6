"""One turn of one or several episodes: ask the release of each, and let all go on together or none.

Where the alias has moved, the rows of a batch may have begun with different
releases. Each release is then asked for its own rows.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.client.action import Action
from policyctl.client.calls import Call
from policyctl.client.episode import FinishElsewhereError, finishing
from policyctl.client.exchange import Question, exchange
from policyctl.client.observation import Observation
from policyctl.client.served import Memory

_Part = tuple[list[int], Question, Action]


def turn(model: str, memory: Memory, question: Question) -> Generator[Call, Any, Action]:
    """Ask `question` within its episodes. What they remember changes only once every row has its action.

    Raises:
        EpisodeInterruptedError: An episode began with a release that does not answer any more.
        PolicyctlError: See `exchange`.
    """
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
    return parts[0][2] if len(parts) == 1 else _merged(parts)


def _ask(model: str, memory: Memory, question: Question) -> Generator[Call, Any, list[_Part]]:
    groups: dict[str, list[int]] = {}
    for row, episode in enumerate(question.episodes):
        groups.setdefault(episode.own_model, []).append(row)
    parts = []
    # Those of the alias first: only they can find out that they have to go elsewhere.
    for number, (own_model, rows) in enumerate(sorted(groups.items())):
        part = question if len(groups) == 1 else _part(question, rows, number)
        if own_model:
            known = part.episodes[0].own_memory
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


def _rows_of(observation: Observation, rows: list[int]) -> Observation:
    if isinstance(observation, Mapping):
        return {name: np.asarray(array)[rows] for name, array in observation.items()}
    taken: NDArray[Any] = np.asarray(observation)[rows]
    return taken


def _merged(parts: Sequence[_Part]) -> Action:
    """One action of all rows, in their order; release and slot are those of the alias."""
    order = np.argsort(np.concatenate([rows for rows, _, _ in parts]))
    first = parts[0][2]

    def joined(arrays: list[Any]) -> NDArray[Any]:
        whole: NDArray[Any] = np.concatenate(arrays)[order]
        return whole

    common = [name for name in first.outputs if all(name in action.outputs for _, _, action in parts)]
    releases = np.concatenate([[action.release] * len(rows) for rows, _, action in parts])[order]
    return replace(
        first,
        value=joined([action.value for _, _, action in parts]),
        outputs={
            name: joined([action.outputs[name] for _, _, action in parts])
            for name in common
            if len({action.outputs[name].shape[1:] for _, _, action in parts}) == 1
        },
        releases=tuple(map(str, releases)),
        round_trip_us=sum(action.round_trip_us for _, _, action in parts),
    )
