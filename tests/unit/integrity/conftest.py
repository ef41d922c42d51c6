"""A small release on disk, and the world of the move tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "api"))
sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))
sys.path.insert(0, str(Path(__file__).parents[1] / "signing"))

from world import World

from policyctl.integrity import build_manifest


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """A repository with nothing in it, and a server for it."""
    return World(tmp_path, monkeypatch)


@pytest.fixture
def release(tmp_path) -> Path:
    """A release of three tiny files, one of them in a folder."""
    folder = tmp_path / "release"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"ab")
    (folder / "empty").write_bytes(b"")
    (folder / "sub" / "b.bin").write_bytes(b"cd")
    (folder / "manifest.json").write_bytes(build_manifest(folder, model="m", release="1.0.0").to_bytes())
    return folder
