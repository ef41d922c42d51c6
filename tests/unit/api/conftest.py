"""A control API in this process, on a repository on disk and the server of the move tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))
sys.path.insert(0, str(Path(__file__).parents[1] / "measuring"))

from api_world import ApiWorld
from world import World, copied


@pytest.fixture(autouse=True)
def _elsewhere(elsewhere) -> None:
    """The tests see nothing of the folder in which they are started."""


@pytest.fixture
def world(two_releases, tmp_path, monkeypatch) -> World:
    """Two releases of walker, the first of them in production, and a server."""
    return copied(two_releases, tmp_path, monkeypatch)


@pytest.fixture
def api(world) -> Iterator[ApiWorld]:
    """Its control API, with a token of each scope."""
    found = ApiWorld(world)
    yield found
    found.api.operations.close(timeout_s=300)


@pytest.fixture
def client(api) -> TestClient:
    """Calls it from this machine, without a token unless one is sent."""
    return api.client
