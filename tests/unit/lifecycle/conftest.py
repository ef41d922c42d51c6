"""The world of the move tests, and its crash points."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))
sys.path.insert(0, str(Path(__file__).parents[1] / "signing"))

from signing_people import People
from world import World


@pytest.fixture(scope="session")
def people(tmp_path_factory) -> People:
    """People with key pairs."""
    return People(tmp_path_factory.mktemp("people"))


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """A repository with nothing in it, and a server next to it."""
    return World(tmp_path, monkeypatch)
