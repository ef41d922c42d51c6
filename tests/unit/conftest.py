"""What holds for every unit test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _power_stays_on() -> Iterator[None]:
    """What a killed process leaves does not hang on fsync, no test here cuts the power, and a disk takes its time.

    Tests of an fsync that fails put their own in its place.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield
