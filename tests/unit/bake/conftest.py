"""The world of the move tests, with clients that ask."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))

from bake_world import BakeWorld


@pytest.fixture
def world(tmp_path, monkeypatch) -> BakeWorld:
    """Releases 1.0.0 to 1.2.0, the first in production, and a server that clients ask."""
    return BakeWorld(tmp_path, monkeypatch)
