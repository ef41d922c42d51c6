"""Fixtures for tests on the real Triton."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "containers"))

from embedded import Embedded, embedded


@pytest.fixture
def server(tmp_path) -> Iterator[Embedded]:
    """A repository with nothing in it, not served yet."""
    with embedded(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Embedded]:
    """Releases 1.0.0 and 1.1.0 of walker published, 1.0.0 in production, served."""
    with embedded(tmp_path_factory.mktemp("served")) as found:
        found.publish("1.0.0", 1)
        found.publish("1.1.0", 2)
        found.start()
        found.run("promote", "walker", "1.0.0")
        yield found
