"""Explain what is served side by side: what is being switched, what conflicts, what is left of memory.

`status` lists facts; here are the sentences that follow from them, each of one
kind, for people and for scripts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

from policyctl.adapters.pbtxt import identity
from policyctl.domain.compatibility import compare
from policyctl.domain.instants import utc_text
from policyctl.domain.moves import MoveKind, Phase
from policyctl.domain.names import PRODUCTION, served_name
from policyctl.domain.state import AliasState, OpenBake, State, Unfinished
from policyctl.domain.versions import Bump
from policyctl.errors import PolicyctlError
from policyctl.services.control import Control
from policyctl.services.machine.memory_headroom import ServedCost, words
from policyctl.services.releases.numbers import contracts_of
from policyctl.serving.hardware import MemoryLeft


class About(StrEnum):
    """What a note is about."""

    SWITCHING = "switching"
    BAKE = "bake"
    DRAIN = "drain"
    CONFLICT = "conflict"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence of `status`."""

    about: About
    model: str
    words: str


def explain(
    control: Control,
    state: State,
    *,
    model: str | None,
    costs: Mapping[tuple[str, str], ServedCost],
    left: MemoryLeft | None,
) -> tuple[Note, ...]:
    """Everything that is worth a sentence.

    Args:
        costs: What each alias costs (`room.costs`).
        left: What is left of the server's memory; None where it cannot be seen.
    """
    found: list[Note] = []
    found += [
        Note(About.SWITCHING, m, _switching(u)) for m, u in sorted(state.unfinished.items()) if model in {None, m}
    ]
    found += [Note(About.BAKE, m, _baking(o)) for (m, _), o in sorted(state.bakes.items()) if model in {None, m}]
    found += [
        Note(About.DRAIN, m, _draining(served_name(m, alias), named))
        for (m, alias), named in sorted(state.aliases.items())
        if named.drain_s is not None and model in {None, m}
    ]
    lasting = {key: named for key, named in sorted(state.aliases.items()) if named.drain_s is None}
    for name in sorted({m for m, _ in lasting if model in {None, m}}):
        served = {alias: named for (m, alias), named in lasting.items() if m == name}
        found += [Note(About.CONFLICT, name, said) for said in _contracts(state, name, served)]
        found += [Note(About.CONFLICT, name, said) for said in _twice(name, served)]
    if left is not None:
        found += [Note(About.MEMORY, m, said) for m, said in _memory(costs, left, model)]
    return tuple(found)


def _switching(unfinished: Unfinished) -> str:
    move = unfinished.move
    said = f"The {move.words} by {unfinished.actor} since {utc_text(unfinished.since)} has come to {unfinished.phase}."
    if move.kind is MoveKind.REMOVAL:
        answers = f"{move.served} is answered until it is withdrawn"
    else:
        incumbent = "nothing" if move.incumbent is None else move.incumbent.release
        answers = f"{move.served} is answered by {incumbent} until {move.target.release} is ready there"
    then = "finishes" if unfinished.phase is Phase.SWITCHING else "reverts"
    return f"{said} {answers}; if its process has died, the server or the next command {then} it."


def _baking(found: OpenBake) -> str:
    move = found.move
    said = f"{move.served} has been on {move.target.release} since {utc_text(found.since)} and is watched"
    if move.bake is not None:
        said += f" for {move.bake.plan.for_s:g} s"
    if found.verdict is not None:
        return f"{said}: {found.verdict} ({found.reason}). Its rollback is owed."
    return f"{said}; it may be rolled back by itself. To keep it: policyctl promote {move.model}" + (
        f" {move.target.release} --alias {move.alias} --no-bake"
    )


def _draining(served: str, named: AliasState) -> str:
    return (
        f"{served} drains since {utc_text(named.since)}: it answers the episodes that began on it, for"
        f" {named.drain_s:g} s at most after the move. policyctl serve ends it, or policyctl unpin."
    )


def _contracts(state: State, model: str, served: Mapping[str, AliasState]) -> Iterator[str]:
    """Aliases whose clients cannot move to another alias as they are."""
    contract_of = contracts_of(state, model)
    first = PRODUCTION if PRODUCTION in served else next(iter(served))
    for alias, named in served.items():
        here, there = served[first].placement.release, named.placement.release
        if here == there:
            continue
        try:
            grave = [d for d in compare(contract_of(here), contract_of(there)) if d.needs is Bump.MAJOR]
        except PolicyctlError:
            continue  # verify says what is wrong with the files
        if grave:
            said = "; ".join(d.words for d in grave)
            yield (
                f"{served_name(model, alias)} ({there}) is not compatible with {served_name(model, first)} ({here}):"
                f" {said}. A client of the one cannot ask the other unchanged."
            )


def _twice(model: str, served: Mapping[str, AliasState]) -> Iterator[str]:
    """Aliases that serve the very same thing."""
    for (one, named), (other, another) in combinations(served.items(), 2):
        if identity(named.placement.config) == identity(another.placement.config):
            yield (
                f"{served_name(model, one)} and {served_name(model, other)} serve the same release in the same"
                f" configuration ({named.placement.release}): each takes its own memory."
            )


def _memory(
    costs: Mapping[tuple[str, str], ServedCost], left: MemoryLeft, model: str | None
) -> Iterator[tuple[str, str]]:
    measured = {key: cost for key, cost in costs.items() if cost.instances}
    total = sum(cost.own_bytes for cost in measured.values())
    inside = len(costs) - len(measured)
    said = f"{words(left.left_bytes)} of {words(left.limit_bytes)} are left of {left.limited_by}."
    if measured:
        said += f" Backend processes have {words(total)} to themselves."
    if inside:
        said += f" {inside} served inside tritonserver, which shares its memory among them."
    yield "", said
    for (owner, alias), cost in measured.items():
        if model in {None, owner} and 2 * cost.own_bytes > left.left_bytes:
            yield (
                owner,
                (
                    f"{served_name(owner, alias)} ({words(cost.own_bytes)}) cannot be moved to a release of its size:"
                    " a promotion holds two copies besides the incumbent. Take something out of service first."
                ),
            )
