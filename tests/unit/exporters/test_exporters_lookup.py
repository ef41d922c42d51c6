"""A lookup beyond its table has no action in OpenVINO either: the policy's own runtime raises an error there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from policyctl.domain.artifacts import Format
from policyctl_exporters import export_policy
from policyctl_exporters.observations import in_batches
from policyctl_exporters.runtimes import runners

ENTRIES, WIDTH = 4, 3
BOX = gym.spaces.Box(0, ENTRIES - 1, (WIDTH,), np.float32)
ACTS = gym.spaces.Box(-100, 100, (WIDTH,), np.float32)
TABLE = torch.arange(1.0, ENTRIES * WIDTH + 1).reshape(ENTRIES, WIDTH)


def at(x: torch.Tensor) -> torch.Tensor:
    """Which entry, by the first number of the observation."""
    return x[:, 0].long()


LOOKUPS: dict[str, Any] = {
    "a frame": lambda x: TABLE[at(x)],
    "several frames": lambda x: TABLE[x[:, :2].long()].sum(dim=1),
    "a column": lambda x: TABLE.T[:, at(x)].T,
    "a number by two": lambda x: TABLE[at(x), x[:, 1].long().clamp(0, 2)][:, None] + TABLE[0],
    "a frame for one row": lambda x: nn.functional.embedding(x[0, 0].long(), TABLE),
    "a frame, clipped": lambda x: torch.relu(TABLE[at(x)]).clamp(0, 50),
}


class Tracker(nn.Module):
    """An action that follows what it looks up."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.name = nn.Linear(WIDTH, WIDTH), name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) + LOOKUPS[self.name](x)


@pytest.mark.parametrize("name", LOOKUPS)
def test_a_lookup_beyond_its_table_gives_no_action(name: str, tmp_path: Path) -> None:
    """NaN, which the backends withhold, for that row alone; within the table, and from its end, as in PyTorch."""
    policy = Tracker(name).eval()
    options: dict[str, Any] = {"observation_space": BOX, "action_space": ACTS, "formats": ["onnx", "openvino"]}
    result = export_policy(policy, tmp_path / "out", golden_rows=4, **options)
    assert not result.failed
    # An embedding counts from its beginning alone.
    last = [] if name == "a frame for one row" else [-1]
    firsts = np.array([0, 1, ENTRIES - 1, ENTRIES, ENTRIES + 1, 50, 1e6, -ENTRIES - 1, 2, *last], np.float32)
    rows = np.stack([firsts, *[np.ones_like(firsts)] * (WIDTH - 1)], axis=1)
    wanted = np.stack([answer(policy, row) for row in rows])
    missing = np.isnan(wanted).all(axis=1)
    assert 4 <= missing.sum() < len(rows)
    for label, run in runners(Format.OPENVINO, result.output, result.contract).items():
        found = in_batches(run, {"observation": rows}, result.contract.max_batch)["action"]
        assert np.isnan(found[missing]).all(), label
        np.testing.assert_allclose(found[~missing], wanted[~missing], rtol=0, atol=1e-5, err_msg=label)


def answer(policy: nn.Module, row: np.ndarray) -> np.ndarray:
    """The policy's own action, NaN where it raises an error."""
    with torch.no_grad():
        try:
            return policy(torch.from_numpy(row[None])).numpy()[0].clip(-100, 100)
        except (IndexError, RuntimeError):
            return np.full(WIDTH, np.nan, np.float32)
