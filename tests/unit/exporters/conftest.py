"""Policies that several test files export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import exporter_models as models
import pytest
import torch
from gymnasium import spaces

# As many workers as cores run these tests: threads of theirs would wait for one another.
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[4] / "shared" / "policies"


@pytest.fixture(scope="session")
def ppo() -> Any:
    """A tiny PPO with four discrete actions."""
    from stable_baselines3 import PPO

    return models.tiny(PPO, models.VECTOR, spaces.Discrete(4))


@pytest.fixture(scope="session")
def archive(ppo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, as Stable-Baselines3 saves it."""
    path = tmp_path_factory.mktemp("archive") / "model.zip"
    ppo.save(path)
    return path


@pytest.fixture
def shared_policies() -> Path:
    """The folder of real policies, which is not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip("the shared policies are not beside this repository")
    return SHARED
