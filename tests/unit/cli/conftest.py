"""The world of the move tests, for the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))
sys.path.insert(0, str(Path(__file__).parents[1] / "api"))

from world import World, copied

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.triton import Triton
from policyctl.services import control


@pytest.fixture(autouse=True)
def _elsewhere(elsewhere) -> None:
    """Files in the folder where the tests are started change no test."""


@pytest.fixture
def site(tmp_path) -> Path:
    """Where the repository lies."""
    return tmp_path


@pytest.fixture
def world(site, monkeypatch) -> World:
    """A repository with nothing in it, and a server next to it."""
    return World(site, monkeypatch)


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
def served_world(two_releases, site, monkeypatch) -> World:
    """A repository with two releases, one in production, and a server."""
    world = copied(two_releases, site, monkeypatch)
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    return world
