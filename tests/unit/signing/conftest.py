"""A world with people who sign."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))

from signing_people import People, SignedWorld


@pytest.fixture(scope="session")
def people(tmp_path_factory) -> People:
    """Alice, Bob and Mallory, each with a key pair."""
    return People(tmp_path_factory.mktemp("people"))


@pytest.fixture
def world(tmp_path, monkeypatch, people) -> SignedWorld:
    """A repository, its server, and a trust store that holds Alice."""
    return SignedWorld(tmp_path, monkeypatch, people)
