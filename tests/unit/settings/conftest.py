"""A folder without files."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _elsewhere(elsewhere) -> None:
    """Whatever lies in the folder of whoever runs the tests is none of theirs."""
