"""The same fleet with nodes whose repository is a few values: thousands of schedules in the time of some.

What a node decides is the real code still, and so are the commands and the
store. The moves inside one repository are what other tests are about
(`tests/unit/moves`); here each of them is one step that certifies, switches, and
may end in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

from fleet_world import STORE, FleetWorld, SimulatedNode

from policyctl.adapters import fleet_store
from policyctl.adapters.bucket import Bucket
from policyctl.adapters.bucket_releases import BucketReleases
from policyctl.adapters.endpoint import Endpoint
from policyctl.domain.artifacts import Format
from policyctl.domain.moves import Move, MoveKind, Placement
from policyctl.domain.oci import read_artifact
from policyctl.domain.probes import AliasKey
from policyctl.errors import GateError, MoveError
from policyctl.services.fleet import node as node_module
from policyctl.services.fleet.node import Node
from policyctl.services.observed import Observed
from policyctl.settings import Settings, load


@dataclass
class LightServer:
    """A Triton that answers as it is said to, until it starts again."""

    wrong_slots: set[tuple[str, int]] = field(default_factory=set)
    serving: dict[str, Placement] = field(default_factory=dict)
    passed: set[tuple[str, int]] = field(default_factory=set)
    before_call: Callable[[str], None] = lambda _name: None


@dataclass
class LightRepository:
    """What a node reads of its repository and its journal; it is there also after a crash."""

    root: Path
    node: LightNode
    aliases: dict[AliasKey, Any] = field(default_factory=dict)
    releases: dict[tuple[str, str], Any] = field(default_factory=dict)
    unfinished: dict[str, Any] = field(default_factory=dict)

    @property
    def control(self) -> Path:
        return self.root / ".policyctl"

    @property
    def journal(self) -> LightRepository:
        return self

    def state(self) -> LightRepository:
        return self

    def alias(self, model: str, alias: str) -> Any:
        return self.aliases.get((model, alias))

    @contextmanager
    def writer(self, _doing: str, **_: Any) -> Iterator[None]:
        yield


class LightNode(SimulatedNode):
    """A node of values."""

    def prepare_machine(self) -> None:
        self.here = LightRepository(self.root, self)
        self.control.repository = self.here
        self.fleet.repositories[self.root] = self.here

    def close(self) -> None: ...

    def start(self) -> None:
        """A fresh process, and a fresh server without faults."""
        self.runs += 1
        self.endpoint: Endpoint | None = None
        self.server = LightServer(before_call=lambda _name: self.fleet.meanwhile(self))
        with self.fleet.acting(self.name):
            process = Node(self.control, Observed(), Event(), clock=self.fleet.clock)
            process.begin()
        # The supervisor's part: a move that had switched is finished, and what the journal names is loaded.
        for open_move in self.here.unfinished.values():
            self.here.aliases[open_move.move.model, open_move.move.alias] = SimpleNamespace(
                placement=open_move.move.target
            )
        self.here.unfinished.clear()
        self.server.serving = {model: named.placement for (model, _), named in self.here.aliases.items()}
        self.endpoint = Endpoint("", f"{self.name}:{self.runs}", server_id=f"{self.name}{self.runs}")
        self.process = process

    def kill(self) -> None:
        self.process, self.endpoint = None, None
        self.server.serving.clear()

    def has_certified(self, release: str) -> bool:
        known = self.here.releases.get(("walker", release))
        return known is not None and ("walker.candidate", known.slot) in self.server.passed

    def answers(self, model: str = "walker") -> str | None:
        served = self.server.serving.get(model) if self.process is not None else None
        return None if served is None else served.release

    def generation(self, model: str = "walker") -> int:
        return int(self.server.serving[model].config)


class LightFleet(FleetWorld):
    """A fleet of light nodes."""

    Node = LightNode

    def stand_in(self, monkeypatch) -> None:
        self.repositories: dict[Path, LightRepository] = {}
        disk: dict[Path, bytes] = {}

        def read_plain(path: Path, **_: Any) -> bytes:
            if path not in disk:
                raise FileNotFoundError(path)
            return disk[path]

        files = SimpleNamespace(write_atomically=disk.__setitem__)
        for module, stand_ins in (
            (fleet_store, {"read_plain": read_plain, "files": files}),
            (node_module, {**STAND_INS, "Repository": lambda root, **_: self.repositories[root]}),
        ):
            for name, value in stand_ins.items():
                monkeypatch.setattr(module, name, value)

    def settings(self, *, repository: Path, node: str = "") -> Settings:
        return _settings(node).model_copy(update={"repository": repository})


@cache
def _settings(node: str) -> Settings:
    return load(fleet={"store": STORE, "node": node})


def _certify(here: LightRepository, served: str, slot: int) -> bool:
    here.node.server.before_call(f"infer {served}")
    if (served, slot) in here.node.server.wrong_slots:
        return False
    here.node.server.passed.add((served, slot))
    return True


def promote(control: Any, *, model: str, release: str, alias: str, reason: str, generation: int, **_: Any) -> None:
    """Certify a release as a candidate, switch to it, and back where it answers wrongly under the alias."""
    here, server = control.repository, control.repository.node.server
    published, before = here.releases[model, release], here.aliases.get((model, alias))
    target = Placement(release, published.slot, published.manifest_digest, Format.ONNX, str(generation))
    if not _certify(here, f"{model}.candidate", target.slot):
        raise MoveError(f"{model} {release} answers wrongly as a candidate")
    incumbent = None if before is None else before.placement
    move = Move("local", MoveKind.PROMOTION, model, alias, incumbent, target, reason)
    here.unfinished[model] = SimpleNamespace(move=move)
    server.before_call(f"load {model}")
    server.serving[model] = target
    right = _certify(here, model, target.slot)
    here.unfinished.clear()
    if right:
        here.aliases[model, alias] = SimpleNamespace(placement=target)
        return
    _serve(here, model, incumbent)
    raise MoveError(f"{model} {release} answers wrongly under {alias}")


def _serve(here: LightRepository, model: str, placement: Placement | None) -> None:
    if placement is None:
        here.node.server.serving.pop(model, None)
    else:
        here.node.server.serving[model] = placement


def unserve(control: Any, *, model: str, alias: str, **_: Any) -> None:
    """Take an alias out of service."""
    control.repository.node.server.before_call(f"unload {model}")
    _serve(control.repository, model, None)
    del control.repository.aliases[model, alias]


def forget(control: Any, *, model: str, alias: str, **_: Any) -> None:
    """Take an alias out of service while no server runs."""
    del control.repository.aliases[model, alias]


def end_unfinished(control: Any, move: Move) -> None:
    """End a move that a crash left open."""
    del control.repository.unfinished[move.model]


def import_release(control: Any, _source: str, *, digest: str, **_: Any) -> Any:
    """Read the manifest of a release from the store."""
    artifact = read_artifact(BucketReleases(Bucket(STORE)).manifest(digest))
    known = control.repository.releases
    known.setdefault(
        (artifact.model, artifact.release),
        SimpleNamespace(manifest_digest=artifact.config.digest, slot=len(known) + 1, collected=None),
    )
    return SimpleNamespace(model=artifact.model, release=artifact.release, manifest_digest=artifact.config.digest)


def validate(control: Any, *, model: str, release: str) -> bool:
    """Whether a candidate answers its golden set."""
    return _certify(control.repository, f"{model}.candidate", control.repository.releases[model, release].slot)


def require_passed(passed: bool, model: str, release: str) -> None:
    """Refuse what failed."""
    if not passed:
        raise GateError(f"{model} {release} answers wrongly")


STAND_INS = {
    "generation_of": int,
    "endpoints": SimpleNamespace(read=lambda here: here.node.endpoint),
    "promote": promote,
    "unserve": unserve,
    "forget": forget,
    "end_unfinished": end_unfinished,
    "import_release": import_release,
    "validate": validate,
    "require_passed": require_passed,
}
