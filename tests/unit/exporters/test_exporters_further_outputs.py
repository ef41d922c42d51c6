"""A module's outputs are what their names say, or what was said of them; no output vanishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from policyctl.domain.contract import DistributionKind
from policyctl.domain.golden import Golden
from policyctl.errors import UsageError
from policyctl_exporters import export_policy
from policyctl_exporters.runtimes import runners

BOX = spaces.Box(-1.0, 1.0, (4,))
TWO = spaces.Box(-1.0, 1.0, (2,))
ROWS = np.random.default_rng(0).uniform(-1, 1, (9, 4)).astype(np.float32)


class Gives(nn.Module):
    """Whatever `make` makes of the observation."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.make = nn.Linear(4, 2), make

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(x, self.net(x))


def tracker(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """An action, a value without a dimension of its own, a phase of whole numbers, and a name no tensor may have."""
    whole = (x[:, :3] * 10).to(torch.int32)
    return {"value": y.sum(dim=1), "action": y, "phase": whole, "3d/points": x.reshape(-1, 2, 2), "observation": x}


def test_what_is_no_part_of_the_action_is_kept_under_its_name(tmp_path: Path) -> None:
    """Types and shapes are the module's own; a name that is taken, or that no tensor may have, gets a prefix."""
    result = export_policy(Gives(tracker), tmp_path / "out", observation_space=BOX, action_space=TWO)
    assert [(s.name, s.dtype, s.shape) for s in result.contract.outputs] == [
        ("action", "float32", (2,)),
        ("value", "float32", (1,)),
        ("phase", "int32", (3,)),
        ("out_3d_points", "float32", (2, 2)),
        ("out_observation", "float32", (4,)),
    ]
    golden = Golden.from_bytes((tmp_path / "out" / "golden.npz").read_bytes(), result.contract)
    assert set(golden.outputs) == {spec.name for spec in result.contract.outputs}
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            found = run({"observation": ROWS})
            np.testing.assert_allclose(found["value"], found["action"].sum(axis=1, keepdims=True), atol=1e-5)
            np.testing.assert_array_equal(found["phase"], (ROWS[:, :3] * np.float32(10)).astype(np.int32))
            np.testing.assert_array_equal(found["out_3d_points"], ROWS.reshape(-1, 2, 2))
            np.testing.assert_array_equal(found["out_observation"], ROWS)


@pytest.mark.parametrize(
    ("keys", "head", "outputs", "law"),
    [
        (["action", "mean", "log_std"], None, ["action", "mean", "log_std"], DistributionKind.GAUSSIAN),
        (["mean", "log_std", "value"], None, ["action", "mean", "log_std", "value"], DistributionKind.GAUSSIAN),
        (["action", "mean"], None, ["action", "mean"], DistributionKind.NONE),
        (["mean"], None, ["action"], DistributionKind.NONE),
        (["action", "logits"], None, ["action", "logits"], DistributionKind.NONE),
        (
            ["mu", "sigma"],
            {"mu": "mean", "sigma": "log_std"},
            ["action", "mean", "log_std"],
            DistributionKind.GAUSSIAN,
        ),
        (["actions", "action"], {"actions": "action"}, ["action", "out_action"], DistributionKind.NONE),
        (
            ["action", "mean", "log_std"],
            {"mean": "output", "log_std": "output"},
            ["action", "out_mean", "out_log_std"],
            DistributionKind.NONE,
        ),
    ],
)
def test_every_key_becomes_an_output(
    tmp_path: Path, keys: list[str], head: Any, outputs: list[str], law: DistributionKind
) -> None:
    """By its name, or by what was said of it."""
    module = Gives(lambda x, y: dict.fromkeys(keys, y))
    result = export_policy(
        module, tmp_path / "out", formats=["onnx"], observation_space=BOX, action_space=TWO, head=head
    )
    assert [spec.name for spec in result.contract.outputs] == outputs
    assert result.contract.distribution.kind is law


def test_scores_and_values_of_a_discrete_policy_are_all_kept(tmp_path: Path) -> None:
    """Logits choose, and what else the policy gives stays."""
    module = Gives(lambda x, y: {"logits": y, "q_values": y + 1, "value": y[:, :1]})
    result = export_policy(
        module, tmp_path / "out", formats=["onnx"], observation_space=BOX, action_space=spaces.Discrete(2)
    )
    assert [spec.name for spec in result.contract.outputs] == ["action", "logits", "q_values", "value"]
    assert result.contract.distribution.kind is DistributionKind.CATEGORICAL


@pytest.mark.parametrize("name", ["actions", "action_chunk"])
def test_the_only_output_whose_name_says_that_it_is_the_action_is_it(tmp_path: Path, name: str) -> None:
    """As for ONNX files; a chunk keeps its steps."""
    chunk = spaces.Box(-1.0, 1.0, (2, 2))
    module = Gives(lambda x, y: {"value": y[:, :1], name: torch.stack([y, -y], dim=1)})
    result = export_policy(module, tmp_path / "out", formats=["onnx"], observation_space=BOX, action_space=chunk)
    assert [(spec.name, spec.shape) for spec in result.contract.outputs] == [("action", (2, 2)), ("value", (1,))]


@pytest.mark.parametrize("name", ["prev_actions", "last_action", "legal_actions", "target_actions", "raw_actions"])
def test_the_action_of_another_step_is_never_served_as_the_action(tmp_path: Path, name: str) -> None:
    """A name says that an output is the action, and not that it was, or could be."""
    module = Gives(lambda x, y: {"mu": y, name: x[:, :2]})
    with pytest.raises(UsageError, match=f"gives mu, {name}, from which no continuous action follows"):
        export_policy(module, tmp_path / "out", observation_space=BOX, action_space=TWO)


@pytest.mark.parametrize("space", [spaces.MultiBinary(2), spaces.MultiDiscrete([3, 3]), spaces.Discrete(2)])
@pytest.mark.parametrize("name", ["actions", "action"])
def test_scores_that_are_called_an_action_are_not_cut_to_integers(tmp_path: Path, name: str, space: Any) -> None:
    """Their fractions would vanish, and with them the choice."""
    module = Gives(lambda x, y: {name: y, "value": y[:, :1]})
    with pytest.raises(UsageError, match=f"the module's {name} may have fractions") as refusal:
        export_policy(module, tmp_path / "out", observation_space=BOX, action_space=space)
    assert f"--head {name}=logits" in refusal.value.remedy


@pytest.mark.parametrize(
    ("make", "head", "words"),
    [
        (lambda x, y: {"motion": y}, None, "gives motion, from which no continuous action follows"),
        (lambda x, y: {"action": y, "c": y.to(torch.complex64)}, None, "c is complex64"),
        (lambda x, y: {"action": y, "state": (y, y)}, None, "gives dict"),
        (lambda x, y: (y, y), None, r"gives 0, 1 \(places in a tuple\)"),
        (lambda x, y: {"action": y}, "mean", "says what one tensor is"),
        (lambda x, y: y, {"y": "mean"}, "one tensor without a name"),
        (lambda x, y: {"action": y}, {"gone": "mean"}, "head names gone"),
        (lambda x, y: {"action": y, "mean": y[:, :1]}, None, "mean has shape"),
    ],
)
def test_what_no_contract_can_hold_is_refused_by_name(tmp_path: Path, make: Any, head: Any, words: str) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match=words):
        export_policy(Gives(make), tmp_path / "out", observation_space=BOX, action_space=TWO, head=head)


def test_nan_in_a_further_output_is_no_reason_to_refuse_a_policy(tmp_path: Path) -> None:
    """The action does not depend on it; in the action it is one."""
    module = Gives(lambda x, y: {"action": y, "ratio": x / torch.zeros_like(x)})
    result = export_policy(module, tmp_path / "out", observation_space=BOX, action_space=TWO)
    assert [spec.name for spec in result.contract.further] == ["ratio"]
    assert result.failed == {}


@pytest.mark.parametrize("compiled", [False, True], ids=["python", "torchscript"])
def test_a_warning_that_is_rarely_given_is_kept(compiled: bool, tmp_path: Path) -> None:
    """It depends on the observation, though it is the same for most of them; what depends on nothing is left out."""
    module: Any = Warns().eval()
    module = torch.jit.script(module) if compiled else module
    result = export_policy(module, tmp_path / "out", formats=["onnx"], observation_space=BOX, action_space=TWO)
    assert [spec.name for spec in result.contract.outputs] == ["action", "unsafe"]
    assert "output spread is left out: it is the same for every observation" in result.notes


class Warns(nn.Module):
    """An action, a warning about far observations, and a spread that never changes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.spread = nn.Linear(4, 2), nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"action": self.net(x), "unsafe": x.abs().amax(dim=1) > 100.0, "spread": self.spread * 2}


class Branches(nn.Module):
    """Warns by a branch, behind which nothing is computed from the observation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        unsafe = torch.zeros(1)
        if bool(x.abs().max() > 100.0):
            unsafe = torch.ones(1)
        return {"action": self.net(x), "unsafe": unsafe}


def test_a_warning_behind_a_branch_is_kept(tmp_path: Path) -> None:
    """What a branch chooses depends on what the branch read."""
    program: Any = torch.jit.script(Branches().eval())
    result = export_policy(program, tmp_path / "out", formats=["onnx"], observation_space=BOX, action_space=TWO)
    assert [spec.name for spec in result.contract.outputs] == ["action", "unsafe"]


class Clock(nn.Module):
    """An action, and a clock that only memory moves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 2)
        self.register_buffer("phase", torch.zeros(1, 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.phase = self.phase + 0.1
        return {"action": self.net(x) + self.phase, "clock": self.phase.clone()}


def test_an_output_that_depends_on_memory_alone_is_kept(tmp_path: Path) -> None:
    """It is the same for every observation, and another one at every step."""
    torch.jit.save(torch.jit.script(Clock().eval()), str(tmp_path / "clock.pt"))
    result = export_policy(
        tmp_path / "clock.pt", tmp_path / "out", formats=["onnx"], observation_space=BOX, action_space=TWO
    )
    assert "clock" in [spec.name for spec in result.contract.outputs]


def test_two_values_for_an_action_of_one_are_refused(tmp_path: Path) -> None:
    """A module that answers the first row alone seems to give one value to each of two rows."""
    module = Gives(lambda x, y: y[0])
    with pytest.raises(UsageError, match=r"action has shape \(2,\) for 1 observations, expected 1 values"):
        export_policy(module, tmp_path / "out", observation_space=BOX, action_space=spaces.Box(-1.0, 1.0, (1,)))
