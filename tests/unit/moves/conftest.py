"""A fresh world for each test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from world import World


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """A repository with nothing in it, and its server."""
    return World(tmp_path, monkeypatch)
