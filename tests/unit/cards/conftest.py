"""The world of the move tests, and cards that nobody wrote."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))
sys.path.insert(0, str(Path(__file__).parents[1] / "measuring"))

from world import World


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """A repository with nothing in it, and a server next to it."""
    return World(tmp_path, monkeypatch)
