"""This tree beside a commit, each on a server of its own: what it says of itself, and of itself made slower."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]


def against(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON document, and what it said."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so there is no commit to compare with")
    command = [sys.executable, str(ROOT / "benchmarks" / "against_release.py"), "--ways", "onnx:1", "--moves", "0"]
    command += ["--seconds", "14", "--limit", "200", "--report", str(folder), "--seed", "1", "--json", *arguments]
    environment = {**os.environ, "POLICYCTL_GATES__NON_INFERIORITY__INTERVAL_MS": "60"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode in {0, 4}, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def test_a_tree_is_not_failed_beside_its_own_commit(tmp_path: Path) -> None:
    """Two servers of one code: passed, or on a busy machine inconclusive; both have processes of their own."""
    code, found, said = against(tmp_path, "--base", "HEAD")
    assert (code, found["verdict"]) in {(0, "passed"), (0, "inconclusive")}, said
    ((first, *_),) = [each["attempts"] for each in found["compared"]]
    urls = [words[words.index("-u") + 1] for words in first["evidence"]["commands"].values()]
    assert len(set(urls)) == 2
    assert len(first["evidence"]["rounds"]) >= 6
    assert (tmp_path / "compare.md").read_text().count("| onnx:1") >= 3


def test_a_tree_that_is_slower_than_its_base_fails_with_four(tmp_path: Path) -> None:
    """Its backend spins; it fails with the processes of a second start too, and the report names what is worse."""
    code, found, said = against(tmp_path, "--base", "HEAD", "--slow-us", "400")
    assert (code, found["verdict"]) == (4, "failed"), said
    assert "worse than the incumbent: p50 +" in found["reason"]
    ((_, again),) = [each["attempts"] for each in found["compared"]]
    assert again["verdict"] == "failed"
    assert any("400 us were put into" in words for words in found["cautions"])


def test_a_base_that_cannot_be_run_is_inconclusive(tmp_path: Path) -> None:
    """The first commits had no servers at all: that is said, and is no failure."""
    first = subprocess.run(
        ["git", "-C", str(ROOT), "rev-list", "--max-parents=0", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.split()
    if not first:
        pytest.skip("this is no git checkout")
    code, found, _ = against(tmp_path, "--base", first[-1])
    assert (code, found["verdict"]) == (0, "inconclusive")
    assert "this base cannot be compared with" in found["reason"]
