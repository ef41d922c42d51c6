"""The wheel of this checkout, built once, and an export to publish."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from installed import ROOT, Installed, install


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """As `make wheel` builds it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, ROOT / "backend_openvino" / "wheel.py", folder], check=True, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def core(wheel: Path, tmp_path_factory) -> Installed:
    """`pip install policyctl`."""
    return install(wheel, tmp_path_factory.mktemp("core"), tmp_path_factory.mktemp("robot"))


@pytest.fixture(scope="session")
def serving(wheel: Path, tmp_path_factory) -> Installed:
    """`pip install policyctl[serve]`."""
    return install(wheel, tmp_path_factory.mktemp("serving"), tmp_path_factory.mktemp("server"), ["serve"])


@pytest.fixture(scope="session")
def export(tmp_path_factory) -> Path:
    """What `policyctl export` wrote elsewhere, where torch is installed."""
    folder = tmp_path_factory.mktemp("export") / "cartpole"
    archive = ROOT / "control" / "policyctl" / "demo" / "ppo-1.1.0.zip"
    command = [*(sys.executable, "-m", "policyctl", "export", archive, "--trust-pickle", "--quiet", "-o", folder)]
    subprocess.run([*command, "--format", "openvino"], check=True, cwd=folder.parent, stdout=subprocess.DEVNULL)
    return folder
