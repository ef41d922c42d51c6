"""Anything in any order: commands that meet, crash or are cut off, nodes that die, answers that are lost.

`Schedule` draws all of that from a seed and looks after every step whether a
promise was broken. What it looks at is what clients and people see: who answers
by which release, what stands in the store, and what a command says that it did.

The promises:

- An answer names a commit, and is by its release. A node that comes back answers by what it has read last.
- A promotion is committed only after every node has reported that it certified the release.
- What a command says is so: that a node serves a generation, that nothing was changed, that all was taken back.
- A command that leaves its move open says so, and no promotion ends a move that is being prepared.
- A node that withdraws serves nothing once it could not read the store for its lease.
- Without faults every node serves what the store names, and a promotion needs no more than a lease.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import obstore
import pytest
from fleet_world import NAMES, Crash, FleetWorld, NodeCrash, Objects, SimulatedNode

from policyctl.domain.operations import Done
from policyctl.errors import BusyError, MoveError, PolicyctlError, ServerError, UsageError
from policyctl.services.rollout.request import (
    AbortRequest,
    AliasRequest,
    PromotionRequest,
    RemovalRequest,
    RollbackRequest,
    Wanted,
)
from policyctl.settings import CutOff

RELEASES = ("1.0.0", "1.1.0")
MOVES = 14
FAULTS = {"crash": 80, "lose": 80, "lose record": 8, "node": 160}
"""Each comes at a request of a number below that, or not at all: a command or a node ends, an answer is lost."""


@dataclass
class Schedule:
    """One run from one seed.

    Attributes:
        broken: Promises that were broken, in words.
    """

    fleet: FleetWorld
    seed: int
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chosen = random.Random(self.seed)
        self.away: set[str] = set()
        self.calls = dict.fromkeys(FAULTS, -1)
        self.depth = self.others = self.commands = self.lost = 0
        self.certified: dict[str, set[str]] = {}
        """Nodes that reported to have certified the release of a move, by the move."""
        self.withdrawing = {name for name in NAMES if self.chosen.random() < 0.3}
        self.heard = dict.fromkeys(NAMES, self.fleet.now)
        """When each node read the store's journal last."""
        self.targets: dict[str, str] = {}
        """The release of each promotion, by the name of the move."""
        self._forget_history()

    def run(self) -> list[str]:
        """What was broken; empty for nothing."""
        fleet, chosen = self.fleet, self.chosen
        for name in self.withdrawing:
            fleet.nodes[name].withdraws(CutOff.WITHDRAW)
        fleet.promote("1.0.0")
        self.heard = dict.fromkeys(NAMES, fleet.now)
        fleet.before, fleet.after = self._before, self._after
        fleet.order = lambda nodes: chosen.sample(nodes, chosen.randrange(len(nodes) + 1))
        fleet.looked, fleet.meanwhile = self._look, self._in_a_node
        for _ in range(MOVES):
            self.away = set(chosen.sample([*NAMES, "command"], chosen.choice([0, 0, 0, 0, 1, 2])))
            self.calls = {
                name: chosen.randrange(most) if chosen.random() < 0.4 else -1 for name, most in FAULTS.items()
            }
            dead = [node.name for node in fleet.nodes.values() if node.process is None]
            self.away |= {name for name in dead if chosen.random() < 0.5}
            self._disturb(fleet.nodes[chosen.choice(NAMES)])
            self._move("command")
            for _ in range(chosen.choice([0, 0, 2, 4])):
                fleet.rest(4.0)
            self._agree()
        self._quiet()
        return self.broken

    # What happens.

    def _disturb(self, node: SimulatedNode) -> None:
        for dead in (each for each in self.fleet.nodes.values() if each.process is None):
            self._start(dead)
        kind = self.chosen.random()
        if kind < 0.3:
            node.kill()
            if self.chosen.random() < 0.5:
                self._move("command")
            self._start(node)
        elif kind < 0.45:
            node.server.wrong_slots = {("walker.candidate", slot) for slot in range(9)}
        elif kind < 0.6:
            node.server.wrong_slots = {("walker", self._slot(node, self.chosen.choice(RELEASES)))}
        else:
            for each in self.fleet.nodes.values():
                each.server.wrong_slots = set()

    def _start(self, node: SimulatedNode) -> None:
        lost = self.lost
        for _ in range(3):
            with suppress(NodeCrash):
                node.start()
                break
        node_named, answers = node.named_in_store(), node.answers()
        if answers not in {node_named, None}:
            self.broken.append(f"{node.name} came back with {answers}, and has read that {node_named} is named")
        if node.name in self.away & self.withdrawing and answers is not None:
            self.broken.append(f"{node.name} came back with {answers}, and could not read the store")
        if node.name not in self.away and self.lost == lost and answers not in {self._named(), None}:
            self.broken.append(f"{node.name} came back with {answers}, the store names {self._named()}")

    def _agree(self) -> None:
        """Where nobody is cut off and every node can serve, all come to what the store names, within seconds."""
        fleet = self.fleet
        if self.away or any(node.server.wrong_slots or node.process is None for node in fleet.nodes.values()):
            return
        order, fleet.order, self.depth = fleet.order, lambda nodes: nodes, 1
        calls, self.calls = self.calls, dict.fromkeys(FAULTS, -1)
        fleet.settle(self._named())
        fleet.order, self.depth, self.calls = order, 0, calls
        self._all_serve(self._named(), "after a move")

    def _in_a_node(self, node: SimulatedNode) -> None:
        """Its reports are written by another thread: also in the middle of a move. There it may end as well."""
        self._end_node()
        if self.calls["node"] > 0 and self.chosen.random() < 0.05:
            raise NodeCrash
        if node.process is not None and self.chosen.random() < 0.1:
            node.process.report()

    def _end_node(self) -> None:
        self.calls["node"] -= 1
        if self.calls["node"] == 0:
            raise NodeCrash

    def _meet(self, likely: float) -> None:
        """Somebody else has a whole move carried out here, between what a command has read and what it does next."""
        if self.depth < 1 and self.chosen.random() < likely:
            self.depth += 1
            self._move("other")
            self.depth -= 1

    def _before(self, actor: str, doing: str) -> None:
        if actor in self.away:
            raise ServerError(f"{doing} failed: cut off")
        if actor == "command" and doing.startswith(("creating journal", "writing journal")):
            self._meet(0.4)
        if actor == "command":
            self.calls["crash"] -= 1
            if self.calls["crash"] == 0:
                raise Crash
        if actor in NAMES:
            self._end_node()

    def _after(self, actor: str, doing: str) -> None:
        if doing.startswith("writing nodes/"):
            self._note_report(doing.removeprefix("writing "))
        if doing.startswith("writing journal/"):
            self._forget_history()  # no code does that; some bug may
        if actor != "checker":
            self.calls["lose"] -= 1
            self.calls["lose record"] -= actor == "command" and doing.startswith("creating journal")
            if self.calls["lose"] == 0 or self.calls["lose record"] == 0:
                self.calls["lose record"] -= 1
                self.lost += 1
                raise ServerError(f"{doing}: the answer was lost")
        if actor in NAMES and doing.startswith("reading journal"):
            self.heard[actor] = self.fleet.now

    def _quiet(self) -> None:
        """All faults end: then every node comes to what the store names, and a move works."""
        self.away, self.calls, fleet = set(), dict.fromkeys(FAULTS, -1), self.fleet
        self.depth = 1  # nobody else commands any more
        fleet.order = lambda nodes: nodes
        for node in fleet.nodes.values():
            node.server.wrong_slots = set()
            if node.process is None:
                node.start()
        fleet.settle(self._named())
        self._all_serve(self._named(), "after all faults")
        with suppress(PolicyctlError):
            fleet.ask(AbortRequest())
        for release in RELEASES:
            began = fleet.now
            try:
                done = fleet.promote(release)
            except PolicyctlError as error:
                self.broken.append(f"a promotion after all faults: {error.problem}")
                continue
            if done.result["changed"] and done.result["nodes"] != list(NAMES):
                self.broken.append(f"a promotion after all faults: {done.words}")
            if fleet.now - began > 10:
                self.broken.append(f"a promotion after all faults took {fleet.now - began} s")
            self._all_serve(release, "after a promotion")
        node = fleet.nodes[self.chosen.choice(NAMES)]
        node.server.wrong_slots = {("walker", self._slot(node, RELEASES[0]))}
        fleet.rollback()
        node.server.wrong_slots = set()
        fleet.settle(RELEASES[0])
        self._all_serve(RELEASES[0], "after a rollback that one node could not follow at first")

    def _slot(self, node: SimulatedNode, release: str) -> int:
        found = node.control.repository.journal.state().releases.get(("walker", release))
        return 0 if found is None else found.slot

    # What a command says, and whether it is so.

    def _wanted(self) -> Wanted:
        kind = self.chosen.random()
        if kind < 0.6:
            others = [release for release in RELEASES if release != self._named()]
            return PromotionRequest(release=self.chosen.choice(others))
        return RollbackRequest() if kind < 0.95 else RemovalRequest(alias="production")

    def _move(self, actor: str) -> None:
        """One command, and whether what it says is so."""
        command, wanted, trail, lines = self.fleet.command(actor), self._wanted(), self._trail(), len(self.fleet.said)
        self.commands += 1
        command.journal.actor = by = f"{actor} {self.commands}"
        rest = command.sleep

        def sleep(seconds: float) -> None:
            self._meet(0.08)
            rest(seconds)

        command.sleep = sleep
        done: Done | None = None
        error: BaseException | None = None
        try:
            with self.fleet.acting(actor):
                done = command.carry_out(AliasRequest("walker", wanted))
        except (MoveError, BusyError, ServerError, UsageError, Crash) as raised:
            error = raised
        commits = [record for record in self._history() if record["by"] == by and record["kind"] == "switching"]
        for commit in commits:
            if commit["move_kind"] == "promotion" and self.certified.get(commit["move"], set()) != set(NAMES):
                self.broken.append(f"{commit} was committed, certified by {self.certified.get(commit['move'])}")
        if done is not None and done.result["changed"]:
            self._judge(done, commits)
            if isinstance(wanted, RollbackRequest) and not self.others and [done.result["to"]] != trail[-2:-1]:
                self.broken.append(f"a rollback went to {done.result['to']}, the releases before were {trail}")
            if not self.others and self._named() != done.result["to"]:
                self.broken.append(f"the command says {done.result['to']}, the store names {self._named()}")
        elif error is not None:
            self._judge_refusal(error, commits)
        if not isinstance(error, ServerError | Crash):
            says_open = any("may be open still" in line for line in self.fleet.said[lines:])
            if self._open_by() == by and not says_open:
                self.broken.append(f"{by} ended and left its move open: {error or done}")
        if actor == "other":
            self.others += 1
        elif self.depth == 0:
            self.others = 0

    def _judge(self, done: Done, commits: list[dict[str, Any]]) -> None:
        """A generation that a command names is its commit; a node that it names serves that, or what came after it."""
        result = done.result
        if [(each["seq"], each["to"]) for each in commits] != [(result["generation"], result["to"])]:
            self.broken.append(f"{done.words} The journal says {commits}")
        if result["kind"] == "promotion" and done.refusal is not None:
            self.broken.append(f"{done.refusal.problem} It was not taken back")
        if sorted([*result["nodes"], *result["not_yet"]]) != list(NAMES):
            self.broken.append(f"{done.words} It says nothing of some node")
        after = {
            each["to"]
            for each in self._history()
            if each["kind"] == "switching" and each["seq"] >= result["generation"]
        }
        for node in (self.fleet.nodes[name] for name in result["nodes"]):
            if node.process is not None and node.answers() not in after:
                self.broken.append(f"{done.words} {node.name} serves {node.answers()}")

    def _judge_refusal(self, error: BaseException, commits: list[dict[str, Any]]) -> None:
        """An error says what was changed, and no commit is behind one that says nothing of it."""
        named = [(each["move_kind"], each["to"]) for each in commits]
        match error:
            case MoveError() if "could not serve" in error.problem:
                is_so = bool(named) and (
                    "Somebody else" in error.problem
                    or named[-1] == ("rollback", commits[0]["from"])
                    or named[-1] == ("removal", None)
                )
            case ServerError() if "is committed as generation" in error.problem:
                is_so = f"generation {commits[-1]['seq']}," in error.problem if commits else False
            case ServerError() | Crash():
                is_so = True
            case _:
                is_so = not commits
        if not is_so:
            self.broken.append(f"the command says {error}, the journal says {commits}")

    def _note_report(self, key: str) -> None:
        report = json.loads(bytes(obstore.get(self.fleet.store, key).bytes()))
        self._history()
        for move in report["prepared"]:
            certified = self.certified.setdefault(move, set())
            if report["node"] not in certified and not self.fleet.nodes[report["node"]].has_certified(
                self.targets[move]
            ):
                self.broken.append(f"{report['node']} reports to have certified {self.targets[move]}, and has not")
            certified.add(report["node"])

    # What nodes serve.

    def _look(self, node: SimulatedNode) -> None:
        """Called after each look of a node."""
        answers, fleet = node.answers(), self.fleet
        committed = {(record["seq"], record["to"]) for record in self._history() if record["kind"] == "switching"}
        if answers is not None and (node.generation(), answers) not in committed:
            said = f"{node.name} answers by {answers} of generation {node.generation()}"
            self.broken.append(f"{said}, commits were {sorted(committed)}")
        lease_s = node.control.settings.fleet.lease_s
        unheard_s = fleet.now - self.heard[node.name]
        if node.name in self.withdrawing and unheard_s >= lease_s and answers is not None:
            self.broken.append(f"{node.name} serves {answers}, and has read nothing for {unheard_s} s")

    def _all_serve(self, release: str | None, when: str) -> None:
        if self.fleet.answers() != dict.fromkeys(NAMES, release):
            self.broken.append(f"{when} the store names {release}, the nodes serve {self.fleet.answers()}")

    # What the store's journal says, by separate rules.

    def _named(self) -> str | None:
        named = [record for record in self._history() if record["kind"] == "switching"]
        return named[-1]["to"] if named else None

    def _trail(self) -> list[str | None]:
        """The releases that the alias came by: a rollback shortens it, a removal empties it."""
        trail: list[str | None] = []
        for record in self._history():
            if record["kind"] != "switching":
                continue
            to = record["to"]
            if to is None:
                trail = []
            elif record["move_kind"] == "rollback" and to in trail[:-1]:
                trail = trail[: len(trail) - 1 - trail[-2::-1].index(to)]
            else:
                trail.append(to)
        return trail

    def _open_by(self) -> str:
        """Who began the move that is open; empty for none."""
        self._history()
        return self.opened.get("by", "")

    def _history(self) -> list[dict[str, Any]]:
        """Every record that counts: a commit or an outcome counts while its move is open."""
        with suppress(FileNotFoundError):
            while True:
                self._take(self.fleet.record(self.taken))
                self.taken += 1
        return self.history

    def _take(self, record: dict[str, Any]) -> None:
        body, said = record["body"], {"seq": record["seq"], "kind": record["kind"]}
        if record["kind"] == "intent":
            if self.opened and body["move_kind"] == "promotion":
                self.broken.append(f"a promotion began while {self.opened} was being prepared")
            self.opened = {
                "move": body["move"],
                "by": record["actor"],
                "move_kind": body["move_kind"],
                "from": body["incumbent"] and body["incumbent"]["release"],
                "to": body["target"] and body["target"]["release"],
            }
            self.targets[body["move"]] = self.opened["to"]
            self.history.append({**self.opened, **said})
        elif body["move"] == self.opened.get("move"):
            self.history.append({**self.opened, **said})
            self.opened = {}

    def _forget_history(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.opened: dict[str, Any] = {}
        self.taken = 0


def broken_by(
    fleet_type: type[FleetWorld],
    publisher: Objects,
    seed: int,
    *,
    put: Callable[[pytest.MonkeyPatch], None] | None = None,
) -> list[str]:
    """The promises that one seed breaks on nodes without a folder; `put` puts a bug into the code before."""
    with pytest.MonkeyPatch.context() as patch:
        if put is not None:
            put(patch)
        try:
            return Schedule(fleet_type(Path("/none"), patch, publisher), seed).run()
        except (PolicyctlError, AssertionError, KeyError) as error:
            return [f"{type(error).__name__}: {error}"]
