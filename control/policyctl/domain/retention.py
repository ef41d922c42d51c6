"""Which releases must stay, and why; everything else may be collected.

Law: what an alias names, what an alias can be rolled back to within the window,
what a move that is open needs, what is pinned and what is held is never
collected; and a release that is kept by a policy is kept by every policy that
is wider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from policyctl.domain.fold import fold
from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.moves import Move, Result
from policyctl.domain.names import is_pin
from policyctl.domain.state import PublishedRelease, State

ReleaseKey = tuple[str, str]
"""Model and release."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How much is kept besides what is in use.

    Attributes:
        rollbacks: Releases that each alias can be rolled back to.
        days: Since a release was published, or since an alias last named it.
        newest: Of each model, by slot.
    """

    rollbacks: int
    days: float
    newest: int


@dataclass(frozen=True, slots=True)
class RetainedRelease:
    """A release that must stay.

    Attributes:
        release: Which.
        reasons: Every one, in words.
    """

    release: PublishedRelease
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CollectionPlan:
    """Every release whose files are there, in one of two lists."""

    keep: tuple[RetainedRelease, ...]
    collect: tuple[PublishedRelease, ...]


def plan(
    records: Sequence[Record],
    *,
    now: datetime,
    policy: RetentionPolicy,
    held: Mapping[ReleaseKey, str],
    model: str | None = None,
) -> CollectionPlan:
    """What stays, and what may go.

    Args:
        records: The whole journal.
        now: The present.
        policy: How much to keep.
        held: What is in use in a way that the journal does not know (a server
            has it loaded, a folder links to it), in words.
        model: Only this one's releases.
    """
    state = fold(records)
    reasons: dict[ReleaseKey, list[str]] = {key: [] for key in state.releases}
    for key, why in [*_named(state, policy), *_under_way(state), *held.items(), *_recent(state, records, now, policy)]:
        if key in reasons:
            reasons[key].append(why)
    here = sorted((r for r in state.releases.values() if not r.collected), key=lambda r: (r.model, r.slot))
    mine = [r for r in here if model in {None, r.model}]
    keep = tuple(RetainedRelease(r, tuple(reasons[r.model, r.release])) for r in mine if reasons[r.model, r.release])
    return CollectionPlan(keep, tuple(r for r in mine if not reasons[r.model, r.release]))


def _named(state: State, policy: RetentionPolicy) -> list[tuple[ReleaseKey, str]]:
    found = []
    for (model, alias), named in sorted(state.aliases.items()):
        found.append(((model, named.placement.release), "it is pinned" if is_pin(alias) else f"{alias} names it"))
        earlier = list(dict.fromkeys(p.release for p in reversed(named.trail[:-1])))
        earlier = [release for release in earlier if release != named.placement.release]
        found += [((model, r), f"{alias} can be rolled back to it") for r in earlier[: policy.rollbacks]]
    return found


def _under_way(state: State) -> list[tuple[ReleaseKey, str]]:
    return [
        ((move.model, placement.release), f"the {move.words} is not finished")
        for move in (unfinished.move for unfinished in state.unfinished.values())
        for placement in (move.target, move.incumbent)
        if placement is not None
    ]


def _recent(
    state: State, records: Sequence[Record], now: datetime, policy: RetentionPolicy
) -> list[tuple[ReleaseKey, str]]:
    since = now - timedelta(days=policy.days)
    found: list[tuple[ReleaseKey, str]] = []
    for release in state.releases.values():
        key = (release.model, release.release)
        if datetime.fromisoformat(release.time) > since:
            found.append((key, f"published {release.time[:10]}, less than {policy.days:g} days ago"))
        here = [r for r in state.of_model(release.model) if not r.collected]
        if release in here[-policy.newest :]:
            found.append((key, f"among the newest {policy.newest}"))
    for key, left in _left(records).items():
        if datetime.fromisoformat(left) > since:
            found.append((key, f"an alias named it until {left[:10]}, less than {policy.days:g} days ago"))
    return found


def _left(records: Sequence[Record]) -> dict[ReleaseKey, str]:
    """When an alias last ceased to name a release."""
    moves: dict[str, Move] = {}
    found: dict[ReleaseKey, str] = {}
    for record in records:
        if record.kind is RecordKind.INTENT:
            moves[record.body["move"]] = Move.from_json(record.body)
        elif record.kind is RecordKind.OUTCOME and record.body["result"] == Result.DONE:
            move = moves.get(record.body["move"])
            if move is not None and move.incumbent is not None:
                found[move.model, move.incumbent.release] = record.time
    return found
