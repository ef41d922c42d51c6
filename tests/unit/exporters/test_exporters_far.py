"""Far from the usual observations, a lost branch is found, and rounding is not taken for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policyctl.domain.tensor import TensorSpec
from policyctl.errors import ParityError
from policyctl_exporters import export_policy, parity
from policyctl_exporters.answers import far_rows
from policyctl_exporters.eager import EagerGraph
from policyctl_exporters.observations import wide
from policyctl_exporters.source import Head, Options
from policyctl_exporters.sources import open_source

FREE = spaces.Box(-np.inf, np.inf, (6,), np.float32)
BOUNDED = spaces.Box(-1.0, 1.0, (2,), np.float32)


def network(activation: type[nn.Module], *, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 32), activation(), *([nn.LayerNorm(32)] if norm else []), nn.Linear(32, 32), activation()]
    net = nn.Sequential(*layers, nn.Linear(32, 2))
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.7)
    return net


class Stop(nn.Module):
    """No action where one sensor reads more than 700."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, 4:5] > 700, torch.zeros_like(x[:, :2]), self.net(x))


class Before(nn.Module):
    """A network behind a function that overflows, oscillates or normalises far away."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.net, self.function = network(nn.Tanh), function

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.function(x))


def test_rows_reach_from_small_to_what_the_type_holds() -> None:
    """Every magnitude and every element, together and alone, within the bounds."""
    specs = [TensorSpec("a", "float32", (3,)), TensorSpec("b", "int32", (2,), 0.0, 1e6), TensorSpec("c", "uint8", (4,))]
    rows = wide(specs, np.random.default_rng(0))
    a = np.abs(rows["a"])
    assert np.isfinite(a).all()
    assert a.max() > 1e30
    decades = np.floor(np.log10(a[a > 0]))
    assert set(range(0, 8)) <= set(decades.astype(int).tolist())
    alone = a[(a > 0).sum(axis=1) == 1]
    assert (alone > 1e3).any(axis=0).all()
    assert (rows["b"].min(), rows["b"].max()) == (0, 1e6)
    assert wide([TensorSpec("d", "float32", (3,), -1.0, 1.0)], np.random.default_rng(0))["d"].shape == (0, 3)


def test_a_branch_that_an_artifact_lost_is_found_far_away() -> None:
    """An artifact that is right on every usual row, and moves where the policy stops, is refused."""
    options = Options(observation_space=FREE, action_space=BOUNDED, head=Head())
    policy = open_source(Stop(), options)
    assert policy.graph is not None
    groups = far_rows(policy, EagerGraph(policy.graph, policy.contract), seed=0)
    rows = sum(len(group.observations["observation"]) for group in groups)
    assert rows > 100

    def without(observations: Any) -> Any:
        with torch.no_grad():
            action = Stop().net(torch.tensor(observations["observation"])).clamp(-1.0, 1.0)
        return {"action": action.numpy()}

    with pytest.raises(ParityError, match="test: output action differs"):
        parity.check("test", without, policy.contract, groups)


UNBOUNDED = spaces.Box(-np.inf, np.inf, (2,), np.float32)


@pytest.mark.parametrize(
    ("module", "action"),
    [
        (network(nn.ReLU), spaces.Discrete(2)),
        (network(nn.SiLU, norm=True), UNBOUNDED),
        (Before(torch.sin), BOUNDED),
        (Before(torch.square), UNBOUNDED),
        (Before(lambda x: x / x.norm(dim=-1, keepdim=True).clamp_min(1e-6)), spaces.Discrete(2)),
    ],
    ids=["relu", "silu", "sine", "square", "direction"],
)
def test_rounding_and_overflow_far_away_refuse_no_format(module: nn.Module, action: Any, tmp_path: Path) -> None:
    """Where the policy itself is not sure of its answer, no runtime is asked to be."""
    result = export_policy(module, tmp_path / "out", observation_space=FREE, action_space=action)
    assert result.failed == {}
    assert len(result.formats) == 3
    assert result.contract.max_batch is None
