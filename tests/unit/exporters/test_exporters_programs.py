"""TorchScript files as others write them: tuples, rows without a batch, other devices, half precision."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policyctl.errors import UsageError
from policyctl_exporters import ExportResult, export_policy
from policyctl_exporters.runtimes import runners

ROWS = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
SPACES: dict[str, Any] = {
    "observation_space": spaces.Box(-np.inf, np.inf, (4,), np.float32),
    "action_space": spaces.Box(-np.inf, np.inf, (2,), np.float32),
}


def saved(module: nn.Module, folder: Path, name: str = "policy.pt") -> Path:
    """The module as a TorchScript file."""
    torch.jit.save(torch.jit.script(module.eval()), folder / name)
    return folder / name


def answers(result: ExportResult) -> list[dict[str, Any]]:
    """What every way of serving every artifact answers to each row alone."""
    ways = [run for form in result.formats for run in runners(form, result.output, result.contract).values()]
    assert len(ways) == 4
    parts = [[run({"observation": ROWS[at : at + 1]}) for at in range(len(ROWS))] for run in ways]
    return [{name: np.concatenate([row[name] for row in rows]) for name in rows[0]} for rows in parts]


class Estimator(nn.Module):
    """Gives its action with an estimate, and a spread that is the same for every observation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act, self.estimate = nn.Linear(4, 2), nn.Linear(4, 3)
        self.spread = nn.Parameter(torch.ones(2))

    def forward(self, observation: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Shape (n, 4) to (n, 2), and (n, 3) with (2,)."""
        return self.act(observation), (self.estimate(observation), self.spread)


def test_a_tuple_is_named_by_its_places(tmp_path: Path) -> None:
    """Each tensor keeps its place as its name; what is the same for every observation is left out in words."""
    policy = Estimator()
    with pytest.raises(UsageError, match=r"gives 0, 1 \(places in a tuple\)") as refusal:
        export_policy(saved(policy, tmp_path), tmp_path / "out", **SPACES)
    assert "--head NAME=KIND" in refusal.value.remedy
    result = export_policy(tmp_path / "policy.pt", tmp_path / "out", head={"0": "action"}, **SPACES)
    assert [(spec.name, spec.shape) for spec in result.contract.outputs] == [("action", (2,)), ("out_1", (3,))]
    assert "output 2 is left out: it is the same for every observation" in result.notes
    assert result.contract.max_batch is None
    with torch.no_grad():
        action, (estimate, _) = policy(torch.tensor(ROWS))
    for found in answers(result):
        np.testing.assert_allclose(found["action"], action, atol=2e-5)
        np.testing.assert_allclose(found["out_1"], estimate, atol=2e-5)


def test_a_tuple_of_a_mean_and_its_spread_is_a_law(tmp_path: Path) -> None:
    """The spread is kept where somebody says that it is one, though it never changes."""
    head = {"0": "mean", "2": "log_std"}
    result = export_policy(saved(Estimator(), tmp_path), tmp_path / "out", head=head, **SPACES)
    assert [spec.name for spec in result.contract.outputs] == ["action", "mean", "log_std", "out_1"]
    for found in answers(result):
        np.testing.assert_array_equal(found["log_std"], np.ones((9, 2)))


class Flat(nn.Module):
    """A robot's policy: one observation, and an action without a batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act = nn.Linear(4, 2)

    def forward(self, observation: Tensor) -> Tensor:
        """Shape (1, 4) to (2,)."""
        return self.act(observation.view(4))


def test_an_action_without_a_batch_is_served_row_by_row(tmp_path: Path) -> None:
    """It was written for one observation at a time, and the contract says so."""
    policy = Flat()
    result = export_policy(saved(policy, tmp_path, "body_latest.jit"), tmp_path / "out", **SPACES)
    assert result.contract.max_batch == 1
    with torch.no_grad():
        right = torch.stack([policy(torch.tensor(row)) for row in ROWS])
    for found in answers(result):
        np.testing.assert_allclose(found["action"], right, atol=2e-5)


class Timed(nn.Module):
    """Makes a tensor when it is called."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act = nn.Linear(4, 2)

    def forward(self, observation: Tensor) -> Tensor:
        """Shape (n, 4) to (n, 2)."""
        ramp = torch.arange(4, dtype=torch.float32, device="cpu")
        return self.act(observation.to("cpu") + ramp)


def test_a_program_of_a_graphics_card_is_served_without_one(tmp_path: Path) -> None:
    """Tensors that it makes there are made on the CPU, where its weights are read to as well, with a word."""
    policy, source = Timed(), tmp_path / "policy.pt"
    with zipfile.ZipFile(saved(policy, tmp_path, "cpu.pt")) as archive, zipfile.ZipFile(source, "w") as other:
        for entry in archive.infolist():
            content, device = archive.read(entry), b'torch.device("cpu")'
            other.writestr(entry, content.replace(device, device.replace(b"cpu", b"cuda:0")))
    result = export_policy(source, tmp_path / "out", **SPACES)
    assert "tensors that it makes on cuda:0 are made on the CPU" in result.notes
    with torch.no_grad():
        right = policy(torch.tensor(ROWS))
    for found in answers(result):
        np.testing.assert_allclose(found["action"], right, atol=2e-5)


class Half(nn.Module):
    """Computes in half precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act = nn.Sequential(nn.Linear(4, 32), nn.ELU(), nn.Linear(32, 32), nn.ELU(), nn.Linear(32, 2)).half()

    def forward(self, observation: Tensor) -> Tensor:
        """Shape (n, 4) to (n, 2)."""
        return self.act(observation.half()).float()


def test_a_policy_in_half_precision_is_held_to_its_own_digits(tmp_path: Path) -> None:
    """Every runtime rounds in its own places: by a last digit of the weights, which are few in half precision."""
    policy = Half()
    result = export_policy(saved(policy, tmp_path), tmp_path / "out", **SPACES)
    assert result.failed == {}
    with torch.no_grad():
        right = policy(torch.tensor(ROWS)).numpy()
    for found in answers(result):
        np.testing.assert_allclose(found["action"], right, atol=2e-3 * float(np.abs(right).max()))


class Listed(nn.Module):
    """Takes its observations in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Linear(4, 2)

    def forward(self, observations: list[Tensor]) -> Tensor:
        """Two of shape (n, 2) to (n, 2)."""
        return self.act(torch.cat(observations, dim=1))


def test_a_program_that_takes_a_list_is_refused_with_what_to_write(tmp_path: Path) -> None:
    """Places are no names: nothing says which observation comes first."""
    two = spaces.Dict({name: spaces.Box(-np.inf, np.inf, (2,), np.float32) for name in "ab"})
    with pytest.raises(UsageError, match=r"takes List\[Tensor\], whose tensors have no names") as refusal:
        export_policy(saved(Listed(), tmp_path), tmp_path / "out", **{**SPACES, "observation_space": two})
    assert "one argument for each observation" in refusal.value.remedy
