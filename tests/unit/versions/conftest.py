"""The world of the move tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))

from world import World


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """A repository with nothing in it, and its server."""
    return World(tmp_path, monkeypatch)


@pytest.fixture
def served(world) -> World:
    """Releases 1.0.0, 1.1.0 and 1.2.0 of walker; 1.0.0 in production."""
    from policyctl.services.rollout.promote import promote

    for seed, release in enumerate(("1.0.0", "1.1.0", "1.2.0"), start=1):
        world.publish(release, seed)
    promote(world.control, model="walker", release="1.0.0", alias="production")
    return world
