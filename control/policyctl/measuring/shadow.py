"""What a candidate does on recorded observations, compared with what was done then.

Differences of continuous actions are relative to the range of each component:
its bounds, or where it has none the range that was recorded. Everything stays
open loop: the candidate's actions had no effect on what was observed next.

Consecutive observations resemble one another, so intervals come from resampling
blocks of consecutive requests, never single rows, and each is widened by 3/n,
which is what n requests without one exception can still hide.

Source:
    Blocks: Kuensch (1989), Annals of Statistics 17, 1217-1241. 3/n: Hanley &
    Lippman-Hand (1983), JAMA 249, 1743-1745.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain import actions
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.intervals import Interval, mean_with_interval
from policyctl.domain.parity import Tolerance, near_ties
from policyctl.domain.recording import Recording

Arrays = Mapping[str, NDArray[Any]]

BLOCKS: Final = 50
_TIE: Final = Tolerance(tie=1e-3)
"""Observations come rounded to six digits, so scores may move a little more than between two backends."""


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """One figure of both, and how much larger the candidate's is.

    Attributes:
        recorded: None where the recording has no actions.
        rise: Candidate minus recorded, with its interval.
    """

    recorded: float | None
    candidate: float
    rise: Interval | None


@dataclass(frozen=True, slots=True)
class Shadow:
    """A candidate on a recording.

    Attributes:
        requests: In how many requests they came.
        within: Continuous actions closer than this share of the range agree.
        agreement: Share of rows where it acts as was acted; a near-tie agrees. None without recorded actions.
        near_ties: Rows that differ where the candidate scores both choices alike (discrete).
        largest: Largest difference of a component, as a share of its range (continuous).
        saturation: Share of components at a bound (continuous with bounds).
        pairs: Rows whose next step is known.
        roughness: Mean change from one step to the next: a share of the range
            (continuous), or the share of steps that change the choice.
    """

    rows: int
    requests: int
    within: float
    agreement: Interval | None
    near_ties: int
    largest: float | None
    mean: float | None
    saturation: ComparedFigure | None
    pairs: int
    roughness: ComparedFigure | None


def wanted_outputs(contract: Contract) -> tuple[str, ...]:
    """What to ask a candidate for: the action, and the scores by which a near-tie is known."""
    scores = tuple(s.name for s in contract.outputs if s.name in {"logits", "q_values"})
    return (contract.action.name, *scores)


def shadow(contract: Contract, recording: Recording, answered: Arrays, *, within: float) -> Shadow:
    """Hold a candidate's answers against what was answered then.

    Args:
        recording: Observations, and what was answered.
        answered: The candidate's `wanted_outputs` to every row, in order.
        within: Which share of the range two continuous actions may differ by and agree.

    Raises:
        ValueError: The recording is empty, or its actions have another shape.
    """
    action = contract.action.name
    now, then = answered[action], recording.outputs.get(action)
    if not recording.rows:
        raise ValueError("the recording is empty")
    if then is not None and then.shape != now.shape:
        raise ValueError(f"recorded actions have shape {then.shape[1:]}, the candidate's {now.shape[1:]}")
    continuous = contract.action_kind is ActionKind.CONTINUOUS
    scale = actions.spans(contract, then if then is not None else now) if continuous else None
    agreement, ties, largest, mean = None, 0, None, None
    if then is not None and scale is not None:
        difference = np.abs(actions.flat(now) - actions.flat(then)) / scale
        agreement = _share((difference.max(axis=1) <= within).astype(np.float64), recording)
        largest, mean = float(difference.max()), float(difference.mean())
    elif then is not None:
        mine, theirs = actions.rows(now), actions.rows(then)
        tied = near_ties(contract, mine, theirs, answered, _TIE) & (mine != theirs)
        same = ((mine == theirs) | tied).all(axis=1)
        agreement, ties = _share(same.astype(np.float64), recording), int((tied.any(axis=1) & same).sum())
    pairs = len(recording.steps()[0])
    return Shadow(
        rows=recording.rows,
        requests=recording.requests,
        within=within,
        agreement=agreement,
        near_ties=ties,
        largest=largest,
        mean=mean,
        saturation=_saturation(contract, recording, now, then) if continuous else None,
        pairs=pairs,
        roughness=_roughness(recording, now, then, scale) if pairs else None,
    )


def _saturation(
    contract: Contract, recording: Recording, now: NDArray[Any], then: NDArray[Any] | None
) -> ComparedFigure | None:
    at = actions.at_bound(contract, now)
    if at is None:
        return None
    return _compared(at, None if then is None else actions.at_bound(contract, then), recording.request)


def _roughness(
    recording: Recording, now: NDArray[Any], then: NDArray[Any] | None, scale: NDArray[np.float64] | None
) -> ComparedFigure:
    before, after = recording.steps()
    changed = None if then is None else actions.changes(then, before, after, scale)
    return _compared(actions.changes(now, before, after, scale), changed, recording.request[before])


def _compared(now: NDArray[np.float64], then: NDArray[np.float64] | None, request: NDArray[np.int64]) -> ComparedFigure:
    if then is None:
        return ComparedFigure(None, float(now.mean()), None)
    return ComparedFigure(float(then.mean()), float(now.mean()), _interval(now - then, request))


def _share(hits: NDArray[np.float64], recording: Recording) -> Interval | None:
    interval = _interval(hits, recording.request)
    if interval is None:
        return None
    return Interval(interval.mean, max(0.0, interval.low), min(1.0, interval.high), interval.confidence, interval.count)


def _interval(values: NDArray[np.float64], request: NDArray[np.int64]) -> Interval | None:
    """Of the mean of `values`, by blocks of consecutive requests; None for fewer than two requests."""
    starts = np.unique(request)
    if len(starts) < 2:
        return None
    edges = [block[0] for block in np.array_split(starts, min(BLOCKS, len(starts)))]
    blocks = np.split(values, np.searchsorted(request, edges[1:]))
    mean = mean_with_interval([block.mean() for block in blocks], rng=np.random.default_rng(0))
    hidden = 3.0 / len(starts)
    return Interval(float(values.mean()), mean.low - hidden, mean.high + hidden, mean.confidence, len(starts))
