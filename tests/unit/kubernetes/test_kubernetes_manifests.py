"""kubernetes/: what a node's pod may do, and that everything in it fits the product and the cluster.

No cluster runs here. The objects are held against Kubernetes' own schemas, and
against what the code really serves, reads and takes.
"""

from __future__ import annotations

import copy
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import urllib3
from manifests import FOLDER, OVERLAY, ROOT, Objects, built, copied, read, with_components, written
from ruamel.yaml import YAML

from policyctl import __version__
from policyctl.adapters.exporter import exporting
from policyctl.claims import FOLDER as SHARED_MEMORY
from policyctl.domain.choices import Engine
from policyctl.services.supervise import ending
from policyctl.services.supervise.serve import EXIT_S
from policyctl.settings import ServerSettings, Settings, load

VERSIONS = ("1.30", "1.37")
"""The oldest Kubernetes that is meant, and the newest whose schemas kubernetes-validate has."""
OF_THE_OPERATOR = {"ServiceMonitor", "PrometheusRule"}
FIELDS = {"metadata.name": "policyctl-0", "metadata.namespace": "policies", "status.podIP": "10.1.2.3"}
SETTINGS = "POLICYCTL_"
DOCKERFILE = (ROOT / "containers" / "node.Dockerfile").read_text()


@pytest.fixture(params=["written", "plain", "everything"], scope="module")
def objects(request, tmp_path_factory) -> Objects:
    """As the files say it; as kubectl builds the overlay; and as it does with both components."""
    match request.param:
        case "written":
            return written()
        case "plain":
            return built((FOLDER / OVERLAY).parent)
    return built(with_components(copied(tmp_path_factory.mktemp("everything"))))


def labels(found: dict[str, Any]) -> dict[str, str]:
    return found["metadata"].get("labels", {})


def selects(selector: dict[str, str], found: dict[str, Any]) -> bool:
    return selector.items() <= labels(found).items()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_one_that_kubernetes_knows(objects: Objects, version: str) -> None:
    """By the schemas of that version, strictly: a field that is misspelt would be ignored by nobody."""
    validator = pytest.importorskip("kubernetes_validate")
    assert len(objects.of("NetworkPolicy", "Service", "StatefulSet")) == 5
    for each in objects.all:
        if each["kind"] not in OF_THE_OPERATOR:
            validator.validate(each, version, strict=True)
    wrong = copy.deepcopy(objects.one("StatefulSet"))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(validator.ValidationError):
        validator.validate(wrong, version, strict=True)


def test_a_container_can_do_nothing_but_serve(objects: Objects) -> None:
    """No root, no privilege, no capability, no file system to write to, and memory that ends somewhere."""
    pod, container = objects.pod["spec"], objects.container
    assert "initContainers" not in pod
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert "hostPort" not in str(container["ports"])
    resources = container["resources"]
    assert {"cpu", "memory"} <= resources["requests"].keys()
    assert "memory" in resources["limits"]
    assert labels(objects.one("Namespace"))["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_pod_has_no_rights_in_the_cluster_and_no_secret_stands_in_a_file(objects: Objects) -> None:
    """No token is mounted, no role exists, and the store's credentials are referred to by name."""
    account = objects.one("ServiceAccount")
    assert account["automountServiceAccountToken"] is objects.pod["spec"]["automountServiceAccountToken"] is False
    assert objects.pod["spec"]["serviceAccountName"] == account["metadata"]["name"]
    kinds = {each["kind"] for each in objects.all}
    assert not {"Secret", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"} & kinds
    (secret,) = (each["secretRef"] for each in objects.container["envFrom"] if "secretRef" in each)
    assert secret == {"name": "policyctl-store"}


def test_every_folder_that_is_written_to_is_a_volume(objects: Objects) -> None:
    """The repository, on a disk that stays; /tmp; and Triton's shared memory, which is memory and bounded."""
    mounts = {each["mountPath"]: each["name"] for each in objects.container["volumeMounts"]}
    (claim,) = objects.one("StatefulSet")["spec"]["volumeClaimTemplates"]
    volumes = {each["name"]: each["emptyDir"] for each in objects.pod["spec"]["volumes"]}
    assert set(mounts) == {"/models", "/tmp", str(SHARED_MEMORY)}
    assert mounts["/models"] == claim["metadata"]["name"]
    assert claim["metadata"].keys() == {"name"}, "a claim cannot be changed, and versions of Kustomize label it or not"
    assert all("sizeLimit" in each for each in volumes.values())
    assert volumes[mounts[str(SHARED_MEMORY)]]["medium"] == "Memory"
    # In a folder of the disk: its root holds lost+found, and the kubelet looks at its mode.
    repository = Path(objects.environment(FIELDS)["POLICYCTL_REPOSITORY"])
    assert repository.parent == Path("/models")


def test_the_container_runs_a_command_with_settings_that_there_are(objects: Objects, parse, monkeypatch) -> None:
    """Each variable is a setting and its value is allowed; the node has its pod's name and address."""
    for name in [each for each in os.environ if each.startswith(SETTINGS)]:
        monkeypatch.delenv(name)
    given = objects.environment(FIELDS)
    assert all(name.startswith(SETTINGS) or name == "POD_NAMESPACE" for name in given)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    parse(objects.container["args"])
    assert objects.container["args"] == ["serve"]
    assert 'ENTRYPOINT ["policyctl"]' in DOCKERFILE
    found: Settings = load()
    assert found.server.engine is Engine.EMBEDDED
    assert (found.fleet.node, found.server.host) == ("policyctl-0", "10.1.2.3")
    assert found.fleet.store.startswith("s3://")
    service, namespace = "policyctl", FIELDS["metadata.namespace"]
    assert objects.one("Service", service)
    assert found.server.http_hosts == (
        *(service, f"{service}.{namespace}", f"{service}.{namespace}.svc"),
        f"{service}.{namespace}.svc.cluster.local",
    )


def test_the_ports_are_those_that_the_product_serves_at(objects: Objects) -> None:
    """By the settings' defaults, which no variable of the container changes."""
    server = ServerSettings()
    assert objects.ports == {
        "http": server.http_port,
        "grpc": server.grpc_port,
        "metrics-triton": server.metrics_port,
        "metrics-policyctl": server.control_metrics_port,
    }
    assert not [name for name in objects.environment(FIELDS) if name.endswith("_PORT")]
    for service in objects.of("Service"):
        for port in service["spec"]["ports"]:
            assert port["port"] == objects.ports[port["targetPort"]]


def test_every_probe_asks_what_the_product_answers(objects: Objects) -> None:
    """The paths are asked of the real listener; a server without an answer is alive, and not ready."""
    probes = {kind: objects.container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {each["port"] for each in probes.values()} == {"metrics-policyctl"}
    with exporting(lambda: (), lacks=lambda: "no server is announced", host="127.0.0.1", port=0) as address:
        answers = {
            kind: urllib3.request("GET", f"http://{address}{probe['path']}").status for kind, probe in probes.items()
        }
    assert answers == {"startup": 200, "liveness": 200, "readiness": 503}


def test_a_pod_has_time_to_end(objects: Objects) -> None:
    """Until balancers know that it goes, and then the longest that `policyctl serve` takes."""
    command, wait_s = objects.container["lifecycle"]["preStop"]["exec"]["command"]
    probe = objects.container["readinessProbe"]
    assert command == "sleep"
    assert float(wait_s) > probe["periodSeconds"] * probe["failureThreshold"]
    longest = ending.GRACE_S + ending.LAST_RESORT_S + ending._DUMP_S + EXIT_S
    assert objects.pod["spec"]["terminationGracePeriodSeconds"] >= float(wait_s) + longest


def test_selectors_find_the_pods(objects: Objects) -> None:
    """Of services, of the budget, of the policy and of the set itself; and the autoscaler finds the set."""
    pods = objects.one("StatefulSet")
    selectors = [
        pods["spec"]["selector"]["matchLabels"],
        objects.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        objects.one("NetworkPolicy", "policyctl-node")["spec"]["podSelector"]["matchLabels"],
        *(each["spec"]["selector"] for each in objects.of("Service")),
        *(each["labelSelector"]["matchLabels"] for each in objects.pod["spec"]["topologySpreadConstraints"]),
    ]
    assert len(selectors) == 6
    assert all(each and selects(each, objects.pod) for each in selectors)
    headless = objects.one("Service", pods["spec"]["serviceName"])
    assert headless["spec"]["clusterIP"] == "None"
    target = objects.one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target == {name: pods[name] for name in ("apiVersion", "kind")} | {"name": pods["metadata"]["name"]}
    for each in objects.all:
        if each["kind"] not in {"Namespace", "ConfigMap"} and each["metadata"]["name"] != "default-deny":
            assert {"app.kubernetes.io/name", "app.kubernetes.io/component"} <= labels(each).keys()


def test_a_node_is_left_whatever_is_drained(objects: Objects) -> None:
    """The fewest that the autoscaler leaves, without those that may be away at a time; nobody else says how many."""
    scaler, budget = objects.one("HorizontalPodAutoscaler"), objects.one("PodDisruptionBudget")
    assert scaler["spec"]["minReplicas"] - budget["spec"]["maxUnavailable"] >= 1
    assert "replicas" not in objects.one("StatefulSet")["spec"]
    assert [each["resource"]["name"] for each in scaler["spec"]["metrics"] if each["type"] == "Resource"] == ["cpu"]
    assert "cpu" in objects.container["resources"]["requests"], "utilisation is a share of it"


def test_the_network_lets_through_what_a_node_needs(objects: Objects) -> None:
    """Clients reach Triton, Prometheus reaches metrics, and a node reaches names and its store; nothing else."""
    closed = objects.one("NetworkPolicy", "default-deny")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policy = objects.one("NetworkPolicy", "policyctl-node")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    clients, prometheus = policy["ingress"]
    assert all(each["from"] for each in (clients, prometheus)), "an empty list would be everybody"
    assert {each["port"] for each in clients["ports"]} == {"http", "grpc"}
    assert {each["targetPort"] for each in objects.one("Service", "policyctl")["spec"]["ports"]} == {"http", "grpc"}
    scraped = {each["port"] for each in prometheus["ports"]}
    assert scraped == {name for name in objects.ports if name.startswith("metrics-")}
    names, store = policy["egress"]
    assert {(each["port"], each["protocol"]) for each in names["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert names["to"]
    assert store == {"ports": [{"port": 443}]}


def test_prometheus_finds_what_the_rules_join() -> None:
    """Each metrics port once, by the jobs of alerts/prometheus.yml and the pod's name as `server`."""
    objects = written()
    monitor = objects.one("ServiceMonitor")["spec"]
    (service,) = (each for each in objects.of("Service") if selects(monitor["selector"]["matchLabels"], each))
    assert {each["port"] for each in monitor["endpoints"]} <= {each["name"] for each in service["spec"]["ports"]}
    (scrape,) = read(ROOT / "alerts" / "prometheus.yml")
    wanted = {"metrics-triton": "policyctl-triton", "metrics-policyctl": "policyctl-control"}
    assert set(wanted.values()) <= {each["job_name"] for each in scrape["scrape_configs"]}
    for endpoint in monitor["endpoints"]:
        job, server = endpoint["relabelings"]
        assert job == {"targetLabel": "job", "replacement": wanted.pop(endpoint["port"])}
        assert server == {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "server"}
        assert endpoint["interval"] == scrape["global"]["scrape_interval"]
    assert not wanted


def test_the_rules_are_those_of_alerts(tmp_path) -> None:
    """Group by group; and alerts/for_kubernetes.py notices a change, and writes it."""
    groups = [group for path in sorted((ROOT / "alerts" / "rules").glob("*.yml")) for group in read(path)[0]["groups"]]
    assert written().one("PrometheusRule")["spec"]["groups"] == groups

    def made(root: Path, *arguments: str) -> int:
        command = [sys.executable, str(root / "alerts" / "for_kubernetes.py"), *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert made(ROOT, "--check") == 0, "python alerts/for_kubernetes.py"
    shutil.copytree(ROOT / "alerts", tmp_path / "alerts")
    copied(tmp_path)
    source = tmp_path / "alerts" / "rules" / "missing.yml"
    source.write_text(source.read_text().replace("for: 1m", "for: 3m"))
    assert [made(tmp_path, "--check"), made(tmp_path), made(tmp_path, "--check")] == [1, 0, 0]


def test_the_queue_time_is_one_that_prometheus_can_compute(tmp_path) -> None:
    """The adapter's query is PromQL, and the autoscaler asks for it by its name."""
    (values,) = read(FOLDER / "components" / "queue-time" / "adapter.yaml")
    (rule,) = values["rules"]["custom"]
    (component,) = read(FOLDER / "components" / "queue-time" / "kustomization.yaml")
    assert f"name: {rule['name']['as']}\n" in component["patches"][0]["patch"]
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("Prometheus is not installed: apt install prometheus")
    expression = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'pod=~"a|b"')
    assert "<<" not in expression
    path = tmp_path / "rules.yml"
    with path.open("w") as stream:
        YAML().dump({"groups": [{"name": "g", "rules": [{"record": "a:b:c", "expr": expression}]}]}, stream)
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_image_store_and_namespace_are_set_in_one_place(tmp_path) -> None:
    """Whatever the overlay says is what every object has; the autoscaler then has both metrics."""
    folder = copied(tmp_path)
    path, digest = folder / OVERLAY, f"sha256:{'0' * 64}"
    text = path.read_text().replace("namespace: policies", "namespace: robots")
    text = text.replace(f"newTag: {__version__}", f"digest: {digest}").replace("registry.example.com", "images.test")
    path.write_text(text.replace("s3://policies/robots", "gs://mine"))
    objects = built(with_components(folder))
    assert objects.container["image"] == f"images.test/policyctl-node@{digest}"
    assert objects.environment(FIELDS)["POLICYCTL_FLEET__STORE"] == "gs://mine"
    names = {each["metadata"].get("namespace") for each in objects.all if each["kind"] != "Namespace"}
    assert names == {objects.one("Namespace")["metadata"]["name"]} == {"robots"}
    kinds = [each["type"] for each in objects.one("HorizontalPodAutoscaler")["spec"]["metrics"]]
    assert kinds == ["Resource", "Pods"]
    assert objects.of("PrometheusRule")


def test_the_image_of_a_node_is_the_pods() -> None:
    """The same base and user as the control plane's, this version, and an installation without pip in it."""
    control = (ROOT / "Dockerfile").read_text()
    base = re.compile(r"^ARG POLICYCTL_BASE=.*$", re.MULTILINE)
    assert base.findall(DOCKERFILE) == base.findall(control)
    assert f'org.opencontainers.image.version="{__version__}"' in DOCKERFILE
    (overlay,) = read(FOLDER / OVERLAY)
    (image,) = overlay["images"]
    assert (image["name"], image["newTag"]) == (written().container["image"], __version__)
    assert f"--tag {image['name']}:{__version__} ." in DOCKERFILE
    assert re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE) == ["1000"]
    final = DOCKERFILE.rpartition("\nFROM base\n")[2]
    assert not re.search(r"pip|apt-get", final)
    (extras,) = re.findall(r"policyctl-\*\.whl\)\[([\w,]+)\]", DOCKERFILE)
    assert {"serve", "store"} <= set(extras.split(","))
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"!constraints.txt", "!dist/policyctl-*.whl"} <= set(allowed)


def test_the_guide_names_what_there_is(parse) -> None:
    """Its commands are understood, its paths are there, and it names the versions that were asked."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    ours = re.findall(r"(?:^|-- )policyctl (.*)$", blocks, re.MULTILINE)
    assert len(ours) == 5
    for line in ours:
        parse(shlex.split(line))
    for path in re.findall(r"(?:kubernetes|containers|alerts|tests)/[\w./-]+", page):
        assert (ROOT / path).exists(), path
    assert f"Kubernetes {VERSIONS[0]} and {VERSIONS[1]}" in page
    known = load().model_dump()
    for group, name in re.findall(r"`(fleet)\.(\w+)`", page):
        assert name in known[group], name
    claim = written().one("StatefulSet")["spec"]["volumeClaimTemplates"][0]
    assert f"{claim['spec']['resources']['requests']['storage'].replace('Gi', ' GiB')}" in page


def test_linters_find_nothing() -> None:
    """hadolint in the Dockerfile, yamllint in what people write."""
    for command in (
        ("hadolint", "containers/node.Dockerfile"),
        ("yamllint", "--strict", "-c", "containers/yamllint.yml", *_by_people()),
    ):
        tool = shutil.which(command[0], path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if tool is None:
            pytest.skip(f"{command[0]} is not installed")
        done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def _by_people() -> list[str]:
    paths = sorted(FOLDER.rglob("*.yaml"))
    return [str(each.relative_to(ROOT)) for each in paths if each.name != "prometheusrule.yaml"]
