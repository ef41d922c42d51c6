"""Policies that are not Stable-Baselines3's: torch modules, TorchScript and ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from policyctl.domain.artifacts import SOURCE_FILES, SOURCES, Format
from policyctl.domain.contract import DistributionKind
from policyctl.errors import PolicyctlError, UnsupportedError, UsageError
from policyctl.services.cards.check import check_folder
from policyctl_exporters import export_policy, load_callable, load_reference
from policyctl_exporters.runtimes import open_runner

BOX = spaces.Box(-1.0, 1.0, (4,))
CPU_FORMATS = (Format.ONNX, Format.OPENVINO, Format.TORCHSCRIPT)
ROWS = np.random.default_rng(0).uniform(-1, 1, (9, 4)).astype(np.float32)


def network(outputs: int) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, outputs))


class Gaussian(nn.Module):
    """Gives a mean and one spread for all observations."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(2)
        self.log_std = nn.Parameter(torch.tensor([-1.0, 0.5]))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": self.net(x), "log_std": self.log_std}


class OnDict(nn.Module):
    """Takes a Dict observation with an image of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(3)

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        pixels = x["camera"].float().flatten(1) / 255
        found: torch.Tensor = self.net(pixels) + x["speed"]
        return found


def _answers(folder: Path, contract: Any, rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [open_runner(form, folder, contract)(rows) for form in CPU_FORMATS]


class Shortcut(nn.Module):
    """Adds a part of what it observed to what two layers make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.7 * x + 0.3 * self.net(x)


def test_a_shortcut_around_two_layers_is_served_by_every_backend(tmp_path: Path) -> None:
    """OpenVINO 2026.4 ends the process where it compiles such a policy for one row and one thread."""
    result = export_policy(
        Shortcut(), tmp_path / "out", observation_space=BOX, action_space=spaces.Box(-9.0, 9.0, (4,)), golden_rows=8
    )
    assert result.formats == CPU_FORMATS


def test_logits_become_the_actions_of_a_space_that_starts_elsewhere(tmp_path: Path) -> None:
    """A module's choice counts from the space's `start`."""
    module = network(3)
    space = spaces.Discrete(3, start=10)
    result = export_policy(module, tmp_path / "out", observation_space=BOX, action_space=space)
    with torch.no_grad():
        best = 10 + module(torch.from_numpy(ROWS)).argmax(dim=1).numpy()
    for found in _answers(tmp_path / "out", result.contract, {"observation": ROWS}):
        assert found["action"][:, 0].tolist() == best.tolist()
    assert (result.contract.action.low, result.contract.action.high) == (10.0, 12.0)
    assert result.contract.distribution.kind is DistributionKind.CATEGORICAL


def test_q_values_are_given_out_but_nothing_is_drawn_from_them(tmp_path: Path) -> None:
    """head="q_values" names the scores and leaves the policy deterministic."""
    result = export_policy(
        network(3),
        tmp_path / "out",
        observation_space=BOX,
        action_space=spaces.Discrete(3),
        head="q_values",
        formats=["onnx"],
    )
    assert [spec.name for spec in result.contract.outputs] == ["action", "q_values"]
    assert result.contract.distribution.kind is DistributionKind.NONE


@pytest.mark.parametrize("head", [None, "action", "mean"])
def test_a_continuous_action_is_clipped_to_its_bounds(head: str | None, tmp_path: Path) -> None:
    """The environment never gets what its space does not hold."""
    module = nn.Sequential(network(2), nn.Hardtanh(-9, 9))
    with torch.no_grad():
        module[0][2].weight.mul_(20)
    space = spaces.Box(-0.1, np.inf, (2,))
    result = export_policy(module, tmp_path / "out", observation_space=BOX, action_space=space, head=head)
    with torch.no_grad():
        raw = module(torch.from_numpy(ROWS)).numpy()
    assert (raw < -0.1).any()
    for found in _answers(tmp_path / "out", result.contract, {"observation": ROWS}):
        np.testing.assert_allclose(found["action"], np.maximum(raw, np.float32(-0.1)), atol=1e-5)


def test_a_dict_of_outputs_is_taken_by_name(tmp_path: Path) -> None:
    """A mean and a shared spread make a Gaussian, the spread expanded to the batch."""
    space = spaces.Box(-1.0, 1.0, (2,))
    result = export_policy(Gaussian(), tmp_path / "out", observation_space=BOX, action_space=space)
    assert [spec.name for spec in result.contract.outputs] == ["action", "mean", "log_std"]
    for found in _answers(tmp_path / "out", result.contract, {"observation": ROWS}):
        assert found["log_std"].shape == (9, 2)
        np.testing.assert_allclose(found["log_std"], np.tile([-1.0, 0.5], (9, 1)), atol=1e-7)
        np.testing.assert_allclose(found["action"], np.clip(found["mean"], -1, 1), atol=1e-6)


def test_a_dict_of_observations_is_given_by_key(tmp_path: Path) -> None:
    """Inputs are named by key and arrive raw, images as integers."""
    space = spaces.Dict({"camera": spaces.Box(0, 255, (1, 2, 2), np.uint8), "speed": spaces.Box(-1.0, 1.0, (1,))})
    result = export_policy(
        OnDict(), tmp_path / "out", formats=["onnx"], observation_space=space, action_space=spaces.Discrete(3)
    )
    assert [(s.name, s.dtype, s.shape) for s in result.contract.observations] == [
        ("camera", "uint8", (1, 2, 2)),
        ("speed", "float32", (1,)),
    ]


def test_several_binary_and_several_discrete_actions(tmp_path: Path) -> None:
    """Scores of both kinds are read component by component."""
    module = network(5)
    with torch.no_grad():
        scores = module(torch.from_numpy(ROWS)).numpy()
    many = spaces.MultiDiscrete([2, 3], start=[4, 7])
    first = export_policy(module, tmp_path / "a", observation_space=BOX, action_space=many)
    want = np.stack([4 + scores[:, :2].argmax(1), 7 + scores[:, 2:].argmax(1)], axis=1)
    for found in _answers(tmp_path / "a", first.contract, {"observation": ROWS}):
        assert (found["action"] == want).all()
    second = export_policy(module, tmp_path / "b", observation_space=BOX, action_space=spaces.MultiBinary(5))
    for found in _answers(tmp_path / "b", second.contract, {"observation": ROWS}):
        assert (found["action"] == (scores > 0)).all()


def test_torchscript_is_a_source_too(tmp_path: Path) -> None:
    """A TorchScript file is exported to all formats, its branches included."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[0] > 3:
                return self.net(x) * 2.0
            return self.net(x) * 2.0 + 0.0

    torch.jit.save(torch.jit.script(Branching()), str(tmp_path / "policy.pt"))
    result = export_policy(
        tmp_path / "policy.pt", tmp_path / "out", observation_space=BOX, action_space=spaces.Discrete(3)
    )
    assert result.formats == CPU_FORMATS
    assert "kind: torchscript" in (tmp_path / "out" / "model_card.yaml").read_text()
    assert check_folder(tmp_path / "out").problems == ()


class Scaled(nn.Module):
    """Statistics in float64 and weights in float32, as skrl's scaler has them in front of its policies."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((4,), 0.1, dtype=torch.float64))
        self.net = network(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.net(x - self.mean.float())
        return found


@pytest.mark.parametrize("compiled", [False, True])
def test_statistics_in_float64_leave_observations_in_the_precision_of_the_weights(
    compiled: bool, tmp_path: Path
) -> None:
    """The weights say in which precision a policy computes."""
    policy = torch.jit.script(Scaled()) if compiled else Scaled()
    result = export_policy(
        policy, tmp_path / "out", observation_space=BOX, action_space=spaces.Box(-9.0, 9.0, (2,)), formats=CPU_FORMATS
    )
    expected = Scaled()(torch.from_numpy(ROWS)).detach().numpy()
    for answer in _answers(tmp_path / "out", result.contract, {"observation": ROWS}):
        np.testing.assert_allclose(answer["action"], expected, atol=1e-6)


def test_weights_in_a_file_of_another_kind_are_refused_with_what_to_do(tmp_path: Path) -> None:
    """CleanRL's, RLlib's and Brax's files hold no program: the remedy says how to give one."""
    torch.save(network(2).state_dict(), tmp_path / "ppo.cleanrl_model")
    with pytest.raises(UsageError, match=r"a file of kind '\.cleanrl_model' is not read") as refusal:
        export_policy(tmp_path / "ppo.cleanrl_model", tmp_path / "out")
    assert "FILE.py:callable" in refusal.value.remedy


def test_each_kind_of_file_that_the_remedy_lists_is_read_and_no_other(tmp_path: Path) -> None:
    """The same list for the help of the command, for a path without a file, and for a file of another kind."""
    for what, ends in SOURCE_FILES.items():
        for end in ends:
            (tmp_path / f"policy{end}").write_bytes(b"")
            with pytest.raises(PolicyctlError) as refusal:
                export_policy(tmp_path / f"policy{end}", tmp_path / "out")
            assert "a file of kind" not in refusal.value.problem
        assert f"{what} ({', '.join(ends)})" in SOURCES
    (tmp_path / "policy.pkl").write_bytes(b"")
    for source in (tmp_path / "policy.pkl", 3):
        with pytest.raises(UsageError) as refusal:
            export_policy(source, tmp_path / "out")
        assert SOURCES in refusal.value.remedy


def test_weights_alone_are_refused_with_what_to_do(tmp_path: Path) -> None:
    """A state dict is no policy; the remedy says how to make one."""
    torch.save(network(2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UsageError, match=r"was written by torch\.save, not by") as refusal:
        export_policy(tmp_path / "weights.pt", tmp_path / "out", observation_space=BOX, action_space=spaces.Discrete(2))
    assert "FILE.py:callable" in refusal.value.remedy


def test_a_callable_by_name_is_imported_and_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`package.module:callable` works from the current folder, and a wrong name is a usage error."""
    (tmp_path / "my_walker.py").write_text("from torch import nn\ndef build():\n    return nn.Linear(4, 2)\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_callable("my_walker:build"), nn.Linear)
    export_policy(
        "my_walker:build",
        tmp_path / "out",
        observation_space=BOX,
        action_space=spaces.Box(-1.0, 1.0, (2,)),
        formats=["onnx"],
    )
    with pytest.raises(UsageError, match="my_walker:missing"):
        load_callable("my_walker:missing")


@pytest.mark.parametrize(
    ("outputs", "space", "head", "problem"),
    [
        (3, spaces.Discrete(4), None, "expected 4 values"),
        (3, spaces.Box(-1.0, 1.0, (2,)), None, "expected 2 values"),
        (3, spaces.Box(-1.0, 1.0, (3,)), "logits", "no continuous action"),
        (3, spaces.Discrete(3), "values", "not known"),
        (3, spaces.Text(3), None, "not supported"),
    ],
)
def test_a_module_that_does_not_fit_its_space_is_refused(
    outputs: int, space: Any, head: str | None, problem: str, tmp_path: Path
) -> None:
    """Shapes and heads are checked before anything is exported."""
    with pytest.raises((UsageError, UnsupportedError), match=problem):
        export_policy(network(outputs), tmp_path / "out", observation_space=BOX, action_space=space, head=head)


def test_a_module_without_spaces_is_refused(tmp_path: Path) -> None:
    """A network does not say what it observes."""
    with pytest.raises(UsageError, match="does not say") as refusal:
        export_policy(network(2), tmp_path / "out")
    assert "observation_space=" in refusal.value.remedy


def _onnx(module: nn.Module, path: Path, outputs: list[str]) -> Path:
    axes = {name: {0: "n"} for name in ("obs", *outputs)}
    torch.onnx.export(
        module,
        (torch.zeros(2, 4),),
        str(path),
        dynamo=False,
        input_names=["obs"],
        output_names=outputs,
        dynamic_axes=axes,
    )
    return path


def test_an_onnx_file_with_scores_gets_its_action(tmp_path: Path) -> None:
    """Scores under another name become `logits`, and the choice is appended."""
    module = network(3)
    source = _onnx(module, tmp_path / "policy.onnx", ["output.1"])
    result = export_policy(source, tmp_path / "out", head="logits")
    assert result.formats == (Format.ONNX, Format.OPENVINO)
    assert [spec.name for spec in result.contract.outputs] == ["action", "logits"]
    with torch.no_grad():
        best = module(torch.from_numpy(ROWS)).argmax(dim=1).numpy()
    for form in result.formats:
        found = open_runner(form, tmp_path / "out", result.contract)({"obs": ROWS})
        assert found["action"][:, 0].tolist() == best.tolist()
    answers = load_reference(source, head="logits")({"obs": ROWS})
    assert answers["action"][:, 0].tolist() == best.tolist()


def test_an_onnx_file_with_an_action_is_clipped_where_the_space_is_known(tmp_path: Path) -> None:
    """Spaces name the input and give the bounds that the file does not have."""
    module = network(2)
    source = _onnx(module, tmp_path / "policy.onnx", ["action"])
    space = spaces.Box(-0.05, 0.05, (2,))
    result = export_policy(source, tmp_path / "out", observation_space=BOX, action_space=space)
    with torch.no_grad():
        raw = module(torch.from_numpy(ROWS)).numpy()
    for form in result.formats:
        found = open_runner(form, tmp_path / "out", result.contract)({"observation": ROWS})
        np.testing.assert_allclose(found["action"], np.clip(raw, -0.05, 0.05), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "no output is called 'action'"),
        ({"head": "logits", "formats": ["torchscript"]}, "torchscript"),
        ({"head": "logits", "action_space": spaces.Discrete(5)}, "5 choices"),
        ({"head": "logits", "normalizer": "stats.pkl"}, "normalizer"),
    ],
)
def test_an_onnx_file_that_does_not_fit_is_refused(settings: dict[str, Any], problem: str, tmp_path: Path) -> None:
    """What the file lacks is asked for, and what cannot be added to it is refused."""
    source = _onnx(network(3), tmp_path / "policy.onnx", ["scores"])
    with pytest.raises((UsageError, UnsupportedError), match=problem):
        export_policy(source, tmp_path / "out", **settings)
