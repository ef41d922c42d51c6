"""A repository on disk with tiny releases, and a server that is one file.

The server keeps what it serves in a JSON file, so it outlives a process that
is killed in the middle of a move, as the real one does. It reads
configurations and slots from the repository the way the real backends do
(nothing is served that is not intact) and answers the golden set of the
release it serves.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.repository import Repository
from policyctl.adapters.triton import LOADING, Answer, LoadUnderWayError
from policyctl.adapters.triton_calls import Served
from policyctl.domain.artifacts import CARD_FILE, CONTRACT_FILE, GOLDEN_FILE, PARITY_FILE
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.golden import Golden
from policyctl.domain.manifest import canonical_json, digest_of
from policyctl.domain.parity import Tolerance
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import IntegrityError, ServerError
from policyctl.integrity import read_file, read_release
from policyctl.services import control as control_module
from policyctl.services.control import Control
from policyctl.services.integrity import verify as verify_module
from policyctl.services.releases.publish import publish
from policyctl.services.rollout.promote import promote
from policyctl.serving.backend_directory import code_problems
from policyctl.settings import load

CONTRACT = Contract(
    observations=(TensorSpec("observation", "float32", (3,)),),
    outputs=(TensorSpec("action", "float32", (1,), low=-1.0, high=1.0),),
    action_kind=ActionKind.CONTINUOUS,
)


WIDER = replace(CONTRACT, observations=(TensorSpec("observation", "float32", (4,)),))
"""It takes four features where `CONTRACT` takes three: each breaks the other."""


INSTALLED_CODE = cache(code_problems)
"""What is wrong with installed code: nobody changes it while tests run, and to hash it takes most of a `verify`."""


def golden(seed: int, rows: int = 5, *, contract: Contract = CONTRACT) -> Golden:
    """A golden set that no other seed's release answers."""
    rng = np.random.default_rng(seed)
    return Golden(
        {spec.name: rng.normal(size=(rows, *spec.shape)).astype(np.float32) for spec in contract.observations},
        {spec.name: rng.normal(size=(rows, *spec.shape)).astype(np.float32) for spec in contract.outputs},
        Tolerance(),
    )


def write_export(folder: Path, seed: int, *, agrees: bool = True, contract: Contract = CONTRACT) -> Path:
    """What `policyctl export` would write, with a few bytes for a model."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"onnx of seed %d" % seed)
    (folder / CONTRACT_FILE).write_bytes(canonical_json(contract.to_json()))
    (folder / GOLDEN_FILE).write_bytes(golden(seed, contract=contract).to_bytes())
    files = {"model.onnx": digest_of((folder / "model.onnx").read_bytes())}
    parity = {"schema": 1, "formats": {"onnx": {"comparisons": [{"agrees": agrees, "rows": 5}], "files": files}}}
    (folder / PARITY_FILE).write_bytes(canonical_json(parity))
    (folder / CARD_FILE).write_text("schema_version: 2\n")
    return folder


class FileServer:
    """A Triton whose memory is a file."""

    def __init__(self, root: Path, memory: Path, server_id: str = "s1") -> None:
        self.root, self.memory = root, memory
        self.endpoint = Endpoint("fake:1", "fake:2", server_id=server_id, supervisor="a supervisor")
        self.before_call = lambda _name: None
        self.wrong_slots: set[tuple[str, int]] = set()
        self.endless: set[tuple[str, int]] = set()
        """Loads that never end once they have begun."""
        self.loading: dict[str, int] = {}
        self.calls: list[str] = []
        self.answers = Counter[str]()
        self.configurations: dict[str, str] = {}
        """The text by which each model was loaded last."""

    def close(self) -> None: ...

    def require_live(self) -> None: ...

    def require_sees(self, folder: str) -> None: ...

    version_number = "2.51.0"

    def version(self) -> str:
        return self.version_number

    def repository(self) -> str:
        return Repository(self.root).id

    def answered(self, name: str) -> int:
        return self.answers[name]

    def is_live(self) -> bool:
        return True

    def serving(self) -> dict[str, int]:
        return json.loads(self.memory.read_text()) if self.memory.exists() else {}

    def _remember(self, serving: dict[str, int]) -> None:
        temporary = self.memory.with_suffix(".tmp")
        temporary.write_text(json.dumps(serving))
        temporary.replace(self.memory)

    def index(self) -> tuple[Served, ...]:
        ready = (Served(name, slot, "READY", "") for name, slot in self.serving().items())
        return (*ready, *(Served(name, slot, LOADING, "") for name, slot in self.loading.items()))

    def load(self, name: str, slot: int, *, interrupt: Callable[[], None] | None = None) -> None:
        self.before_call(f"load {name}")
        self.calls.append(f"load {name}")
        self.require_no_load(name)
        if (name, slot) in self.endless:
            self.loading[name] = slot
            for _ in range(100):
                if interrupt is not None:
                    interrupt()
            raise ServerError(f"cannot load {name}: Deadline Exceeded")
        try:
            text = (self.root / name / "config.pbtxt").read_text()
            config = text_format.Parse(text, model_config_pb2.ModelConfig())
            (version,) = config.version_policy.specific.versions
            digest = config.parameters["manifest_digest"].string_value
            read_release(self.root / name / str(version), expected_digest=digest)
        except (OSError, IntegrityError) as error:
            raise ServerError(f"load {name}: {error}") from error
        self._remember({**self.serving(), name: version})
        self.configurations[name] = text
        self.before_call(f"loaded {name}")
        if version != slot:
            raise ServerError(f"{name}: slot {slot} did not become ready")

    def require_no_load(self, name: str) -> None:
        if name in self.loading:
            raise LoadUnderWayError(f"an earlier load of {name} has not ended")

    def unload(self, name: str) -> None:
        self.before_call(f"unload {name}")
        self.calls.append(f"unload {name}")
        self.require_no_load(name)
        self._remember({k: v for k, v in self.serving().items() if k != name})
        self.before_call(f"unloaded {name}")

    def infer(self, name, observations, outputs, *, slot=None) -> Answer:
        self.before_call(f"infer {name}")
        serving = self.serving().get(name)
        if serving is None:
            raise ServerError(f"{name} is not served")
        folder = self.root / name / str(serving)
        try:
            contract = Contract.from_json(json.loads(read_file(folder / CONTRACT_FILE)))
            known = Golden.from_bytes(read_file(folder / GOLDEN_FILE), contract)
        except IntegrityError as error:  # the real one has them in memory
            raise ServerError(error.problem) from error
        spec, golden_rows = contract.observations[0], []
        for row in observations[spec.name]:
            (match,) = np.nonzero((known.observations[spec.name] == row).all(axis=1))
            golden_rows.append(match[0] if len(match) else -1)
        answer = {key: values[golden_rows] for key, values in known.outputs.items()}
        answer["action"][np.array(golden_rows) < 0] = 9.0
        if (name, serving) in self.wrong_slots:
            answer["action"] += 1.0
        self.answers[name] += 1
        return Answer(serving, answer)


def supervising(repository: Repository) -> BinaryIO:
    """What `policyctl serve` locks while it runs, so that what is announced counts; open for reading alone."""
    path = endpoints.supervisor_lock(repository)
    path.touch()
    stream = path.open("rb")
    fcntl.flock(stream, fcntl.LOCK_EX)
    return stream


class World:
    """A repository, its server, and the control plane that joins them."""

    def __init__(self, folder: Path, monkeypatch, *, begin: bool = True) -> None:
        self.folder = folder
        self.root = folder / "model_repository"
        self.said: list[str] = []
        self.control = Control.of(load(repository=self.root), self.said.append)
        self.server = FileServer(self.root, folder / "memory.json")
        monkeypatch.setattr(control_module, "Triton", lambda _endpoint, **_: self.server)
        monkeypatch.setattr(verify_module, "code_problems", INSTALLED_CODE)
        if begin:
            self.begin()

    def begin(self) -> None:
        """Have the repository, and a server announced in it."""
        self.control.repository.create()
        endpoints.write(self.control.repository, Endpoint("fake:1", "fake:2", server_id="s1"))
        self.supervisor = supervising(self.control.repository)

    def unsupervised(self) -> World:
        """The same with a server that nobody looks after, so that commands end their drains themselves."""
        object.__setattr__(self.server.endpoint, "supervisor", "")
        return self

    def publish(self, release: str, seed: int, model: str = "walker", *, contract: Contract = CONTRACT, **kwargs):
        source = write_export(self.folder / f"export-{model}-{release}", seed, contract=contract, **kwargs)
        return publish(self.control, source, model=model, release=release)

    @property
    def state(self):
        return self.control.repository.journal.state()

    def named(self, alias: str = "production", model: str = "walker") -> str | None:
        found = self.state.alias(model, alias)
        return None if found is None else found.placement.release

    def answered(self, served: str = "walker") -> str | None:
        """The release that answers for `served`."""
        slot = self.server.serving().get(served)
        return None if slot is None else self.state.slots(served.partition(".")[0])[str(slot)]


def copied(template: World, folder: Path, monkeypatch) -> World:
    """The same world in another place; hard links stay hard links."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", *template.folder.iterdir(), folder], check=True)
    return World(folder, monkeypatch)


def with_two_releases(folder: Path) -> World:
    """A world to copy: releases 1.0.0 and 1.1.0 of walker, the first in production."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(folder, patch)
        world.publish("1.0.0", 1)
        world.publish("1.1.0", 2)
        promote(world.control, model="walker", release="1.0.0", alias="production")
    world.supervisor.close()
    return world


def left(folder: Path, monkeypatch, make: Callable[..., World] = World) -> World:
    """The world that a killed process left in `folder`, with a server that still runs."""
    world = make(folder, monkeypatch, begin=False)
    world.supervisor = supervising(world.control.repository)
    return world
