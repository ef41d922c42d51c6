"""The container of kubernetes/ on a real engine: with the user, limits and volumes of its manifest, and no more.

tests/integration/test_kubernetes_pod.py starts the same command as a process. The
image holds this machine's Python, Triton and runtimes, by the last stage of
containers/node.Dockerfile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "kubernetes"))

from embedded import exported, policyctl, wait_for
from manifests import written

from harness.docker_engine import OF_A_NODE, Engine, final_instructions, image_environment
from harness.fleet import environment, s3_server
from policyctl import __version__
from policyctl.client import PolicyClient

NODE = f"policyctl-node:{__version__}"
ADDRESS, GATEWAY, SUBNET = "10.251.7.2", "10.251.7.1", "10.251.7.0/24"
"""The pod's, and this machine's as the pod sees it. The engine is in a separate network, so they are nobody else's."""
OBJECTS = written()


@pytest.fixture(scope="module")
def image(docker: Engine) -> str:
    """What the pod's container runs."""
    docker.import_image("node-base", changes=[image_environment()], extras=OF_A_NODE)
    instructions = final_instructions("containers/node.Dockerfile")
    docker.derive_image(NODE, base="node-base", instructions="\n".join(instructions))
    return NODE


def options(models: Path, secret: dict[str, str]) -> list[str]:
    """What the kubelet takes from the manifest, as options of `docker run`."""
    pod, container = OBJECTS.pod["spec"], OBJECTS.container
    security, may = pod["securityContext"], container["securityContext"]
    memory = container["resources"]["limits"]["memory"].replace("Gi", "g")
    found = ["--user", f"{security['runAsUser']}:{security['runAsGroup']}", "--memory", memory, "--memory-swap", memory]
    found += [word for name in may["capabilities"]["drop"] for word in ("--cap-drop", name)]
    found += ["--read-only"] if may["readOnlyRootFilesystem"] else []
    found += [] if may["allowPrivilegeEscalation"] else ["--security-opt", "no-new-privileges"]
    found += ["--init"] if pod["shareProcessNamespace"] else []
    sizes = {each["name"]: each["emptyDir"]["sizeLimit"].replace("Mi", "m") for each in pod["volumes"]}
    for mount in container["volumeMounts"]:
        if (size := sizes.get(mount["name"])) is not None:
            found += ["--tmpfs", f"{mount['mountPath']}:rw,exec,nosuid,nodev,size={size},mode=1777"]
        else:
            found += ["--volume", f"{models}:{mount['mountPath']}"]
    fields = {"metadata.name": "policyctl-0", "metadata.namespace": "policies", "status.podIP": ADDRESS}
    for name, value in {**OBJECTS.environment(fields), **secret}.items():
        found += ["--env", f"{name}={value}"]
    return found


def test_a_pod_serves_within_what_its_manifest_allows(docker: Engine, image: str, tmp_path: Path) -> None:
    """Not root, without a capability, on a read-only root: it gets ready, is promoted to from outside, and ends."""
    models = tmp_path / "models"
    models.mkdir()
    os.chown(models, 0, OBJECTS.pod["spec"]["securityContext"]["fsGroup"])
    models.chmod(0o2775)  # as the kubelet leaves it
    readiness = OBJECTS.container["readinessProbe"]["httpGet"]
    url = f"http://{ADDRESS}:{OBJECTS.ports[readiness['port']]}{readiness['path']}"

    def outside(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = policyctl(tmp_path / "publisher", *arguments)
        assert done.returncode == 0, done.stderr + docker.docker("logs", "pod", check=False).stderr
        return done

    def is_ready() -> bool:
        assert docker.docker("inspect", "--format", "{{.State.Running}}", "pod").stdout == "true\n", docker.docker(
            "logs", "pod"
        ).stderr
        try:
            return urllib3.request("GET", url, timeout=5.0, retries=False).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    docker.docker("network", "create", "--subnet", SUBNET, "--gateway", GATEWAY, "pods")
    with s3_server(tmp_path, host=GATEWAY) as (store, secret), environment(secret):
        outside("publish", str(exported(1)), "--model", "walker", "--release", "1.0.0")
        outside("release", "export", "walker", "1.0.0", store)
        arguments = [*options(models, secret), image, *OBJECTS.container["args"]]
        docker.docker("run", "--detach", "--name", "pod", "--network", "pods", "--ip", ADDRESS, *arguments)
        wait_for(is_ready)
        outside("--store", store, "promote", "walker", "1.0.0")
        with PolicyClient("walker", url=f"{ADDRESS}:{OBJECTS.ports['grpc']}", deadline_s=60.0) as client:
            assert client.act([0.0] * 4).release == "1.0.0"
        assert docker.docker("exec", "pod", "policyctl", "probe", "--require").returncode == 0
        assert json.loads(outside("--store", store, "status", "--json").stdout)["healthy"] is True
        docker.docker("stop", "--time", str(OBJECTS.pod["spec"]["terminationGracePeriodSeconds"]), "pod")
        (shown,) = json.loads(docker.docker("inspect", "pod").stdout)
    assert (shown["State"]["ExitCode"], shown["State"]["OOMKilled"]) == (0, False), docker.docker("logs", "pod").stderr
    host = shown["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert shown["Config"]["User"] == "1000:1000"
