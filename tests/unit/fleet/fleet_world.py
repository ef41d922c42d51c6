"""A fleet in one thread: a store in memory, nodes on real repositories, and a clock that only waiting moves.

Everything that decides is the real code: the journal of the store, the moves of
a command, what a node does. Of a node only Triton is a stand-in, the file of
`world.FileServer`; of a `light_fleet.LightNode` the repository is one as well.
Who waits lets the others take their steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError
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
from policyctl.settings import CutOff, Settings, load

Objects = Mapping[str, bytes]
"""What lies in a store, by key."""
STORE = "s3://policies/robots"
STEP_S = 0.5
NAMES = ("a", "b", "c")


class Crash(BaseException):
    """The process ends here."""


class NodeCrash(BaseException):
    """The process of a node ends here, and its server with it."""


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
        self.control = Control.of(fleet.settings(repository=self.root, node=name), fleet.said.append)
        self.runs = 0
        self.process: Node | None = None
        self.prepare_machine()

    def prepare_machine(self) -> None:
        """What is there before its first start."""
        self.control.repository.create()
        self.supervisor = supervising(self.control.repository)

    def close(self) -> None:
        """Let go of the machine."""
        self.supervisor.close()

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
        if self.process is None:
            return
        try:
            with self.fleet.acting(self.name):
                self.process.follow()
                self.process.keep_lease()
                self.process.prepare()
                self.process.report()
        except NodeCrash:
            self.kill()

    def withdraws(self, when: CutOff) -> None:
        """What it does once its lease is over."""
        changed = self.control.settings.fleet.model_copy(update={"when_cut_off": when})
        self.control.settings = self.control.settings.model_copy(update={"fleet": changed})

    def has_certified(self, _release: str) -> bool:
        """Whether this run of its server answered as a candidate; a light node knows by which release."""
        return self.server.answers["walker.candidate"] > 0

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

    Node: type[SimulatedNode] = SimulatedNode

    def __init__(self, folder: Path, monkeypatch, publisher: Objects) -> None:
        self.folder, self.now = folder, 1000.0
        self.said: list[str] = []
        self.servers: dict[str, FileServer] = {}
        self.store = MemoryStore()
        self.actor = ""
        self.before: Callable[[str, str], None] = lambda _actor, _doing: None
        self.after: Callable[[str, str], None] = lambda _actor, _doing: None
        self.meanwhile: Callable[[SimulatedNode], None] = lambda _node: None
        self.looked: Callable[[SimulatedNode], None] = lambda _node: None
        self.order: Callable[[list[SimulatedNode]], list[SimulatedNode]] = lambda nodes: nodes
        asking = Bucket._asking

        @contextmanager
        def asked(bucket: Bucket, doing: str) -> Iterator[None]:
            self.before(self.actor, doing)
            try:
                with asking(bucket, doing):
                    yield
            except (FileNotFoundError, AlreadyExistsError):
                self.after(self.actor, doing)
                raise
            self.after(self.actor, doing)

        monkeypatch.setattr(Bucket, "_asking", asked)
        monkeypatch.setattr(fleet_store, "ThreadPoolExecutor", OneAfterTheOther)
        monkeypatch.setattr(bucket_module, "_opened", lambda _url, _patience_s, **_: self.store)
        self.stand_in(monkeypatch)
        for key, content in publisher.items():
            obstore.put(self.store, key, content)
        self.nodes = {name: self.Node(self, name) for name in NAMES}
        for node in self.nodes.values():
            node.start()
            node.step()

    def stand_in(self, monkeypatch) -> None:
        """Put the simulated servers in the place of Triton."""
        monkeypatch.setattr(control_module, "Triton", lambda endpoint, **_: self.servers[endpoint.grpc])

    def settings(self, *, repository: Path, node: str = "") -> Settings:
        """Those of a node, or of a command."""
        return load(repository=repository, fleet={"store": STORE, "node": node})

    @staticmethod
    def published(folder: Path) -> Objects:
        """What a store holds to which three releases were exported; the last has another contract."""
        control, store = Control.of(load(repository=folder / "model_repository")), MemoryStore()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bucket_module, "_opened", lambda _url, _patience_s, **_: store)
            for release, seed, contract in (("1.0.0", 1, CONTRACT), ("1.1.0", 2, CONTRACT), ("2.0.0", 3, WIDER)):
                source = write_export(folder / release, seed, contract=contract)
                publish(control, source, model="walker", release=release)
                export_release(control, model="walker", release=release, destination=STORE)
        keys = [each["path"] for page in obstore.list(store) for each in page]
        return {key: bytes(obstore.get(store, key).bytes()) for key in keys}

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()

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
            self.looked(node)

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

        fleet = Fleet(self.settings(repository=self.folder / "none"), self.said.append, self.clock, sleep)
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

    def record(self, number: int) -> dict[str, Any]:
        """A record of the store's journal as it lies there."""
        found: dict[str, Any] = json.loads(bytes(obstore.get(self.store, f"journal/{number:012d}").bytes()))
        return found
