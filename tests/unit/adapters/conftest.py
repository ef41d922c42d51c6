"""The world of the move tests, and a file system that is full."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))

from world import World

from policyctl.adapters.repository import Repository


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """A repository with nothing in it, and a server next to it."""
    return World(tmp_path, monkeypatch)


@pytest.fixture
def repository(tmp_path) -> Repository:
    """An empty repository."""
    made = Repository(tmp_path / "model_repository")
    made.create()
    return made


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
