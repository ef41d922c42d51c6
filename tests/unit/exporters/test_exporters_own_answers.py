"""A module that was written after another framework is held against what that framework did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from policyctl.errors import ParityError, UsageError
from policyctl_exporters import export_policy, observations
from policyctl_exporters.observations import RECORDED_ROWS

SPACES: Any = {"observation_space": spaces.Box(-4.0, 4.0, (3,)), "action_space": spaces.Box(-1.0, 1.0, (2,))}
MEAN = torch.tensor([1.0, 0.0, -1.0])


class Twin(nn.Module):
    """Normalises, then squashes; what is left out of it shows in its answers alone."""

    def __init__(self, *, normalizes: bool = True, squashes: bool = True) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.net, self.normalizes, self.squashes = nn.Linear(3, 2), normalizes, squashes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.net(x - MEAN if self.normalizes else x)
        return found.tanh() if self.squashes else found


def played(rows: int = 40) -> dict[str, Any]:
    """What the framework observed and did."""
    seen = np.random.default_rng(0).uniform(-4, 4, (rows, 3)).astype(np.float32)
    return {"observation": seen, "action": Twin()(torch.from_numpy(seen)).detach().numpy()}


def test_a_module_that_does_what_its_framework_did_is_exported_with_the_difference(tmp_path: Path) -> None:
    """By a file, as the command line takes it; the file's observations are part of parity."""
    np.savez(tmp_path / "episodes.npz", **played())
    bare = export_policy(Twin(), tmp_path / "bare", formats=["onnx"], **SPACES)
    result = export_policy(Twin(), tmp_path / "out", formats=["onnx"], answers=str(tmp_path / "episodes.npz"), **SPACES)
    (note,) = result.notes
    assert note == "Twin answers as episodes.npz says on 40 rows; largest difference: action 0"
    assert result.parity[0].rows > bare.parity[0].rows


@pytest.mark.parametrize("fault", [{"normalizes": False}, {"squashes": False}])
def test_a_module_that_does_otherwise_is_refused_with_the_row(fault: dict[str, bool], tmp_path: Path) -> None:
    """No artifact is written: parity alone would find each of them right."""
    with pytest.raises(ParityError, match=r"Twin does not answer as the framework's answers says") as refusal:
        export_policy(Twin(**fault), tmp_path / "out", formats=["onnx"], answers=played(), **SPACES)
    assert "action differs in row" in refusal.value.problem and "for observation [" in refusal.value.problem
    assert "statistics of observations" in refusal.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_long_recording_is_compared_row_by_row(tmp_path: Path) -> None:
    """Rows that are left out are left out of observations and actions alike."""
    export_policy(Twin(), tmp_path / "out", formats=["onnx"], answers=played(2 * RECORDED_ROWS + 1), **SPACES)


def test_a_choice_is_the_same_or_not(tmp_path: Path) -> None:
    """Scores next to the action are compared where the file has them."""
    torch.manual_seed(3)
    net, choices = (
        nn.Linear(3, 4),
        {"action_space": spaces.Discrete(4), "observation_space": SPACES["observation_space"]},
    )
    seen = played()["observation"]
    scores = net(torch.from_numpy(seen)).detach().numpy()
    answers = {"observation": seen, "action": scores.argmax(axis=1), "logits": scores}
    result = export_policy(net, tmp_path / "out", formats=["onnx"], answers=answers, **choices)
    assert result.notes[-1].endswith("largest difference: action 0, logits 0")
    with pytest.raises(ParityError, match="action differs in row 7"):
        changed = answers["action"].copy()
        changed[7] = (changed[7] + 1) % 4
        export_policy(net, tmp_path / "no", formats=["onnx"], answers={**answers, "action": changed}, **choices)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"action": None}, "no array is called 'action', found observation"),
        ({"action": np.zeros((39, 2), np.float32)}, r"action is float32\[39, 2\], expected float32\[40, 2\]"),
        ({"action": np.zeros((40, 2), np.int64)}, r"action is int64\[40, 2\]"),
        ({"observation": None}, "lack 'observation'"),
    ],
)
def test_answers_that_do_not_fit_are_refused_by_name(changed: dict[str, Any], problem: str, tmp_path: Path) -> None:
    """The message says what is expected."""
    answers = {name: array for name, array in (played() | changed).items() if array is not None}
    with pytest.raises(UsageError, match=problem):
        export_policy(Twin(), tmp_path / "out", answers=answers, **SPACES)


class Counter(nn.Module):
    """Sums up what it saw in a buffer, as TorchScript files with memory do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2)
        self.register_buffer("total", torch.zeros(1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total = 0.5 * self.total + x
        found: torch.Tensor = torch.tanh(self.net(self.total))
        return found


def test_a_policy_with_memory_is_compared_over_one_episode(tmp_path: Path) -> None:
    """Each row from what the rows before it left."""
    torch.manual_seed(4)
    net = Counter().eval()
    program = torch.jit.script(net)
    torch.jit.save(program, str(tmp_path / "counter.pt"))
    seen = played(20)["observation"]
    with torch.no_grad():
        did = np.concatenate([program(torch.from_numpy(row[None])).numpy() for row in seen])
    answers = {"observation": seen, "action": did}
    source = tmp_path / "counter.pt"
    result = export_policy(source, tmp_path / "out", formats=["onnx"], answers=answers, **SPACES)
    assert "on 20 rows" in result.notes[-1]
    with pytest.raises(ParityError, match="action differs in row"):
        export_policy(source, tmp_path / "no", formats=["onnx"], answers={**answers, "action": did[::-1]}, **SPACES)


def test_of_a_long_episode_the_first_steps_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows spread over it would not follow on, and a policy that answers right would be refused."""
    monkeypatch.setattr(observations, "RECORDED_ROWS", 8)
    torch.manual_seed(4)
    program = torch.jit.script(Counter().eval())
    torch.jit.save(program, str(tmp_path / "counter.pt"))
    seen = played(20)["observation"]
    with torch.no_grad():
        did = np.concatenate([program(torch.from_numpy(row[None])).numpy() for row in seen])
    answers = {"observation": seen, "action": did}
    result = export_policy(tmp_path / "counter.pt", tmp_path / "out", formats=["onnx"], answers=answers, **SPACES)
    assert "on 8 rows" in result.notes[-1]
