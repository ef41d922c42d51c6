"""The objects of kubernetes/: as they are written, and as `kubectl kustomize` puts them together."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "kubernetes"
OVERLAY = Path("overlays/cpu/kustomization.yaml")
KUSTOMIZE = (5, 0)
"""The oldest Kustomize that knows what these files use; kubectl 1.27 brings it, Debian 12 has 1.20."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Objects:
    """What would be applied."""

    all: tuple[Object, ...]

    def of(self, *kinds: str) -> list[Object]:
        return [each for each in self.all if each["kind"] in kinds]

    def one(self, kind: str, name: str | None = None) -> Object:
        (found,) = (each for each in self.of(kind) if name in {None, each["metadata"]["name"]})
        return found

    @property
    def pod(self) -> Object:
        """The template of a node's pod."""
        return self.one("StatefulSet")["spec"]["template"]

    @property
    def container(self) -> Object:
        (found,) = self.pod["spec"]["containers"]
        return found

    @property
    def ports(self) -> dict[str, int]:
        """The container's, by name."""
        return {each["name"]: each["containerPort"] for each in self.container["ports"]}

    def environment(self, values: Mapping[str, str]) -> dict[str, str]:
        """The container's variables, without the Secret's.

        Args:
            values: What the cluster fills in, by field.
        """
        (settings,) = (each["configMapRef"]["name"] for each in self.container["envFrom"] if "configMapRef" in each)
        found = dict(self.one("ConfigMap", settings)["data"])
        for each in self.container["env"]:
            text = each["value"] if "value" in each else values[each["valueFrom"]["fieldRef"]["fieldPath"]]
            found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], text)
        return found


def read(path: Path) -> list[Object]:
    """The objects of one file."""
    return [each for each in YAML(typ="safe").load_all(path.read_text()) if each]


def written() -> Objects:
    """What the files say, with the settings that both kustomizations name."""
    paths = sorted(each for each in FOLDER.rglob("*.yaml") if each.parent.name in {"base", "monitoring"})
    found = [each for path in paths if path.name != "kustomization.yaml" for each in read(path)]
    settings: dict[str, str] = {}
    for path in (FOLDER / "base" / "kustomization.yaml", FOLDER / OVERLAY):
        (kustomization,) = read(path)
        (generator,) = kustomization["configMapGenerator"]
        settings |= dict(each.split("=", 1) for each in generator["literals"])
    name = {"name": generator["name"]}
    return Objects((*found, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": name, "data": settings}))


def built(folder: Path) -> Objects:
    """What `kubectl kustomize` makes of an overlay; the test is skipped where that is not here."""
    done = subprocess.run([_kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return Objects(tuple(YAML(typ="safe").load_all(done.stdout)))


def copied(into: Path) -> Path:
    """A copy of kubernetes/, to be changed."""
    return shutil.copytree(FOLDER, into / "kubernetes")


def with_components(folder: Path) -> Path:
    """Take the components of the overlay in a copy of kubernetes/; the overlay's folder."""
    path = folder / OVERLAY
    text = re.sub(r"^# (components:|  - )", r"\1", path.read_text(), flags=re.MULTILINE)
    assert "\ncomponents:\n" in text
    path.write_text(text)
    return path.parent


def _kubectl() -> str:
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([found, "version", "--client", "-o", "json"], capture_output=True, text=True, check=False)
    said = json.loads(done.stdout or "{}").get("kustomizeVersion", "")
    number = tuple(int(part) for part in re.findall(r"\d+", said)[:2])
    if number < KUSTOMIZE:
        pytest.skip(f"this kubectl has Kustomize {said or 'of unknown version'}, {KUSTOMIZE[0]} is needed")
    return found
