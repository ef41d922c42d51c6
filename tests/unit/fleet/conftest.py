"""A store in memory, and nodes whose servers are files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))
sys.path.insert(0, str(Path(__file__).parent))

from fleet_world import FleetWorld


@pytest.fixture(scope="session")
def publisher(tmp_path_factory) -> Mapping[str, bytes]:
    """The objects of a store that holds three releases."""
    return FleetWorld.published(tmp_path_factory.mktemp("publisher"))


@pytest.fixture
def fleet(tmp_path, monkeypatch, publisher: Mapping[str, bytes]) -> Iterator[FleetWorld]:
    """Three nodes; the store holds walker 1.0.0, 1.1.0 and 2.0.0, whose contract is another."""
    world = FleetWorld(tmp_path, monkeypatch, publisher)
    yield world
    world.close()
