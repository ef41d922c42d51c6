"""docker-compose.yml and Dockerfile: what they promise, and what tools that need no Docker engine say of them.

No engine runs here (tests/containers has one): the files are held against the real
interfaces (our commands and settings, Triton's arguments, schemas).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from policyctl import __version__
from policyctl.domain.artifacts import Format
from policyctl.domain.choices import Engine
from policyctl.serving.command import RESTRICTED, ServerOptions, arguments, restrictions
from policyctl.serving.container_request import BACKENDS, INSIDE
from policyctl.settings import DockerSettings, load

ROOT = Path(__file__).parents[3]
COMPOSE = YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("control", "api")
TRITONS = ("triton", "triton-gpu")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OF_OTHERS = ("./alerts/rules", "./grafana/dashboards", "./grafana/provisioning/dashboards")
"""What alerts/ and grafana/ bring."""

PUBLISHED = r"127\.0\.0\.1:\$\{([A-Z_]+_PORT):-(\d+)\}:\2"
"""A port of loopback, which a variable may change."""

each_service = pytest.mark.parametrize("name", SERVICES)


@each_service
def test_nothing_is_published_but_on_loopback(name: str) -> None:
    """Docker opens what it publishes past a firewall; and no service takes the host's network."""
    assert all(re.fullmatch(PUBLISHED, port) for port in SERVICES[name].get("ports", ()))
    assert not {"network_mode", "privileged", "pid", "ipc", "cap_add", "devices"} & SERVICES[name].keys()
    assert set(SERVICES[name]["networks"]) <= set(COMPOSE["networks"])


@each_service
def test_every_image_is_pinned(name: str) -> None:
    """By digest where one is known; NVIDIA's by its release, which is what an advisory names; ours by version."""
    image = SERVICES[name]["image"]
    pinned = re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}", image)
    nvidia = re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", image)
    assert pinned or nvidia or image == f"policyctl:{__version__}"


@each_service
def test_every_service_has_a_health_check_and_bounds(name: str) -> None:
    """Memory, processors, processes and logs end somewhere; a hang is noticed."""
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= service["healthcheck"].keys()
    assert {"mem_limit", "cpus", "pids_limit"} <= service.keys()
    assert service["memswap_limit"] == service["mem_limit"], "it may swap"
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert service["restart"] == "unless-stopped"


@each_service
def test_no_service_is_root_or_can_become_it(name: str) -> None:
    """Not by user, capability or setuid file, and it writes to named volumes and memory alone."""
    service = SERVICES[name]
    assert int(service["user"].split(":")[0]) > 0
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    for volume in service.get("volumes", ()):
        source, _, mode = volume.split(":") if volume.count(":") == 2 else (*volume.split(":"), "rw")
        assert source.startswith("./") is (source not in COMPOSE["volumes"])
        assert mode == "ro" or source in COMPOSE["volumes"]
        assert "docker.sock" not in source


@each_service
def test_every_mounted_path_is_there(name: str) -> None:
    """A path that is not makes Docker create a folder of that name."""
    for volume in SERVICES[name].get("volumes", ()):
        source = volume.split(":")[0]
        if source in OF_OTHERS and not (ROOT / source).exists():
            pytest.skip(f"{source} is not in this tree yet")
        assert source in COMPOSE["volumes"] or (ROOT / source).exists(), source


@each_service
def test_no_secret_stands_in_the_file(name: str) -> None:
    """A setting that is a secret names a file; the files are not in the repository."""
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable):
            assert variable.endswith("__FILE")
            assert value.removeprefix("/run/secrets/") in SERVICES[name]["secrets"]
    assert set(SERVICES[name].get("secrets", ())) <= COMPOSE["secrets"].keys()
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} == {f"./secrets/{n}" for n in COMPOSE["secrets"]}
    assert "secrets/" in (ROOT / ".gitignore").read_text().splitlines()


@each_service
def test_whoever_waits_for_another_waits_for_one_that_comes(name: str) -> None:
    """In the same profiles, and with a health check where health is waited for."""
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert set(SERVICES[name]["profiles"]) <= set(SERVICES[other]["profiles"])
        assert how["condition"] in {"service_started", "service_healthy"}


def test_a_profile_brings_one_triton_and_everything_else() -> None:
    """A look-up of `triton` finds it in both."""
    for profile, server in (("cpu", "triton"), ("gpu", "triton-gpu")):
        up = {name for name, service in SERVICES.items() if profile in service["profiles"]}
        assert up == {server, *OURS, "prometheus", "alertmanager", "grafana"}
    assert SERVICES["triton-gpu"]["networks"]["serving"]["aliases"] == ["triton"]
    (device,) = SERVICES["triton-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_grafana_and_alertmanager_cannot_reach_triton() -> None:
    """Prometheus stands between."""
    reach = {name for name, service in SERVICES.items() if "serving" in service["networks"]}
    assert reach == {*TRITONS, *OURS, "prometheus"}


@pytest.mark.parametrize("name", TRITONS)
def test_triton_is_started_as_the_engines_start_it(name: str, tmp_path) -> None:
    """The same arguments, and the key from its file in the same rules, through a real shell."""
    http, grpc, metrics = INSIDE
    options = ServerOptions(
        Path("/models"),
        BACKENDS,
        host="0.0.0.0",
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        trace_file=Path("/traces/trace"),
    )
    service = SERVICES[name]
    assert sorted(service["command"]) == sorted(arguments(options))
    assert service["image"] == DockerSettings().image
    (tmp_path / "triton_key").write_text("the-key-of-a-test\n")
    fake = tmp_path / "tritonserver"
    fake.write_text('#!/bin/sh\nfor each in "$@"; do echo "$each"; done\n')
    fake.chmod(0o755)
    shell, flag, script, key = (word.replace("$$", "$") for word in service["entrypoint"])
    assert key == "/run/secrets/triton_key"
    done = subprocess.run(
        [shell, flag, script, str(tmp_path / "triton_key"), *service["command"]],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    rules = restrictions(RESTRICTED, "the-key-of-a-test")
    assert done.stdout.splitlines() == [*service["command"], *rules]


@pytest.mark.parametrize("name", TRITONS)
def test_recordings_are_made_from_what_triton_writes_to_memory(name: str) -> None:
    """One folder in memory, at one path, of the one user of both, and no other service's."""
    (trace,) = [word for word in SERVICES[name]["command"] if word.startswith("--trace-config=triton,file=")]
    folder = Path(trace.rpartition("=")[2]).parent
    mounts = {
        service: found["volumes"] for service, found in SERVICES.items() if f"traces:{folder}" in found["volumes"]
    }
    assert mounts.keys() == {*TRITONS, "control"}
    assert "models:/models" in mounts["control"]
    volume = COMPOSE["volumes"]["traces"]["driver_opts"]
    uid, gid = SERVICES[name]["user"].split(":")
    assert SERVICES["control"]["user"] == SERVICES[name]["user"]
    assert (volume["type"], volume["device"]) == ("tmpfs", "tmpfs")
    assert {f"uid={uid}", f"gid={gid}", "mode=0700", "noexec"} <= set(volume["o"].split(","))
    assert any(part.startswith("size=") for part in volume["o"].split(","))


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_commands_that_there_are(parse, name: str) -> None:
    """With options that they understand."""
    parse(SERVICES[name]["command"])
    test = SERVICES[name]["healthcheck"]["test"]
    if test[1] == "policyctl":
        parse(test[2:])


def test_the_settings_of_our_services_are_settings(monkeypatch, tmp_path) -> None:
    """Each variable is known and its value allowed; Triton is found by the name that the network gives it."""
    for name, value in SERVICES["control"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(\w+)\}", r"\1", value).replace("/run/secrets", str(tmp_path)))
    (tmp_path / "triton_key").write_text("a-key-of-a-file\n")
    found = load()
    assert found.server.api_key.get_secret_value() == "a-key-of-a-file"
    assert (found.server.engine, found.server.url) == (Engine.EXTERNAL, "triton:8001")
    assert found.serving.format is Format.ONNX
    assert found.serving.parameters == {"intra_op_thread_count": "1", "inter_op_thread_count": "1"}


def test_prometheus_scrapes_every_metrics_port_under_the_names_that_the_rules_use() -> None:
    """The jobs of alerts/prometheus.yml; each target is a service of this file."""
    found = YAML(typ="safe").load((ROOT / "containers" / "prometheus.yml").read_text())
    targets = {
        job["job_name"]: target
        for job in found["scrape_configs"]
        for config in job["static_configs"]
        for target in config["targets"]
    }
    known = {*SERVICES, "127.0.0.1"}
    assert {target.split(":")[0] for target in targets.values()} <= known
    ports = load().server
    assert targets["policyctl-triton"] == f"triton:{INSIDE[2]}"
    assert targets["policyctl-control"] == f"control:{ports.control_metrics_port}"
    theirs = ROOT / "alerts" / "prometheus.yml"
    if not theirs.exists():
        pytest.skip("alerts/ is not in this tree yet")
    jobs = {job["job_name"] for job in YAML(typ="safe").load(theirs.read_text())["scrape_configs"]}
    assert jobs == set(targets)


def test_alertmanager_routes_as_outside_but_for_the_receivers_address() -> None:
    """Which is a secret here; routes and inhibitions are written once, in alerts/alertmanager.yml."""
    ours = YAML(typ="safe").load((ROOT / "containers" / "alertmanager.yml").read_text())
    (receiver,) = ours["receivers"]
    assert receiver["webhook_configs"][0]["url_file"] == "/run/secrets/webhook_url"
    assert SERVICES["alertmanager"]["secrets"] == ["webhook_url"]
    other = YAML(typ="safe").load((ROOT / "alerts" / "alertmanager.yml").read_text())
    assert (ours["route"], ours["inhibit_rules"]) == (other["route"], other["inhibit_rules"])
    assert [r["name"] for r in ours["receivers"]] == [r["name"] for r in other["receivers"]]


def test_a_change_of_the_routes_is_written_for_the_containers_too(tmp_path) -> None:
    """The file that is kept is the one that alerts/for_compose.py makes; another one is reported, and written again."""

    def made(root: Path, *arguments: str) -> int:
        command = [sys.executable, str(root / "alerts" / "for_compose.py"), *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert made(ROOT, "--check") == 0, "python alerts/for_compose.py"
    for folder in ("alerts", "containers"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    source, target = (tmp_path / folder / "alertmanager.yml" for folder in ("alerts", "containers"))
    source.write_text(source.read_text().replace("repeat_interval: 12h", "repeat_interval: 7h"))
    assert [made(tmp_path, "--check"), made(tmp_path), made(tmp_path, "--check")] == [1, 0, 0]
    assert YAML(typ="safe").load(target.read_text())["route"]["repeat_interval"] == "7h"


def test_grafana_finds_prometheus_and_its_dashboards() -> None:
    """By the uid that the provisioning outside has, and in the folder that its provider names."""
    (ours,) = YAML(typ="safe").load((ROOT / "containers" / "grafana-datasources.yml").read_text())["datasources"]
    assert ours["url"] == "http://prometheus:9090"
    assert set(SERVICES["grafana"]["networks"]) & set(SERVICES["prometheus"]["networks"])
    theirs = ROOT / "grafana" / "provisioning"
    if not theirs.exists():
        pytest.skip("grafana/ is not in this tree yet")
    (other,) = YAML(typ="safe").load((theirs / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert {**other, "url": ours["url"]} == {**ours, "url": ours["url"]}
    (provider,) = YAML(typ="safe").load((theirs / "dashboards" / "policyctl.yml").read_text())["providers"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]


def test_the_image_of_the_control_plane_has_no_root_and_no_compiler() -> None:
    """Two stages of one pinned base; the last one copies what the first one built, and runs as another user."""
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    base, build, final = stages
    assert base.startswith("${POLICYCTL_BASE} AS base")
    assert re.search(r"^ARG POLICYCTL_BASE=python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
    assert SERVICES["control"]["build"] == {"context": ".", "args": ["POLICYCTL_BASE"]}
    assert build.startswith("base AS build")
    assert final.startswith("base\n")
    assert re.findall(r"^USER (\d+):\d+$", DOCKERFILE, flags=re.MULTILINE) == ["1000"]
    assert final.index("USER") > final.index("RUN")
    assert not re.search(r"apt-get|gcc|g\+\+|build-essential|pip", final)
    assert "HEALTHCHECK" in final
    assert "COPY --from=build" in final


def test_the_dockerfile_agrees_with_the_project(parse) -> None:
    """Python, version, extras, constraints, and every file that it copies."""
    (minor,) = re.findall(r"^ARG POLICYCTL_BASE=python:3\.(\d+)\.", DOCKERFILE, flags=re.MULTILINE)
    assert f"Programming Language :: Python :: 3.{minor}" in PYPROJECT["project"]["classifiers"]
    assert f'org.opencontainers.image.version="{__version__}"' in DOCKERFILE
    assert "--constraint constraints.txt" in DOCKERFILE
    allowed = (ROOT / ".dockerignore").read_text()
    for line in re.findall(r"^COPY (?!--)(.*)$", DOCKERFILE, flags=re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"\n!{source}\n" in allowed
    entry = re.findall(r"^CMD \[(.*)\]$", DOCKERFILE, flags=re.MULTILINE)
    parse(YAML(typ="safe").load(f"[{entry[0]}]"))
    assert "POLICYCTL_SERVER__ENGINE=external" in DOCKERFILE, "doctor would look for an embedded Triton"
    health = re.findall(r"HEALTHCHECK .* CMD (\[.*\])", DOCKERFILE)
    parse(YAML(typ="safe").load(health[0])[1:])


def test_an_edit_of_the_sources_installs_no_dependency_again() -> None:
    """What the layer of dependencies needs is copied before it, and the sources after it."""
    copied, installed = [], []
    for line in DOCKERFILE.split("AS build")[1].split("\nFROM ")[0].replace("\\\n", " ").splitlines():
        if line.startswith("COPY "):
            copied += line.split()[1:-1]
        elif line.startswith("RUN "):
            installed.append(tuple(copied))
    assert installed[0] == ("pyproject.toml", "constraints.txt", "containers/requirements.py")
    assert {"control", "exporters"} <= set(installed[1])
    assert "--no-deps dist/policyctl-*.whl" in DOCKERFILE


def test_the_image_installs_what_the_distribution_requires() -> None:
    """With the extras of signatures, of the control API and of fleets."""
    done = _said(sys.executable, "containers/requirements.py")
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    assert done.stdout.splitlines() == [*project["dependencies"], *extras["sign"], *extras["api"], *extras["store"]]


def test_only_the_part_of_tritons_client_that_is_imported_is_required() -> None:
    """All of it, with 44 MB of CUDA, is an extra; no module of ours imports what only that brings."""
    project = PYPROJECT["project"]
    assert "tritonclient[grpc]==2.51.0" in project["dependencies"]
    assert project["optional-dependencies"]["triton"] == ["tritonclient[all]==2.51.0"]
    code = "import policyctl.adapters.pbtxt, policyctl.client.grpc_wire, policyctl.api.app, sys"
    loaded = _said(sys.executable, "-c", f"{code}; print(*sys.modules)").stdout.split()
    assert "tritonclient.grpc" in loaded
    assert not {"cuda", "aiohttp", "gevent", "geventhttpclient"} & set(loaded)


def test_ports_on_this_machine_are_a_variables_each() -> None:
    """None twice; the guide names each with its default."""
    found = [
        re.fullmatch(PUBLISHED, port)
        for name in SERVICES
        if name != "triton-gpu"
        for port in SERVICES[name].get("ports", ())
    ]
    variables = {each[1]: each[2] for each in found if each}
    assert len(variables) == len(found) == 6
    page = (ROOT / "docs" / "containers.md").read_text()
    for variable, default in variables.items():
        assert re.search(rf"`{variable}` \({default}[);]", page), variable


def test_what_the_guide_writes_into_a_secret_is_the_commands_output_alone() -> None:
    """A build writes its log there too: it has to be over before."""
    page = (ROOT / "docs" / "containers.md").read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    (token,) = (n for n, line in enumerate(lines) if line.endswith("> secrets/api_token"))
    assert "--build" not in lines[token]
    assert any(re.fullmatch(r"docker compose .*build", line) for line in lines[:token])


def _said(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def _tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or shutil.which(
        name, path=str(Path(pytest.__file__).parents[3].parent / "bin")
    )
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_the_compose_specification_knows_every_key() -> None:
    """By its own JSON schema, as check-jsonschema carries it."""
    done = _said(_tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_older_compose_understands_it_too() -> None:
    """Debian's docker-compose 1.29, which reads the file without an engine."""
    done = _said(_tool("docker-compose"), "--profile", "cpu", "--profile", "gpu", "config", "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr


def test_linters_find_nothing() -> None:
    """hadolint in the Dockerfile, yamllint in the YAML."""
    done = _said(_tool("hadolint"), "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr
    done = _said(_tool("yamllint"), "--strict", "-c", "containers/yamllint.yml", "docker-compose.yml", "containers")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_guide_names_commands_settings_and_versions_that_there_are(parse) -> None:
    """Each line of ours in docs/containers.md is understood, each variable is a setting, each image is the file's."""
    page = (ROOT / "docs" / "containers.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    ours = [line.partition("policyctl ")[2] for line in lines if re.search(r"(^| exec \w+ )policyctl ", line)]
    assert len(ours) > 5
    for line in ours:
        parse(shlex.split(line))
    for image in (
        SERVICES["triton"]["image"],
        *(SERVICES[n]["image"].split("@")[0] for n in ("prometheus", "grafana")),
    ):
        assert f"`{image}`" in page
    known = load().model_dump()
    for group, name in re.findall(r"`POLICYCTL_([A-Z]+)__([A-Z_]+)", page):
        assert name.lower() in known[group.lower()], name
    for name in re.findall(r"`([A-Z_]+)`", page.split("(`POLICYCTL_DOCKER__...`)")[1].split("GPUs are")[0]):
        assert name.lower() in known["docker"]
