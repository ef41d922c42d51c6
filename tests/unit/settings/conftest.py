"""A folder without files."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _elsewhere(elsewhere) -> None:
    """What lies in the folder where the tests are run does not reach them."""
