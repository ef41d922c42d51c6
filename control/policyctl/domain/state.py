"""What the journal says: releases, aliases, evidence, and unfinished moves; `domain.fold` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policyctl.domain import versions
from policyctl.domain.moves import Move, Phase, Placement
from policyctl.domain.names import check_alias, check_model_name
from policyctl.domain.signature import SignatureRecord
from policyctl.domain.verdict import Verdict
from policyctl.errors import MovedError, UsageError


@dataclass(frozen=True, slots=True)
class PublishedRelease:
    """A release as it was published.

    Attributes:
        contract: What it takes and gives, as JSON.
        collected: When `policyctl gc` removed its files; empty while they are there.
    """

    model: str
    release: str
    slot: int
    manifest_digest: str
    time: str
    actor: str
    contract: Mapping[str, Any] = field(compare=False, repr=False)
    collected: str = ""


@dataclass(frozen=True, slots=True)
class AliasState:
    """What an alias names.

    Attributes:
        placement: The release that it names, and how that is served.
        since: When it was switched there.
        trail: The releases it came by, oldest first, the named one last. A
            rollback without a target goes to the last but one.
        drain_s: Of a pin that ends by itself: how long at most it is served after the move that it is for.
    """

    placement: Placement
    since: str
    trail: tuple[Placement, ...]
    drain_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A move that has an intent and no outcome."""

    move: Move
    phase: Phase
    since: str
    actor: str


@dataclass(frozen=True, slots=True)
class OpenBake:
    """A promotion whose bake is not over: the alias is still where it brought it.

    Attributes:
        move: The promotion; its `bake` says what was declared.
        since: When it was switched.
        verdict: What the bake said, where the rollback that follows from it is still owed.
        reason: Why, for that rollback.
    """

    move: Move
    since: str
    verdict: Verdict | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GateRecord:
    """The last verdict of one gate on one release."""

    gate: str
    verdict: Verdict
    manifest_digest: str
    evidence_digest: str
    time: str


@dataclass(frozen=True, slots=True)
class State:
    """Everything the journal says."""

    releases: dict[tuple[str, str], PublishedRelease] = field(default_factory=dict)
    aliases: dict[tuple[str, str], AliasState] = field(default_factory=dict)
    gates: dict[tuple[str, str, str], GateRecord] = field(default_factory=dict)
    certified: frozenset[tuple[str, str, str, str]] = frozenset()
    """(server, model, manifest digest, config) that a server has certified."""
    unfinished: Mapping[str, Unfinished] = field(default_factory=dict)
    """By model: a move that cannot be settled stands in the way of no other model's."""
    bakes: dict[tuple[str, str], OpenBake] = field(default_factory=dict)
    """By model and alias."""
    tuned: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """How a model is served where no setting says otherwise, by model; see `services.moves.serving_options`."""
    signatures: dict[tuple[str, str, str], SignatureRecord] = field(default_factory=dict)
    """By model, release and name."""
    latest: str = ""
    """The latest time of any record: a clock that was turned back signs nothing earlier than that."""

    @property
    def models(self) -> tuple[str, ...]:
        """Every published model, by name."""
        return tuple(sorted({model for model, _ in self.releases}))

    def release(self, model: str, release: str) -> PublishedRelease:
        """The published release.

        Raises:
            UsageError: There is no such model or release, or its files were
                collected; names those that exist.
        """
        found = self.releases.get((model, release))
        if found is not None and not found.collected:
            return found
        if found is not None:
            raise UsageError(
                f"{model} {release} is not here any more: policyctl gc removed its files at {found.collected}",
                remedy="Bring it back from where it was exported to: policyctl release import SRC",
            )
        have = [r.release for r in self.of_model(model) if not r.collected]
        if not have:
            models = self.models or ("none",)
            raise UsageError(
                f"model {model!r} is not published here",
                remedy=f"Published models: {', '.join(models)}. Publish with: policyctl publish",
            )
        aliases = sorted(a for m, a in self.aliases if m == model)
        raise UsageError(
            f"{model} has no release {release!r}",
            remedy=f"Published releases: {', '.join(have)}." + f" Aliases: {', '.join(aliases)}." * bool(aliases),
        )

    def select(self, model: str, text: str) -> PublishedRelease:
        """The published release that a person means.

        Args:
            model: Which model.
            text: A release (``1.2.3``), a range (``^1.2``, ``~1.2.0``: its
                highest), ``latest``, or an alias; see `domain.versions.select`.

        Raises:
            UsageError: There is no such model or release; names those that exist.
        """
        releases = [r.release for r in self.of_model(model) if not r.collected]
        named = {a: s.placement.release for (m, a), s in self.aliases.items() if m == model}
        return self.release(model, versions.select(text, releases, named) or text)

    def require(self, model: str) -> None:
        """Refuse a model that is not published.

        Raises:
            UsageError: It is not; names those that are.
        """
        if all(owner != model for owner, _ in self.releases):
            self.release(model, "")

    def of_model(self, model: str) -> tuple[PublishedRelease, ...]:
        """Releases of `model`, by slot; those that were collected too, for a slot is never used again."""
        mine = (r for (m, _), r in self.releases.items() if m == model)
        return tuple(sorted(mine, key=lambda r: r.slot))

    def signatures_of(self, model: str, release: str) -> tuple[SignatureRecord, ...]:
        """Signatures of one release, by name."""
        mine = ((name, s) for (m, r, name), s in self.signatures.items() if (m, r) == (model, release))
        return tuple(signature for _, signature in sorted(mine, key=lambda pair: pair[0]))

    def slots(self, model: str) -> dict[str, str]:
        """Slot to release, for every release of `model`."""
        return {str(r.slot): r.release for r in self.of_model(model)}

    def alias(self, model: str, alias: str) -> AliasState | None:
        """What `alias` of `model` names, None if nothing."""
        return self.aliases.get((model, alias))

    def named(self, model: str, alias: str) -> AliasState:
        """What `alias` of `model` names, for callers that cannot do without.

        Raises:
            UsageError: No such model, a name that is not allowed, or the alias names nothing.
        """
        check_model_name(model)
        check_alias(alias)
        self.require(model)
        if found := self.alias(model, alias):
            return found
        raise UsageError(
            f"alias {alias} of {model} names no release", remedy=f"Promote one: policyctl promote {model} RELEASE"
        )

    def moving(self, model: str, alias: str) -> Unfinished | None:
        """The move of one alias that has no outcome yet; None where it does not move."""
        found = self.unfinished.get(model)
        return found if found is not None and found.move.alias == alias else None

    def under_way(self, model: str, move: str = "") -> Unfinished:
        """The move of `model` that has no outcome yet.

        Args:
            model: Which model.
            move: The id that it must have; empty where any will do.

        Raises:
            UsageError: Nothing of it moves.
            MovedError: Another move of it is under way.
        """
        found = self.unfinished.get(model)
        if found is None:
            raise UsageError(f"no move of {model} is under way", remedy=f"See: policyctl status {model}")
        if move and found.move.id != move:
            raise MovedError(
                f"the move {move} is not under way: the {found.move.words} by {found.actor} is",
                remedy=f"Look at that move before you abort it: policyctl status {model}",
            )
        return found

    def previous(self, model: str, alias: str) -> Placement:
        """Where a rollback without a target goes.

        Raises:
            UsageError: The alias names nothing, or nothing came before.
        """
        current = self.alias(model, alias)
        if current is None:
            raise UsageError(
                f"alias {alias} of {model} names no release, so there is nothing to roll back",
                remedy=f"See what is there: policyctl status {model}",
            )
        if len(current.trail) < 2:
            raise UsageError(
                f"{model} {current.placement.release} is the first release that {alias} named: nothing came before it",
                remedy=f"Name a release: policyctl rollback {model} --to RELEASE",
            )
        return current.trail[-2]
