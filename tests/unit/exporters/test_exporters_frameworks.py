"""docs/frameworks.md: its commands run, and each export answers as the framework that trained the policy."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "frameworks"
PAGE = (ROOT / "docs" / "frameworks.md").read_text()
FOLDERS = sorted(train.parent.name for train in EXAMPLES.glob("*/train.py"))
PACKAGES = {
    "brax": ("brax", "jax"),
    "cleanrl": (),
    "rllib": ("ray",),
    "skrl": ("skrl",),
    "tianshou": ("tianshou",),
    "torchrl": ("torchrl",),
}
"""What each example needs besides what exports."""


def commands(folder: str) -> list[str]:
    """The commands of the page for one example, that run in its folder."""
    (block,) = re.findall(rf"^```sh\ncd examples/frameworks/{folder}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return [line for line in block.splitlines() if line]


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_export_answers_as_the_framework_that_trained_the_policy(folder: str, tmp_path: Path) -> None:
    """Over whole episodes, in every format: with the statistics of its observations, its squashing and its clipping."""
    for package in PACKAGES[folder]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make frameworks")
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs", "build"))
    # JAX looks for accelerators otherwise, and warns where there is none.
    settings = {**os.environ, "JAX_PLATFORMS": "cpu"}
    programs = {"python": [sys.executable], "policyctl": [sys.executable, "-m", "policyctl"]}
    for line in commands(folder):
        program, *arguments = shlex.split(line)
        done = subprocess.run(
            [*programs[program], *arguments],
            check=False,
            cwd=tmp_path / folder,
            env=settings,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    (rows,) = re.findall(r"^Deployed answers as episodes.npz says on (\d+) rows", done.stderr, re.MULTILINE)
    assert int(rows) == 600
    (report,) = tmp_path.glob("*/build/pendulum/parity.json")
    assert set(json.loads(report.read_bytes())["formats"]) == {"onnx", "openvino", "torchscript"}


def test_the_page_shows_the_modules_that_run() -> None:
    """Each block of Python on the page is the file of its example."""
    shown = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert shown and set(shown) == {(EXAMPLES / folder / "policy.py").read_text() for folder in FOLDERS}
