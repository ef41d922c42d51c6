"""The world of the move tests, for the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))
sys.path.insert(0, str(Path(__file__).parents[1] / "api"))

from world import World

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.triton import Triton
from policyctl.services import control


@pytest.fixture(autouse=True)
def _elsewhere(elsewhere) -> None:
    """Files in the folder where the tests are started change no test."""


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """A repository with nothing in it, and a server next to it."""
    return World(tmp_path, monkeypatch)


@pytest.fixture
def quiet_world(world, monkeypatch) -> World:
    """A repository with one published release and no server."""
    monkeypatch.setattr(control, "Triton", Triton)
    monkeypatch.setenv("POLICYCTL_SERVER__TIMEOUT_S", "1")
    world.publish("1.0.0", 1)
    endpoints.clear(world.control.repository)
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    return world


@pytest.fixture
def served_world(world, monkeypatch) -> World:
    """A repository with two releases, one in production, and a server."""
    from policyctl.services.rollout.promote import promote

    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    promote(world.control, model="walker", release="1.0.0", alias="production")
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    return world
