"""What the journal of a store says: which release each alias of a fleet names, and which moves are open.

A fleet's journal is made of the same records as that of a repository, and
chained the same way. A move begins with its *intent*. Nodes then load and
certify its release next to what they serve. Its record ``switching`` is the
commit: from there on the alias names the release, on every node that can read
the record. The number of that record is the alias's *generation*; it only grows.
An *outcome* without a commit ends the move, and nothing has changed.

A commit counts only while its move is the open one of its model. So of two
writers who do not know each other, one wins, and every reader agrees which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, ClassVar, Final

from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.json_values import fields_to_json
from policyctl.domain.moves import MoveKind, intent_of, move_of
from policyctl.domain.names import check_model_name, check_movable_alias, check_release
from policyctl.domain.probes import AliasKey
from policyctl.errors import IntegrityError, UsageError

_SILENT_LEASES: Final = 3
_SILENT_S: Final = 60.0
"""At least so long: the clocks of two machines differ."""


@dataclass(frozen=True, slots=True)
class StoredRelease:
    """One release of a store.

    Attributes:
        release: Its number.
        artifact: Digest of its OCI manifest, which pins every file and every signature.
        manifest_digest: Of the manifest of the release, which pins every file.
    """

    release: str
    artifact: str
    manifest_digest: str


def number(release: StoredRelease | None) -> str:
    """What people call a release, or the lack of one."""
    return "nothing" if release is None else release.release


@dataclass(frozen=True, slots=True)
class FleetMove:
    """One promotion, rollback or removal over all nodes.

    Attributes:
        id: Names the move.
        kind: Which of them.
        model: Whose alias.
        alias: Which alias.
        incumbent: What it names now; None for nothing.
        target: What it is to name; None of a removal.
        reason: Why, in the words of the person who asked.
    """

    id: str
    kind: MoveKind
    model: str
    alias: str
    incumbent: StoredRelease | None
    target: StoredRelease | None
    reason: str = ""

    @property
    def key(self) -> AliasKey:
        """Model and alias."""
        return (self.model, self.alias)

    @property
    def words(self) -> str:
        """What it is, in words."""
        return f"{self.kind} of {self.model}'s {self.alias} from {number(self.incumbent)} to {number(self.target)}"

    def to_json(self) -> dict[str, Any]:
        """The body of the record ``intent``."""
        return intent_of(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> FleetMove:
        """Read what `to_json` wrote.

        Raises:
            UsageError: It describes no move.
        """
        move = move_of(cls, body, what="move of a fleet")
        check_model_name(move.model)
        check_movable_alias(move.alias)
        for each in filter(None, (move.incumbent, move.target)):
            check_release(each.release)
        return move


@dataclass(frozen=True, slots=True)
class OpenFleetMove:
    """A move without a commit and without an outcome."""

    move: FleetMove
    since: str
    actor: str


@dataclass(frozen=True, slots=True)
class Named:
    """What an alias names on every node.

    Attributes:
        generation: Number of the record that said so.
        move: The move that brought it there.
        since: When.
        actor: Who.
        trail: The releases that it came by, oldest first, the named one last; empty where it names nothing.
    """

    generation: int
    move: FleetMove
    since: str
    actor: str
    trail: tuple[StoredRelease, ...] = ()

    @property
    def target(self) -> StoredRelease | None:
        """The release that it names; None where it was taken out of service."""
        return self.move.target


@dataclass(frozen=True, slots=True)
class FleetState:
    """Everything that the journal of a store says.

    Attributes:
        aliases: What each alias that was ever named names now.
        open: The open move of each model that has one.
    """

    aliases: Mapping[AliasKey, Named] = field(default_factory=dict)
    open: Mapping[str, OpenFleetMove] = field(default_factory=dict)

    def named(self, model: str, alias: str) -> StoredRelease | None:
        """What an alias names; None for nothing."""
        found = self.aliases.get((model, alias))
        return None if found is None else found.target

    def is_open(self, move: FleetMove) -> bool:
        """Whether a move has neither a commit nor an outcome, and no other move has taken its place."""
        found = self.open.get(move.model)
        return found is not None and found.move.id == move.id

    def generation_of(self, move: FleetMove) -> int | None:
        """The generation that a move brought its alias to; None unless the alias is there still."""
        found = self.aliases.get(move.key)
        return found.generation if found is not None and found.move.id == move.id else None

    def earlier(self, model: str, alias: str, release: str | None) -> StoredRelease:
        """The release that a rollback goes to: the one before, or the last that had the number `release`.

        Raises:
            UsageError: The alias names nothing, or it never named that release.
        """
        found = self.aliases.get((model, alias))
        if found is None or found.target is None:
            raise UsageError(
                f"alias {alias} of {model} names no release in this store, so there is nothing to roll back",
                remedy="See what is there: policyctl status",
            )
        before = [each for each in reversed(found.trail[:-1]) if release in {None, each.release}]
        if release == found.target.release:
            return found.target
        if not before:
            named = ", ".join(dict.fromkeys(each.release for each in found.trail[:-1])) or "none"
            raise UsageError(
                f"alias {alias} of {model} names {found.target.release}"
                + (f" and never named {release} before it" if release else ", and nothing came before it"),
                remedy=f"Releases before it: {named}. Any other takes a promotion.",
            )
        return before[0]


def fold(records: Iterable[Record], state: FleetState | None = None) -> FleetState:
    """Read `records`, in order, on top of `state`; a prefix and then the rest is the whole.

    Raises:
        IntegrityError: A record lacks what its kind needs.
    """
    before = state or FleetState()
    aliases, under_way = dict(before.aliases), dict(before.open)
    for record in records:
        try:
            if record.kind is RecordKind.INTENT:
                move = FleetMove.from_json(record.body)
                under_way[move.model] = OpenFleetMove(move, record.time, record.actor)
                continue
            opened = next((each for each in under_way.values() if each.move.id == record.body["move"]), None)
        except (KeyError, UsageError) as error:
            raise IntegrityError(
                f"record {record.seq} of the store's journal cannot be read ({error})",
                remedy="If a newer policyctl wrote it, update this one.",
            ) from error
        if opened is None:
            continue
        move = opened.move
        if record.kind is RecordKind.SWITCHING:
            trail = _trail(aliases.get(move.key), move)
            aliases[move.key] = Named(record.seq, move, record.time, opened.actor, trail)
        if record.kind in {RecordKind.SWITCHING, RecordKind.OUTCOME}:
            del under_way[move.model]
    return replace(before, aliases=aliases, open=under_way)


def _trail(before: Named | None, move: FleetMove) -> tuple[StoredRelease, ...]:
    if move.target is None:
        return ()
    trail = () if before is None else before.trail
    if move.kind is MoveKind.ROLLBACK and move.target in trail[:-1]:
        last = max(index for index, each in enumerate(trail[:-1]) if each == move.target)
        return trail[: last + 1]
    return (*trail, move.target)


@dataclass(frozen=True, slots=True)
class Serving:
    """What one node says of one alias.

    Attributes:
        release: What it serves; None for nothing.
        generation: Of which generation of the alias that is; None where it has not come to any yet.
    """

    model: str
    alias: str
    release: str | None
    generation: int | None


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node wrote about itself.

    Attributes:
        node: Its name.
        run: Names the process that wrote it; another one of that name is another run.
        beat: Counts the reports of that run: who sees it grow knows that the node lives, whatever clocks say.
        time: When, by the clock of the node.
        policyctl: The version of the software.
        endpoint: Where its Triton answers gRPC; empty while it does not.
        read: How many records of the store's journal it has read.
        prepared: Moves whose release it has certified next to what it serves.
        problems: What it could not do, in words, by the id of the move.
        serves: What it serves.
        lease_s: After so long without a report it is cut off.
        stopped: Whether it was stopped on purpose; it reads the store before it serves again.
    """

    node: str
    run: str
    beat: int
    time: str
    policyctl: str
    endpoint: str
    read: int
    prepared: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    serves: tuple[Serving, ...] = ()
    lease_s: float = 0.0
    stopped: bool = False

    def serving(self, model: str, alias: str) -> Serving | None:
        """What it says of one alias."""
        return next((each for each in self.serves if (each.model, each.alias) == (model, alias)), None)

    def has_reached(self, key: AliasKey, generation: int) -> bool:
        """Whether it serves that generation of an alias, or a later one."""
        found = self.serving(*key)
        return found is not None and found.generation is not None and found.generation >= generation


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """A store and its nodes, as they are now.

    Attributes:
        store: Its address.
        aliases: What each alias names: model, alias, release, generation, since, by.
        open: Moves that are being prepared, in words.
        nodes: What each node says of itself.
        silent: Nodes that should have written another report since, or whose report cannot be read.
    """

    store: str
    aliases: tuple[dict[str, Any], ...]
    open: tuple[str, ...]
    nodes: tuple[NodeReport, ...]
    silent: tuple[str, ...]

    COLUMNS: ClassVar = ("model", "alias", "names", "since", "node", "serves", "as named", "reported")

    @classmethod
    def of(
        cls, store: str, state: FleetState, nodes: tuple[NodeReport, ...], *, model: str | None, now: datetime
    ) -> FleetStatus:
        """What a store's journal and the reports of its nodes say; of one model where that is given."""
        aliases = tuple(
            {
                "model": owner,
                "alias": alias,
                "release": None if named.target is None else named.target.release,
                "generation": named.generation,
                "since": named.since,
                "by": named.actor,
            }
            for (owner, alias), named in sorted(state.aliases.items())
            if model in {None, owner}
        )
        moves = tuple(
            f"{each.move.words} by {each.actor}, since {each.since}"
            for owner, each in sorted(state.open.items())
            if model in {None, owner}
        )
        silent = tuple(node.node for node in nodes if not node.stopped and _is_silent(node, now))
        return cls(store, aliases, moves, nodes, silent)

    @property
    def healthy(self) -> bool:
        """Whether a node runs, and each that is not stopped reports, answers, and says that it serves what is named.

        What a node could not do does not count: it may be about a move that was taken back.
        """
        running = [node for node in self.nodes if not node.stopped]
        return bool(running) and all(
            node.endpoint
            and node.node not in self.silent
            and all(node.has_reached((named["model"], named["alias"]), named["generation"]) for named in self.aliases)
            for node in running
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object: the fields, and whether all is well."""
        return {**fields_to_json(self), "healthy": self.healthy}

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each alias on each node, by `COLUMNS`; one for an alias that no node follows."""
        rows: list[tuple[str, ...]] = []
        for named in self.aliases:
            names = (named["model"], named["alias"], named["release"] or "nothing", named["since"][:19])
            rows += [(*names, node.node, *self._serves(node, named), node.time[:19]) for node in self.nodes]
            if not self.nodes:
                rows.append((*names, "no node", "", "", ""))
        return rows

    def _serves(self, node: NodeReport, named: dict[str, Any]) -> tuple[str, str]:
        """What a node serves under an alias, and whether that is what the alias names."""
        if node.stopped:
            return "nothing", "stopped"
        found = node.serving(named["model"], named["alias"])
        release = "nothing" if found is None or found.release is None else found.release
        if node.node in self.silent:
            return release, "silent"
        reached = node.has_reached((named["model"], named["alias"]), named["generation"])
        return release, "yes" if reached else "NO"


def _is_silent(node: NodeReport, now: datetime) -> bool:
    """Whether the last report is older than any that a node which runs would leave, by clocks that nearly agree."""
    try:
        age_s = (now - datetime.fromisoformat(node.time)).total_seconds()
    except (ValueError, TypeError):
        return True
    return age_s > max(_SILENT_LEASES * node.lease_s, _SILENT_S)
