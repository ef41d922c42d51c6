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


@pytest.mark.parametrize("name", [*LOOKUPS])
def test_a_lookup_beyond_its_table_gives_no_action(name: str, tmp_path: Path) -> None:
    """NaN, which the backends withhold, for that row alone; within the table, and from its end, as in PyTorch."""
    policy = Tracker(name).eval()
    options: dict[str, Any] = {"observation_space": BOX, "action_space": ACTS, "formats": ["onnx", "openvino"]}
    result = export_policy(policy, tmp_path / "out", golden_rows=4, **options)
    assert not result.failed
    firsts = np.array([0, 1, ENTRIES - 1, ENTRIES, ENTRIES + 1, 50, 1e6, -ENTRIES - 1, 2, -1], np.float32)
    rows = np.stack([firsts, *[np.ones_like(firsts)] * (WIDTH - 1)], axis=1)
    wanted = np.stack([answer(policy, row) for row in rows])
    missing = np.isnan(wanted).all(axis=1)
    assert 4 <= missing.sum() < len(rows)
    for label, run in runners(Format.OPENVINO, result.output, result.contract).items():
        found = in_batches(run, {"observation": rows}, result.contract.max_batch)["action"]
        assert np.isnan(found[missing]).all(), label
        np.testing.assert_allclose(found[~missing], wanted[~missing], rtol=0, atol=1e-5, err_msg=label)


FROM_THE_BEGINNING: dict[str, Any] = {
    "an embedding": lambda x: nn.functional.embedding(at(x), TABLE),
    "a selection": lambda x: TABLE.index_select(0, at(x)),
    "a gathering": lambda x: (x[:, 1:2] * TABLE[:, 0]).gather(1, at(x)[:, None].expand(-1, WIDTH)),
    "a place that is written": lambda x: (x[:, :1] * 0 * TABLE[:, 0]).scatter(1, at(x)[:, None], x[:, 1:2]) @ TABLE,
    "a place that is set": lambda x: (x[:, :1] * 0 * TABLE[:, 0]).scatter(1, at(x)[:, None], 1.0) @ TABLE,
    "a place that is added to": lambda x: (
        (x[:, :1] * 0 * TABLE[:, 0]).scatter_add(1, at(x)[:, None], x[:, 1:2]) @ TABLE
    ),
    "a place that is multiplied": lambda x: (
        (x[:, :1] * 0 + TABLE[:, 0]).scatter_reduce(1, at(x)[:, None], x[:, 1:2] + 1, "prod") @ TABLE
    ),
    "one code": lambda x: nn.functional.one_hot(at(x), ENTRIES).float() @ TABLE,
    "a row that is copied": lambda x: (x[0, :1] * 0 + TABLE.clone()).index_copy(0, at(x[:1]), x[:1])[None, 1],
    "a row that is added to": lambda x: (x[0, :1] * 0 + TABLE.clone()).index_add(0, at(x[:1]), x[:1])[None, 1],
    "a sum of frames": lambda x: nn.functional.embedding_bag(x[:, :2].long(), TABLE, mode="sum"),
}
COUNTED = {"whole numbers": lambda x: TABLE.long()[at(x)].float()}
LOOKUPS |= FROM_THE_BEGINNING | COUNTED


@pytest.mark.parametrize("name", FROM_THE_BEGINNING | COUNTED)
def test_a_lookup_answers_where_pytorch_does(name: str, tmp_path: Path) -> None:
    """At -1 some raise an error there, where ONNX would count from the end; whole numbers cannot be NaN."""
    policy = Tracker(name).eval()
    options: dict[str, Any] = {"observation_space": BOX, "action_space": ACTS, "formats": ["onnx", "openvino"]}
    # Of a module, `one_hot` looks at the values, which no graph does; a traced one does not.
    source = torch.jit.trace(policy, torch.ones(2, WIDTH)) if name == "one code" else policy
    result = export_policy(source, tmp_path / "out", golden_rows=4, **options)
    for first in (-1, -ENTRIES - 1, 1, 2, ENTRIES):
        row = np.array([first, 1, 1], np.float32)
        wanted = answer(policy, row)
        within = range(-ENTRIES if name in COUNTED else 0, ENTRIES)
        assert np.isnan(wanted).all() == (first not in within)
        for form in result.formats:
            for label, run in runners(form, result.output, result.contract).items():
                np.testing.assert_allclose(given(run, row), wanted, rtol=0, atol=1e-5, err_msg=f"{label} {first}")


def given(run: Any, row: np.ndarray) -> np.ndarray:
    """What an artifact answers, NaN where it raises an error."""
    try:
        return run({"observation": row[None]})["action"][0]
    except Exception:  # each runtime has its own
        return np.full(WIDTH, np.nan, np.float32)


def answer(policy: nn.Module, row: np.ndarray) -> np.ndarray:
    """The policy's own action, NaN where it raises an error."""
    with torch.no_grad():
        try:
            return policy(torch.from_numpy(row[None])).numpy()[0].clip(-100, 100)
        except (IndexError, RuntimeError):
            return np.full(WIDTH, np.nan, np.float32)
