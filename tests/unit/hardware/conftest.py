"""Fixtures that make up machines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from machines import gpu_of, machine_of

from policyctl.domain.hardware import Gpu, Hardware


@pytest.fixture
def machine() -> Callable[..., Hardware]:
    return machine_of


@pytest.fixture
def gpu() -> Callable[..., Gpu]:
    return gpu_of
