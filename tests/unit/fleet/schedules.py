"""Anything in any order: commands that meet, crash or are cut off, nodes that die, answers that are lost.

`schedule` draws all of that from a seed and looks after every step whether a
promise was broken. What it looks at is what clients and people see: who answers
by which release, and what a command says that it did.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fleet_world import NAMES, Crash, FleetWorld, SimulatedNode

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

RELEASES = ("1.0.0", "1.1.0")
MOVES = 14
FAULTS = {"crash": 80, "lose": 80, "lose record": 8}
"""Each comes once, at a request of a number below that, or not at all: a command ends, an answer is lost."""


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
        self.depth = self.others = 0

    def run(self) -> list[str]:
        """What was broken; empty for nothing."""
        fleet, chosen = self.fleet, self.chosen
        fleet.promote("1.0.0")
        fleet.before, fleet.after = self._before, self._after
        fleet.order = lambda nodes: chosen.sample(nodes, chosen.randrange(len(nodes) + 1))
        fleet.looked, fleet.meanwhile = self._look, self._report_early
        for _ in range(MOVES):
            self.away = set(chosen.sample([*NAMES, "command"], chosen.choice([0, 0, 0, 0, 1, 2])))
            self.calls = {name: chosen.randrange(most) for name, most in FAULTS.items()}
            self._disturb(fleet.nodes[chosen.choice(NAMES)])
            self._move("command")
            self._agree()
        self._quiet()
        return self.broken

    def _disturb(self, node: SimulatedNode) -> None:
        kind = self.chosen.random()
        if kind < 0.3:
            node.kill()
            if self.chosen.random() < 0.5:
                self._move("command")
            node.start()
            named = self._named()
            if node.name not in self.away and node.answers() not in {named, None}:
                self.broken.append(f"{node.name} came back with {node.answers()}, the store names {named}")
        elif kind < 0.45:
            node.server.wrong_slots = {("walker.candidate", slot) for slot in range(9)}
        elif kind < 0.6:
            node.server.wrong_slots = {("walker", self._slot(node, self.chosen.choice(RELEASES)))}
        else:
            for each in self.fleet.nodes.values():
                each.server.wrong_slots = set()

    def _agree(self) -> None:
        """Where nobody is cut off and every node can serve, all come to what the store names, within seconds."""
        fleet = self.fleet
        if self.away or any(node.server.wrong_slots or node.process is None for node in fleet.nodes.values()):
            return
        order, fleet.order, self.depth = fleet.order, lambda nodes: nodes, 1
        fleet.settle(self._named())
        fleet.order, self.depth = order, 0
        self._all_serve(self._named(), "after a move")

    def _report_early(self, node: SimulatedNode) -> None:
        """Its reports are written by another thread: also in the middle of a move."""
        if node.process is not None and self.chosen.random() < 0.1:
            node.process.report()

    def _slot(self, node: SimulatedNode, release: str) -> int:
        found = node.control.repository.journal.state().releases.get(("walker", release))
        return 0 if found is None else found.slot

    def _wanted(self) -> Wanted:
        kind = self.chosen.random()
        if kind < 0.6:
            others = [release for release in RELEASES if release != self._named()]
            return PromotionRequest(release=self.chosen.choice(others))
        return RollbackRequest() if kind < 0.95 else RemovalRequest(alias="production")

    def _move(self, actor: str) -> None:
        """One command, and whether what it says is so."""
        command, wanted, before, trail = self.fleet.command(actor), self._wanted(), self._named(), self._trail()
        rest = command.sleep

        def sleep(seconds: float) -> None:
            self._meet(0.08)
            rest(seconds)

        command.sleep = sleep
        done: Done | None = None
        try:
            with self.fleet.acting(actor):
                done = command.carry_out(AliasRequest("walker", wanted))
        except MoveError as error:
            unchanged = "Nothing was changed" in error.problem and not self.depth and not self.others
            if unchanged and self._named() != before:
                self.broken.append(f"{error.problem}, but the store names {self._named()}")
        except (BusyError, ServerError, UsageError, Crash):
            pass
        if done is not None and done.refusal is None and done.result["changed"] and not self.others:
            for name in done.result["nodes"]:
                answers = self.fleet.nodes[name].answers()
                if answers != done.result["to"]:
                    self.broken.append(f"the command says that {name} serves {done.result['to']}, it serves {answers}")
            if isinstance(wanted, RollbackRequest) and [done.result["to"]] != trail[-2:-1]:
                self.broken.append(f"a rollback went to {done.result['to']}, the releases before were {trail}")
            if self._named() != done.result["to"]:
                self.broken.append(f"the command says {done.result['to']}, the store names {self._named()}")
        if actor == "other":
            self.others += 1
        elif self.depth == 0:
            self.others = 0

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

    def _after(self, actor: str, doing: str) -> None:
        if actor != "checker":
            self.calls["lose"] -= 1
            self.calls["lose record"] -= actor == "command" and doing.startswith("creating journal")
            if self.calls["lose"] == 0 or self.calls["lose record"] == 0:
                self.calls["lose record"] -= 1
                raise ServerError(f"{doing}: the answer was lost")

    def _look(self) -> None:
        """An answer names a commit, and is by the release of that commit."""
        committed = {(record["seq"], record["to"]) for record in self._history() if record["kind"] == "switching"}
        for node in self.fleet.nodes.values():
            answers = node.answers()
            if answers is not None and (node.generation(), answers) not in committed:
                said = f"{node.name} answers by {answers} of generation {node.generation()}"
                self.broken.append(f"{said}, commits were {sorted(committed)}")

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
            try:
                fleet.promote(release)
            except PolicyctlError as error:
                self.broken.append(f"a promotion after all faults: {error.problem}")
            self._all_serve(release, "after a promotion")
        node = fleet.nodes[self.chosen.choice(NAMES)]
        node.server.wrong_slots = {("walker", self._slot(node, RELEASES[0]))}
        fleet.rollback()
        node.server.wrong_slots = set()
        fleet.settle(RELEASES[0])
        self._all_serve(RELEASES[0], "after a rollback that one node could not follow at first")

    def _all_serve(self, release: str | None, when: str) -> None:
        if self.fleet.answers() != dict.fromkeys(NAMES, release):
            self.broken.append(f"{when} the store names {release}, the nodes serve {self.fleet.answers()}")

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

    def _history(self) -> list[dict[str, Any]]:
        """What the store's journal says, by separate rules: a commit counts while its move is open."""
        opened: dict[str, tuple[str, str | None]] = {}
        found = []
        for record in self.fleet.records():
            body = record["body"]
            if record["kind"] == "intent":
                opened = {body["move"]: (body["move_kind"], body["target"] and body["target"]["release"])}
            elif body["move"] in opened:
                kind, target = opened.pop(body["move"])
                found.append({"seq": record["seq"], "kind": record["kind"], "move_kind": kind, "to": target})
        return found
