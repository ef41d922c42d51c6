"""What must not be exported, and disks that refuse: an error that says what to do, and nothing written."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from policyctl.errors import ParityError, PolicyctlError, UsageError
from policyctl_exporters import export_policy
from policyctl_exporters.folders import whole_folder
from policyctl_exporters.sources import load_callable

BOX = gym.spaces.Box(-1, 1, (2,), np.float32)


class Broken(torch.nn.Module):
    """Divides by zero."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """NaN or infinity, whatever is observed."""
        return observation * 0 + self.value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_policy_that_answers_nothing_finite_is_not_exported(tmp_path: Path, value: float) -> None:
    """NaN equals NaN in no comparison that means anything: the policy itself is refused, with the observation."""
    space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with pytest.raises(ParityError, match="the policy itself answers action"):
        export_policy(Broken(value), tmp_path / "out", observation_space=BOX, action_space=space, formats=["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_refusal_in_words(tmp_path: Path) -> None:
    """An output below a file is refused; no traceback, nothing written."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"), whole_folder(tmp_path / "file" / "out", force=False):
        pass


def test_a_full_disk_is_named_whatever_the_library_said(tmp_path: Path, monkeypatch) -> None:
    """A runtime's own words about its stream do not hide that the disk is full."""
    import os

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    def write(folder: Path) -> None:
        monkeypatch.setattr(os, "fsync", full)
        raise PolicyctlError(f"iostream error in {folder.name}")

    with pytest.raises(UsageError, match="No space left"), whole_folder(tmp_path / "out", force=False) as folder:
        write(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_factory_that_raises_is_named_with_its_reason(tmp_path: Path, monkeypatch) -> None:
    """package.module:callable runs the user's code; what it raises is told, not traced."""
    (tmp_path / "factory_that_raises.py").write_text("def make():\n    raise RuntimeError('boom')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="raised RuntimeError: boom"):
        load_callable("factory_that_raises:make")


def test_an_environment_that_does_not_fit_the_archive_is_refused() -> None:
    """A Stable-Baselines3 policy knows its spaces: others are refused, and so is a head."""
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import PPO

    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs={"net_arch": [4]})
    with pytest.raises(UsageError, match="observation space is"):
        export_policy(model, "nowhere", observation_space=BOX)
    with pytest.raises(UsageError, match="head is for torch modules"):
        export_policy(model, "nowhere", head="action")
