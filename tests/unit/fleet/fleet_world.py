"""A fleet in one thread: a store in memory, nodes on real repositories, and a clock that only waiting moves.

Everything that decides is the real code: the journal of the store, the moves of
a command, what a node does. Of a node only Triton is a stand-in, the file of
`world.FileServer`. Who waits lets the others take their steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import obstore
from obstore.store import MemoryStore
from world import CONTRACT, WIDER, FileServer, supervising, write_export

from policyctl.adapters import bucket as bucket_module
from policyctl.adapters import endpoint as endpoints
from policyctl.adapters import fleet_store
from policyctl.adapters.bucket import Bucket
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.pbtxt import generation_of
from policyctl.domain.operations import Done
from policyctl.errors import PolicyctlError, ServerError
from policyctl.services import control as control_module
from policyctl.services.control import Control
from policyctl.services.fleet.moves import Fleet
from policyctl.services.fleet.node import Node
from policyctl.services.moves.aliases import load_alias
from policyctl.services.moves.recovery import recover_all
from policyctl.services.observed import Observed
from policyctl.services.releases.publish import publish
from policyctl.services.releases.transfer import export_release
from policyctl.services.rollout.request import AliasRequest, PromotionRequest, RollbackRequest, Wanted
from policyctl.settings import load

STORE = "s3://policies/robots"
STEP_S = 0.5
NAMES = ("a", "b", "c")


class Crash(BaseException):
    """The process ends here."""


class OneAfterTheOther:
    """What is asked at once is asked in order, so that a seed always gives the same schedule."""

    def __init__(self, _count: int) -> None: ...

    def __enter__(self) -> OneAfterTheOther:
        return self

    def __exit__(self, *_: object) -> None: ...

    map = staticmethod(map)


class SimulatedNode:
    """One node: its repository and its server outlive its process."""

    def __init__(self, fleet: FleetWorld, name: str) -> None:
        self.fleet, self.name = fleet, name
        self.root = fleet.folder / name / "model_repository"
        settings = {"store": STORE, "node": name}
        self.control = Control.of(load(repository=self.root, fleet=settings), fleet.said.append)
        self.control.repository.create()
        self.supervisor = supervising(self.control.repository)
        self.runs = 0
        self.process: Node | None = None

    def start(self) -> None:
        """A process and a server that know nothing of earlier ones but what is on the disk."""
        self.runs += 1
        self.server = FileServer(self.root, self.root.parent / f"memory-{self.runs}.json", f"{self.name}{self.runs}")
        address = f"{self.name}:{self.runs}"
        self.fleet.servers[address] = self.server
        self.server.before_call = lambda _name: self.fleet.meanwhile(self)
        endpoints.clear(self.control.repository)
        with self.fleet.acting(self.name):
            process = Node(self.control, Observed(), Event(), clock=self.fleet.clock)
            process.begin()
        # The supervisor's part: what a crash left is settled, and what the journal names is loaded.
        with self.control.repository.writer("start of the server"):
            recover_all(self.control, self.server)
            for key, named in self.control.repository.journal.state().aliases.items():
                with suppress(PolicyctlError):
                    load_alias(self.control, self.server, key, named)
        endpoints.write(self.control.repository, Endpoint("", address, server_id=self.server.endpoint.server_id))
        self.process = process

    def kill(self) -> None:
        """Nothing answers any more."""
        self.process = None
        self.server.memory.unlink(missing_ok=True)
        endpoints.clear(self.control.repository)

    def step(self) -> None:
        """What its threads do in one look."""
        if self.process is not None:
            with self.fleet.acting(self.name):
                self.process.follow()
                self.process.prepare()
                self.process.report()

    def named_in_store(self) -> str | None:
        """What the store's journal names, as far as the node has read it."""
        named = None if self.process is None else self.process._state.named("walker", "production")
        return None if named is None else named.release

    def answers(self, model: str = "walker") -> str | None:
        """The release that answers a request now."""
        slot = self.server.serving().get(model) if self.process is not None else None
        return None if slot is None else self.control.repository.journal.state().slots(model)[str(slot)]

    def generation(self, model: str = "walker") -> int:
        """The generation that its answers name now."""
        return generation_of(self.server.configurations[model])


class FleetWorld:
    """A store, its nodes, and time."""

    def __init__(self, folder: Path, monkeypatch, publisher: Path) -> None:
        self.folder, self.now = folder, 1000.0
        self.said: list[str] = []
        self.servers: dict[str, FileServer] = {}
        self.store = MemoryStore()
        self.actor = ""
        self.before: Callable[[str, str], None] = lambda _actor, _doing: None
        self.after: Callable[[str, str], None] = lambda _actor, _doing: None
        self.meanwhile: Callable[[SimulatedNode], None] = lambda _node: None
        self.looked: Callable[[], None] = lambda: None
        self.order: Callable[[list[SimulatedNode]], list[SimulatedNode]] = lambda nodes: nodes
        asking = Bucket._asking

        @contextmanager
        def asked(bucket: Bucket, doing: str) -> Iterator[None]:
            self.before(self.actor, doing)
            with asking(bucket, doing):
                yield
            self.after(self.actor, doing)

        monkeypatch.setattr(Bucket, "_asking", asked)
        monkeypatch.setattr(fleet_store, "ThreadPoolExecutor", OneAfterTheOther)
        monkeypatch.setattr(bucket_module, "_opened", lambda _url, _patience_s: self.store)
        monkeypatch.setattr(control_module, "Triton", lambda endpoint, **_: self.servers[endpoint.grpc])
        source = Control.of(load(repository=publisher / "model_repository"))
        for release in ("1.0.0", "1.1.0", "2.0.0"):
            export_release(source, model="walker", release=release, destination=STORE)
        self.nodes = {name: SimulatedNode(self, name) for name in NAMES}
        for node in self.nodes.values():
            node.start()
            node.step()

    @staticmethod
    def published(folder: Path) -> Path:
        """A repository with three releases, of which the last has another contract."""
        control = Control.of(load(repository=folder / "model_repository"))
        for release, seed, contract in (("1.0.0", 1, CONTRACT), ("1.1.0", 2, CONTRACT), ("2.0.0", 3, WIDER)):
            source = write_export(folder / release, seed, contract=contract)
            publish(control, source, model="walker", release=release)
        return folder

    def close(self) -> None:
        for node in self.nodes.values():
            node.supervisor.close()

    def clock(self) -> float:
        return self.now

    @contextmanager
    def acting(self, name: str) -> Iterator[None]:
        """Who asks the store within is `name`."""
        before, self.actor = self.actor, name
        try:
            yield
        finally:
            self.actor = before

    def rest(self, seconds: float = STEP_S) -> None:
        """Time passes, and every node looks once."""
        self.now += max(seconds, STEP_S)
        for node in self.order(list(self.nodes.values())):
            node.step()
            self.looked()

    def settle(self, release: str | None = "") -> None:
        """Time passes until every node answers by `release`, or all by any one where that is empty."""
        for _ in range(80):
            self.rest(2.0)
            found = {node.answers() for node in self.nodes.values() if node.process is not None}
            if len(found) == 1 and release in {"", *found}:
                return

    def command(self, actor: str = "command") -> Fleet:
        """A fresh process that commands the fleet."""

        def sleep(seconds: float) -> None:
            with self.acting(""):
                self.rest(seconds)

        fleet = Fleet(
            load(repository=self.folder / "none", fleet={"store": STORE}), self.said.append, self.clock, sleep
        )
        fleet.journal.actor = actor
        return fleet

    def ask(self, wanted: Wanted, *, actor: str = "command") -> Done:
        """Have something carried out by a fresh command."""
        with self.acting(actor):
            return self.command(actor).carry_out(AliasRequest("walker", wanted))

    def promote(self, release: str, **more: Any) -> Done:
        return self.ask(PromotionRequest(release=release, **more))

    def rollback(self, **more: Any) -> Done:
        return self.ask(RollbackRequest(**more))

    def answers(self) -> dict[str, str | None]:
        """The release that answers on each node."""
        return {name: node.answers() for name, node in self.nodes.items()}

    def cut_off(self, *names: str) -> None:
        """The store does not answer these from now on."""

        def refuse(actor: str, doing: str) -> None:
            if actor in names:
                raise ServerError(f"{doing} failed: cut off")

        self.before = refuse

    def records(self) -> list[dict[str, Any]]:
        """The records of the store's journal as they lie there."""
        keys = sorted(each["path"] for page in obstore.list(self.store, "journal") for each in page)
        return [json.loads(bytes(obstore.get(self.store, key).bytes())) for key in keys]
