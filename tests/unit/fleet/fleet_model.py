"""Every state that two commands and a few nodes can come to, whatever fails on the way.

`Model.explore` begins with nodes that serve 1.0.0 and two commands, and takes
every step from every state: a command writes a record or looks at reports, a
node reads, does what it read, and reports; and, as often as `faults` allows,
something fails. A process dies. A node is cut off from the store. The answer to
a write is lost, or the write itself, or it is carried out later. A node cannot
certify a release, or cannot serve it.

What is decided, the code decides that decides in a fleet: `domain.fleet.fold`,
`FleetState` and `domain.fleet_moves`. What is written here is what happens
around it. Nodes are alike, so states that differ in their order are one.

`_promises` says what holds in every state; `_ends_well` that all nodes come to
what the journal names once the faults end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Final, NamedTuple

from policyctl.domain import fleet, fleet_moves
from policyctl.domain.fleet import FleetMove, FleetState, Named, NodeReport, Serving, StoredRelease
from policyctl.domain.fleet_moves import Entry, Waited
from policyctl.domain.journal import GENESIS, Record, RecordKind
from policyctl.domain.moves import MoveKind, Result
from policyctl.errors import UsageError

ONE, TWO = (StoredRelease(number, f"artifact {number}", f"manifest {number}") for number in ("1.0.0", "2.0.0"))
KEY = ("walker", "production")
ENDED = frozenset({"done", "unchanged", "unknown", "taken back", "not taken back", "dead"})
WRITES: Final = {
    "intent": (RecordKind.INTENT, None),
    "commit": (RecordKind.SWITCHING, None),
    "abort": (RecordKind.OUTCOME, Result.ABORTED),
    "outcome": (RecordKind.OUTCOME, Result.DONE),
}


class Command(NamedTuple):
    """What a command does next, and what it knows.

    `does` is a word of `WRITES`, with "?" while it looks what stands in the way of its record, and with "??" where
    the store gave no answer; or "begin", "prepare", "switch", or how it ended.
    """

    wants: MoveKind
    does: str = "begin"
    move: str = ""
    read: int = 0
    generation: int = -1
    unsure: bool = False
    late: str = ""
    """A write that the store may still carry out, as the record number `read`."""


class Node(NamedTuple):
    """A node; what it has read and what it serves outlives its process.

    `serves` is the number of a commit, -1 for nothing; `reported` is what its report says of the last three fields.
    """

    read: int
    serves: int
    up: bool = True
    cut_off: bool = False
    lease_is_over: bool = False
    cannot: str = ""
    reported: tuple[int, tuple[str, ...], tuple[str, ...]] = (-1, (), ())
    prepared: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class World(NamedTuple):
    """One state of everything; the journal is a tuple of words of `WRITES`, each with the name of a move."""

    journal: tuple[str, ...]
    commands: tuple[Command, ...]
    nodes: tuple[Node, ...]
    faults: int


class BrokenError(AssertionError):
    """A promise is broken; says which, and how it came to that."""


@dataclass
class Model:
    """All states from one beginning.

    Attributes:
        wants: What each command wants.
        nodes: How many nodes there are.
        faults: How often something fails, at most.
        withdraws: Whether a node serves nothing once its lease is over.
        max_unavailable: Nodes that may be cut off while a promotion is committed.
    """

    wants: tuple[MoveKind, ...]
    nodes: int = 2
    faults: int = 2
    withdraws: bool = False
    max_unavailable: int = 0
    came_from: dict[World, tuple[World, str] | None] = field(default_factory=dict)
    end_well: set[World] = field(default_factory=set)
    moves: dict[str, FleetMove] = field(default_factory=dict)
    states: dict[tuple[str, ...], FleetState] = field(default_factory=lambda: {(): FleetState()})

    def explore(self) -> int:
        """Look at every state; how many there are.

        Raises:
            BrokenError: A promise is broken.
        """
        journal: tuple[str, ...] = ()
        for before, release in ((None, TWO), (TWO, ONE)):
            move = self._named_move("before", MoveKind.PROMOTION, before, release)
            journal += tuple(f"{does} {move}" for does in ("intent", "commit", "outcome"))
        serves = self.state(journal).aliases[KEY].generation
        node = Node(len(journal), serves, reported=(serves, (), ()))
        first = self._tidy(World(journal, tuple(map(Command, self.wants)), (node,) * self.nodes, self.faults))
        self.came_from[first] = None
        waiting = deque([first])
        while waiting:
            world = waiting.popleft()
            for what, after in self.steps(world):
                if after not in self.came_from:
                    self.came_from[after] = (world, what)
                    self._promises(after)
                    self._ends_well(after)
                    waiting.append(after)
        return len(self.came_from)

    # What the real code reads.

    def state(self, journal: tuple[str, ...]) -> FleetState:
        """What a journal says."""
        if journal not in self.states:
            entry = self._entry(journal[-1])
            record = Record(len(journal) - 1, GENESIS, "now", "somebody", entry.kind, entry.body)
            self.states[journal] = fleet.fold([record], self.state(journal[:-1]))
        return self.states[journal]

    def _named(self, journal: tuple[str, ...]) -> Named:
        return self.state(journal).aliases[KEY]

    def _entry(self, word: str) -> Entry:
        does, _, move = word.partition(" ")
        return Entry(WRITES[does][0], self.moves[move], WRITES[does][1])

    def _named_move(self, who: str, kind: MoveKind, before: StoredRelease | None, to: StoredRelease | None) -> str:
        name = f"{who}:{kind}:{fleet.number(before)}>{fleet.number(to)}"
        self.moves[name] = FleetMove(name, kind, *KEY, before, to)
        return name

    def _reports(self, world: World) -> list[NodeReport]:
        return [
            NodeReport(
                *(str(index), "run", 0, "now", "", "", node.read, prepared, dict.fromkeys(problems, "it fails")),
                serves=(Serving(*KEY, None, None if serves < 0 else serves),),
            )
            for index, node in enumerate(world.nodes)
            for serves, prepared, problems in [node.reported]
        ]

    # Steps: the words for each, and the state after it.

    def steps(self, world: World) -> Iterator[tuple[str, World]]:
        """Everything that can happen next."""
        for index, command in enumerate(world.commands):
            for what, journal, after, faults in self._command_steps(world, command, f"command {index}"):
                if faults <= world.faults:
                    commands = (*world.commands[:index], after, *world.commands[index + 1 :])
                    yield (
                        f"command {index} {what}",
                        self._tidy(World(journal, commands, world.nodes, world.faults - faults)),
                    )
        for index, node in enumerate(world.nodes):
            if node in world.nodes[:index]:
                continue
            for what, after, faults in self._node_steps(world.journal, node):
                if faults <= world.faults and after != node:
                    nodes = (*world.nodes[:index], after, *world.nodes[index + 1 :])
                    yield f"a node {what}", self._tidy(world._replace(nodes=nodes, faults=world.faults - faults))

    def _tidy(self, world: World) -> World:
        """One for all worlds that mean the same.

        Nodes stand in order. What they have read counts up to the last record that changed something, and what they
        certified while the move is open. Of a command that has ended only its words count. A write that comes too
        late for its place does not come.
        """
        opened = {each.move.id for each in self.state(world.journal).open.values()}
        nodes = []
        for node in world.nodes:
            serves, prepared, problems = node.reported
            kept = (tuple(each for each in names if each in opened) for names in (node.prepared, prepared))
            mine, reported = kept
            nodes.append(
                node._replace(
                    read=self._meaning(world.journal[: node.read]), prepared=mine, reported=(serves, reported, problems)
                )
            )
        commands = []
        for each in world.commands:
            is_void = each.late and self._late_at(each) < len(world.journal)
            command = each._replace(late="") if is_void else each
            if each.does in ENDED:
                move = each.move if command.late or each.move in opened else ""
                command = command._replace(read=0, move=move)
            commands.append(command)
        return World(world.journal, tuple(commands), tuple(sorted(nodes)), world.faults)

    def _meaning(self, journal: tuple[str, ...]) -> int:
        """How many records say what this journal says."""
        while self.state(journal) == self.state(journal[:-1]):
            journal = journal[:-1]
        return len(journal)

    def _late_at(self, command: Command) -> int:
        return int(command.late.split("@")[1])

    def _command_steps(
        self, world: World, command: Command, who: str
    ) -> Iterator[tuple[str, tuple[str, ...], Command, int]]:
        journal, does = world.journal, command.does
        step = partial(self._after, command)
        if command.late:
            yield "has a write carried out late", (*journal, command.late.split("@")[0]), command._replace(late=""), 0
        if does in ENDED:
            return
        yield "dies", journal, command._replace(does="dead", read=0, generation=-1), 1
        if does == "begin":
            yield "begins", journal, self._begin(journal, command, who), 0
        elif does in WRITES:
            word = f"{does} {command.move}"
            if not self._entry(word).holds(self.state(journal[: command.read])):
                yield f"does not write its {does} any more", journal, step(journal[: command.read], failed=True), 0
                return
            if command.read < len(journal):
                yield f"finds another record where it writes its {does}", journal, command._replace(does=f"{does}?"), 0
                return
            yield f"writes its {does}", (*journal, word), step((*journal, word), written=len(journal)), 0
            asks = command._replace(does=f"{does}??")
            yield f"gets no answer to its {does}", (*journal, word), asks, 1
            yield f"writes its {does} in vain", journal, asks, 1
            if not command.late:
                yield f"writes its {does}, which comes late", journal, asks._replace(late=f"{word}@{len(journal)}"), 1
        elif does.endswith("?"):
            yield "cannot read what stands there", journal, step(journal[: command.read], failed=True, unsure=True), 1
            entry = self._entry(f"{does.rstrip('?')} {command.move}")
            words = journal[command.read :]
            records = [Record(0, "", "", "", each.kind, each.body) for each in map(self._entry, words)]
            if entry.among(records) is not None:
                at = command.read + words.index(f"{does.rstrip('?')} {command.move}")
                yield "finds its record", journal, step(journal, written=at), 0
            else:
                yield "tries again", journal, command._replace(does=does.rstrip("?"), read=len(journal)), 0
            if does.endswith("??"):
                yield "tries no more", journal, step(journal, failed=True, unsure=True), 0
        elif does == "prepare":
            yield "cannot read the journal", journal, step(journal[: command.read], gives_up=True, unsure=True), 1
            if not self.state(journal).is_open(self.moves[command.move]):
                yield "reads that it was ended", journal, step(journal, gives_up=True), 0
                return
            for what, waited in self._waited(world, command, lambda node: command.move in node.prepared):
                yield what, journal, self._prepared(world, command, waited), 0
        else:
            move = self.moves[command.move]
            for what, waited in self._waited(world, command, lambda node: node.has_reached(KEY, command.generation)):
                back = fleet_moves.to_take_back(move, waited, move_id="back")
                self._says(world, command, waited)
                if back is None:
                    if waited.problems and move.kind is MoveKind.PROMOTION:
                        raise BrokenError(self._trace(world, "a node cannot serve it, and it is not taken back"))
                    yield what, journal, command._replace(does="outcome"), 0
                    continue
                name = self._named_move(f"{who} back", back.kind, back.incumbent, back.target)
                yield f"{what}, and takes it back", journal, command._replace(does="intent", move=name), 0

    def _begin(self, journal: tuple[str, ...], command: Command, who: str) -> Command:
        """Read the journal, and decide as `Fleet.carry_out` does."""
        state, target = self.state(journal), TWO if command.wants is MoveKind.PROMOTION else None
        incumbent = state.named(*KEY)
        try:
            if command.wants is MoveKind.ROLLBACK:
                target = state.earlier(*KEY, None)
        except UsageError:
            target = incumbent
        name = self._named_move(who, command.wants, incumbent, target)
        if incumbent == target or (command.wants is MoveKind.PROMOTION and state.open):
            return command._replace(does="unchanged")
        return command._replace(does="intent", move=name, read=len(journal))

    def _after(
        self,
        command: Command,
        known: tuple[str, ...],
        *,
        written: int = -1,
        failed: bool = False,
        gives_up: bool = False,
        unsure: bool = False,
    ) -> Command:
        """What a command does after a write, or after one that failed, as `Fleet` does it."""
        does, move = command.does.rstrip("?"), self.moves[command.move]
        is_back = command.wants is not move.kind
        command = command._replace(read=len(known))
        if does == "abort":
            generation = self.state(known).generation_of(move)
            if generation is not None:
                return command._replace(does="switch", generation=generation)
            # Where the abort was not written, the command says that its move may be open.
            return command._replace(does="unknown" if command.unsure else "unchanged", unsure=failed)
        if gives_up or (failed and does == "commit" and move.kind is MoveKind.PROMOTION):
            return command._replace(does="abort", unsure=unsure)
        if failed and does != "outcome":
            ends = "unknown" if unsure else "not taken back" if is_back else "unchanged"
            return command._replace(does=ends)
        match does:
            case "intent":
                return command._replace(does="prepare" if move.kind is MoveKind.PROMOTION else "commit")
            case "commit":
                return command._replace(does="switch", generation=written)
        return command._replace(does="taken back" if is_back else "done")

    def _waited(
        self, world: World, command: Command, is_there: Callable[[NodeReport], bool]
    ) -> Iterator[tuple[str, Waited]]:
        """What a command may see when it ends its wait: any node may seem silent, and time may be over."""
        reports = self._reports(world)
        move = self.moves[command.move]
        names = [each.node for each in reports if not is_there(each) and move.id not in each.problems]
        for silent in (each for size in range(len(names) + 1) for each in combinations(names, size)):
            waited = fleet_moves.assess(reports, move, is_there, silent=silent)
            yield ("sees all it waits for" if waited.is_over else "waits no longer"), waited

    def _prepared(self, world: World, command: Command, waited: Waited) -> Command:
        refusal = fleet_moves.not_prepared(
            self.moves[command.move], waited, prepare_s=1, lease_s=1, max_unavailable=self.max_unavailable
        )
        if refusal is not None:
            return self._after(command, world.journal, gives_up=True)
        certified = [command.move in node.reported[1] for node in world.nodes]
        problems = [node for node in world.nodes if command.move in node.reported[2]]
        if certified.count(False) > self.max_unavailable or problems:
            raise BrokenError(self._trace(world, "it commits what some node has not certified"))
        return command._replace(does="commit", read=len(world.journal))

    def _says(self, world: World, command: Command, waited: Waited) -> None:
        """The command will say that these nodes serve what it committed."""
        for name in waited.reached:
            if world.nodes[int(name)].reported[0] < command.generation:
                raise BrokenError(self._trace(world, f"it says that node {name} serves what it does not"))

    def _node_steps(self, journal: tuple[str, ...], node: Node) -> Iterator[tuple[str, Node, int]]:
        if node.cut_off:
            yield "reaches the store again", node._replace(cut_off=False), 0
        else:
            yield "is cut off", node._replace(cut_off=True), 1
        if not node.up:
            yield "starts", self._started(journal, node), 0
            return
        yield "dies", _dead(node), 1
        if not node.cannot:
            yield "cannot certify any more", node._replace(cannot="certify"), 1
            yield "cannot serve any more", node._replace(cannot="serve"), 1
        if node.cut_off:
            yield "has its lease end", self._cut_off(node), 0
            return
        read = node._replace(read=len(journal), lease_is_over=False)
        yield "reads and dies", _dead(read), 1
        acted = self._acted(journal, read)
        yield "reads, acts and reports", _reported(acted), 0
        yield "reads and acts, and cannot report", acted, 1

    def _cut_off(self, node: Node) -> Node:
        return node._replace(lease_is_over=True, serves=-1 if self.withdraws else node.serves)

    def _started(self, journal: tuple[str, ...], node: Node) -> Node:
        """It serves nothing else than the store names, as far as it has read."""
        if not node.cut_off:
            node = node._replace(read=len(journal))
        elif self.withdraws:
            node = node._replace(serves=-1)
        if self._release(journal, node) != self._named(journal[: node.read]).target:
            node = node._replace(serves=-1)
        return node._replace(up=True, lease_is_over=False)

    def _acted(self, journal: tuple[str, ...], node: Node) -> Node:
        """It moves to what is named, and certifies what is open."""
        state, problems, prepared = self.state(journal), set(node.problems), set(node.prepared)
        named = state.aliases[KEY]
        if node.serves != named.generation:
            if named.target == TWO and node.cannot:
                problems.add(named.move.id)
            else:
                node = node._replace(serves=named.generation)
                problems.discard(named.move.id)
        for opened in state.open.values():
            name = opened.move.id
            if opened.move.target is not None and name not in prepared | problems:
                fails = opened.move.target == TWO and node.cannot == "certify"
                (problems if fails else prepared).add(name)
        return node._replace(problems=tuple(sorted(problems)), prepared=tuple(sorted(prepared)))

    def _release(self, journal: tuple[str, ...], node: Node) -> StoredRelease | None:
        return None if node.serves < 0 else self._entry(journal[node.serves]).move.target

    # What must hold.

    def _commits(self, journal: tuple[str, ...]) -> dict[int, str]:
        """The commits that count, and whose they are, by separate rules."""
        opened, found = "", {}
        for number, word in enumerate(journal):
            does, _, move = word.partition(" ")
            if does == "intent":
                opened = move
            elif move == opened:
                opened = ""
                if does == "commit":
                    found[number] = move
        return found

    def _promises(self, world: World) -> None:
        commits = self._commits(world.journal)
        for node in world.nodes:
            if node.serves not in {-1, *(number for number in commits if number < node.read)}:
                raise BrokenError(self._trace(world, "a node serves what nobody committed"))
            if self.withdraws and node.up and node.lease_is_over and node.serves != -1:
                raise BrokenError(self._trace(world, "a node serves what it cannot know to be current"))
        for index, command in enumerate(world.commands):
            mine = {number: move for number, move in commits.items() if move.startswith(f"command {index}")}
            moves = [self.moves[each] for each in mine.values()]
            is_so = {
                "done": [*mine] == [command.generation],
                "unchanged": not mine,
                "taken back": len(moves) == 2 and moves[0].incumbent == moves[1].target,
                "not taken back": len(mine) == 1,
            }.get(command.does, True)
            if not is_so:
                raise BrokenError(self._trace(world, f"command {index} says: {command.does}; it has committed {mine}"))

    def _ends_well(self, world: World) -> None:
        """Without further faults every command ends, and every node comes to what the journal names then."""
        nodes = tuple(node._replace(cut_off=False, cannot="") for node in world.nodes)
        calm, before = world._replace(nodes=nodes, faults=0), None
        trail = []
        while calm != before and calm not in self.end_well:
            trail.append(calm)
            before, calm = calm, self._calm_step(calm)
        if calm == before:
            named = self._named(calm.journal)
            open_by = [each.move.id for each in self.state(calm.journal).open.values()]
            excused = [each.move for each in calm.commands if each.does in {"dead", "unknown"} or each.unsure]
            if any(node.serves != named.generation or node.reported[0] != node.serves for node in calm.nodes):
                raise BrokenError(self._trace(world, f"nodes end as {calm.nodes}, {named.generation} is named"))
            if any(each.does not in ENDED for each in calm.commands) or not set(open_by) <= set(excused):
                raise BrokenError(self._trace(world, f"commands end as {calm.commands}, {open_by} are open"))
        self.end_well.update(trail)

    def _calm_step(self, world: World) -> World:
        """Every node starts, reads, acts and reports; then each command takes the step that no fault is part of."""
        nodes = []
        for node in world.nodes:
            running = self._acted(world.journal, self._started(world.journal, node)._replace(read=len(world.journal)))
            if node.up:
                running = self._acted(world.journal, node._replace(read=len(world.journal), lease_is_over=False))
            nodes.append(_reported(running))
        world = self._tidy(world._replace(nodes=tuple(nodes)))
        for index, command in enumerate(world.commands):
            for what, journal, after, faults in self._command_steps(world, command, f"command {index}"):
                if faults == 0 and what != "waits no longer":
                    commands = (*world.commands[:index], after, *world.commands[index + 1 :])
                    world = self._tidy(World(journal, commands, world.nodes, 0))
                    break
        return world

    def _trace(self, world: World, words: str) -> str:
        """How it came to that."""
        lines, at = [], self.came_from.get(world)
        while at is not None:
            lines.append(at[1])
            at = self.came_from[at[0]]
        return "\n".join([words, *reversed(lines), str(world)])


def _reported(node: Node) -> Node:
    return node._replace(reported=(node.serves, node.prepared, node.problems))


def _dead(node: Node) -> Node:
    return node._replace(up=False, prepared=(), problems=(), lease_is_over=False, cannot="")
