"""The container of kubernetes/ as a process: its command, its environment and its probes, on the real Triton.

What a cluster fills in is filled in here: the pod's name and address, the Secret,
and a folder for each volume. tests/containers starts it in a container as well.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import urllib3

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "kubernetes"))

from embedded import PATIENCE_S, exported, here, needs_guard, wait_for
from manifests import written

from harness.fleet import environment, s3_server
from policyctl.client import PolicyClient
from policyctl.demo.background_server import COMMAND, persons_environment

pytestmark = pytest.mark.server
pytest.importorskip("moto.server", reason="moto is not installed, which speaks S3")
OBSERVATION = [0.1, 0.2, 0.3, 0.4]
OBJECTS = written()
FIELDS = {"metadata.name": "policyctl-0", "metadata.namespace": "policies", "status.podIP": "127.0.0.1"}


@dataclass
class Pod:
    """One pod: its disk stays, its process may be started again.

    Attributes:
        folder: Stands for the node's root file system.
        secret: What the Secret holds.
        address: Its own: every pod has the same ports.
    """

    folder: Path
    secret: dict[str, str]
    address: str = field(default_factory=lambda: f"127.{os.getpid() >> 8 & 255}.{os.getpid() & 255}.7")
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """The image's entry point with the container's arguments and variables."""
        variables = OBJECTS.environment({**FIELDS, "status.podIP": self.address})
        repository = self.folder / variables["POLICYCTL_REPOSITORY"].lstrip("/")
        repository.parent.mkdir(parents=True, exist_ok=True)
        repository.parent.chmod(0o2775)  # as the kubelet leaves it
        variables["POLICYCTL_REPOSITORY"] = str(repository)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *OBJECTS.container["args"]],
                env={**persons_environment(), **variables, **self.secret},
                stdout=log,
                stderr=log,
            )

    def probe(self, kind: str) -> tuple[int, str]:
        """What a probe of the container gets: status and words; 0 where nobody answers."""
        asked = OBJECTS.container[f"{kind}Probe"]
        url = f"http://{self.address}:{OBJECTS.ports[asked['httpGet']['port']]}{asked['httpGet']['path']}"
        try:
            answer = urllib3.request("GET", url, timeout=float(asked["timeoutSeconds"]), retries=False)
        except urllib3.exceptions.HTTPError as error:
            return 0, str(error)
        return answer.status, answer.data.decode()

    def passes(self, kind: str) -> bool:
        """Whether the kubelet would take the answer for a success."""
        assert self.process is not None
        assert self.process.poll() is None, self.log
        return self.probe(kind)[0] == 200

    def ask(self, deadline_s: float = PATIENCE_S) -> str:
        """The release that answers a client."""
        with PolicyClient("walker", url=f"{self.address}:{OBJECTS.ports['grpc']}", deadline_s=deadline_s) as client:
            return client.act(OBSERVATION).release

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, dict[str, str]]]:
    """A machine outside of the cluster, whose store has walker 1.0.0 and 1.1.0: its folder, the store, credentials."""
    folder = tmp_path_factory.mktemp("outside")
    with s3_server(folder) as (store, secret), environment(secret):
        assert OBJECTS.environment(FIELDS)["POLICYCTL_FLEET__STORE"] == store
        for number, release in enumerate(("1.0.0", "1.1.0"), 1):
            here(folder / "publisher", "publish", str(exported(number)), "--model", "walker", "--release", release)
            done = here(folder / "publisher", "release", "export", "walker", release, store)
            assert done.returncode == 0, done.stderr
        yield folder, store, secret


@contextmanager
def running(folder: Path, secret: dict[str, str]) -> Iterator[Pod]:
    """A pod that starts on an empty disk, and is asked to end after the block."""
    folder.mkdir(exist_ok=True)
    found = Pod(folder, secret)
    found.start()
    try:
        yield found
    finally:
        assert found.process is not None
        found.process.terminate()
        found.process.wait(PATIENCE_S)


def command(store: str, folder: Path, *arguments: str) -> dict:
    """Run `policyctl` on the store from outside."""
    done = here(folder / "none", "--store", store, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_guard
def test_a_pod_starts_serves_and_ends_as_its_manifest_says(outside, tmp_path: Path) -> None:
    """Its probes pass, a promotion from outside reaches it, clients ask it by the Service's name, SIGTERM ends it."""
    folder, store, secret = outside
    with running(tmp_path, secret) as pod:
        for kind in ("startup", "liveness", "readiness"):
            wait_for(lambda kind=kind: pod.passes(kind))
        command(store, folder, "promote", "walker", "1.0.0", "--reason", "first")
        assert pod.ask() == "1.0.0"
        wait_for(lambda: pod.passes("readiness"))
        (node,) = command(store, folder, "status")["nodes"]
        assert (node["node"], node["endpoint"]) == ("policyctl-0", f"{pod.address}:{OBJECTS.ports['grpc']}")

        live = f"http://{pod.address}:{OBJECTS.ports['http']}/v2/health/live"
        names = {"policyctl.policies.svc": 200, "policyctl": 200, "attacker.example": 403}
        assert {name: urllib3.request("GET", live, headers={"Host": name}).status for name in names} == names
        for port in ("metrics-triton", "metrics-policyctl"):
            assert urllib3.request("GET", f"http://{pod.address}:{OBJECTS.ports[port]}/metrics").status == 200, port

        assert pod.process is not None
        pod.process.send_signal(signal.SIGTERM)
        assert pod.process.wait(OBJECTS.pod["spec"]["terminationGracePeriodSeconds"]) == 0, pod.log
        (node,) = command(store, folder, "status")["nodes"]
        assert node["stopped"] is True


def test_a_pod_on_an_empty_disk_is_ready_only_once_it_serves(outside, tmp_path: Path) -> None:
    """The store names a release: until this node answers by it, the probe of readiness fails; so an update waits."""
    folder, store, secret = outside
    with running(tmp_path / "first", secret) as first:
        wait_for(lambda: first.passes("readiness"))
        command(store, folder, "promote", "walker", "1.1.0")
    seen: list[str] = []
    with running(tmp_path / "second", secret) as second:

        def ready() -> bool:
            status, words = second.probe("readiness")
            seen.append(words)
            return status == 200

        wait_for(ready, every_s=0.01)
        assert second.ask() == "1.1.0"
    assert any("Not ready" in words for words in seen), seen


def test_a_pod_whose_store_does_not_answer_lives_and_is_not_ready(tmp_path: Path) -> None:
    """It says why. A cluster that started it again for that would change nothing."""
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    with running(tmp_path, {**nowhere, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}) as pod:
        wait_for(lambda: pod.probe("readiness") == (503, "Not ready: the store was not read yet.\n"))
        assert pod.passes("liveness")
        assert "s3://policies/robots" in pod.log
