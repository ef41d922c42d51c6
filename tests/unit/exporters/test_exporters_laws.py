"""What is drawn is what the policy would draw: the law is found in its answers, or nothing is drawn."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from policyctl.client.sampling import draw
from policyctl.domain.contract import DistributionKind, Transform
from policyctl_exporters import ExportResult, export_policy
from policyctl_exporters.runtimes import open_runner

THREE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
WIDE = spaces.Box(-2.0, 2.0, (2,))
X = np.array([[0.5, -0.4, 0.8]], np.float32)


def answered(result: ExportResult, row: Any = X) -> dict[str, Any]:
    name = result.contract.observations[0].name
    return open_runner(result.formats[0], result.output, result.contract)({name: row})


def drawn(result: ExportResult) -> Any:
    return draw(result.contract, answered(result), np.random.default_rng(1))


@pytest.mark.case
@pytest.mark.parametrize("kind", ["module", "onnx"])
def test_draws_of_a_squashed_policy_are_squashed(case: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    """Its spread is e^-20, so a draw is the deterministic action; clipped, it would be another one."""
    folder = case("squashed_gaussian_draws")
    source: Any = folder / "sac.onnx"
    if kind == "module":
        spec = importlib.util.spec_from_file_location("squashed", folder / "make.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        source = module.make()
    result = export_policy(source, tmp_path / "out", formats=["onnx"], observation_space=THREE, action_space=WIDE)
    assert result.contract.distribution.transform is Transform.TANH_RESCALE
    np.testing.assert_allclose(drawn(result), [[-0.95, 0.86]], atol=5e-3)
    np.testing.assert_allclose(drawn(result), answered(result)["action"], atol=1e-6)


class Acts(torch.nn.Module):
    """A mean, a spread, and an action that is made of the mean in one way or another."""

    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor], *, size: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.act, self.size = torch.nn.Linear(3, 2), act, size

    def forward(self, obs: torch.Tensor) -> dict[str, torch.Tensor]:
        mean = self.size * self.net(obs)
        return {"action": self.act(mean), "mean": mean, "log_std": torch.full_like(mean, -20.0)}


WAYS = {
    "clipped": (lambda m: m.clamp(-2, 2), Transform.CLIP),
    "clipped by whoever steps": (lambda m: m, Transform.CLIP),
    "squashed": (lambda m: 2 * torch.tanh(m), Transform.TANH_RESCALE),
    "rescaled": (lambda m: 2 * m.clamp(-1, 1), Transform.RESCALE),
}


@pytest.mark.parametrize("size", [1.0, 1e-3])
@pytest.mark.parametrize("way", WAYS)
def test_each_law_is_found_in_the_answers(tmp_path: Path, way: str, size: float) -> None:
    """Also where the actions are so small that clipping and squashing hardly differ."""
    act, transform = WAYS[way]
    module = Acts(act, size=size)
    result = export_policy(module, tmp_path / "out", formats=["onnx"], observation_space=THREE, action_space=WIDE)
    assert result.contract.distribution.transform is transform
    np.testing.assert_allclose(drawn(result), answered(result)["action"], atol=1e-6)


def test_a_law_that_is_not_known_leaves_nothing_to_draw(tmp_path: Path) -> None:
    """An action that is no clipped, squashed or rescaled mean is served, and no wrong draw is ever made of it."""
    said: list[str] = []
    result = export_policy(
        Acts(lambda m: 2 * torch.sin(m)),
        tmp_path / "out",
        formats=["onnx"],
        observation_space=THREE,
        action_space=WIDE,
        progress=said.append,
    )
    assert result.contract.distribution.kind is DistributionKind.NONE
    assert [spec.name for spec in result.contract.outputs] == ["action", "mean", "log_std"]
    assert any("no action can be drawn" in line for line in said)
    assert any("no action can be drawn" in note for note in result.notes)


def test_a_squashed_action_without_bounds_is_not_drawn(case: Callable[[str], Path], tmp_path: Path) -> None:
    """Without the action space nobody knows what tanh is rescaled to."""
    result = export_policy(case("squashed_gaussian_draws") / "sac.onnx", tmp_path / "out", formats=["onnx"])
    assert result.contract.distribution.kind is DistributionKind.NONE


class Chooses(torch.nn.Module):
    """Scores, and an action that is the best one or another."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.shift = torch.nn.Linear(3, 4), shift

    def forward(self, obs: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(obs)
        masked = torch.where(torch.tensor([False, False, False, True]), -torch.inf, logits)
        return {"action": (masked.argmax(dim=1) + self.shift) % 3, "logits": masked}


@pytest.mark.parametrize(("shift", "kind"), [(0, DistributionKind.CATEGORICAL), (1, DistributionKind.NONE)])
def test_a_choice_that_its_scores_do_not_make_is_not_drawn_by_them(
    tmp_path: Path, shift: int, kind: DistributionKind
) -> None:
    """A choice that is ruled out has a score of minus infinity, which is no doubt about the others."""
    result = export_policy(
        Chooses(shift), tmp_path / "out", formats=["onnx"], observation_space=THREE, action_space=spaces.Discrete(4)
    )
    assert result.contract.distribution.kind is kind


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([2, 2], start=[3, 5]), spaces.MultiBinary(4), spaces.Discrete(4, start=2)]
)
def test_scores_of_every_discrete_space_pass(tmp_path: Path, space: Any) -> None:
    """Choices that start elsewhere, several at once, and bits: the law's best one is the action."""
    torch.manual_seed(0)
    result = export_policy(
        torch.nn.Linear(3, 4), tmp_path / "out", formats=["onnx"], observation_space=THREE, action_space=space
    )
    assert result.contract.distribution.kind is not DistributionKind.NONE
    assert result.notes == ()
