"""Graphs that torch's exporters need help with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policyctl.errors import UnsupportedError
from policyctl_exporters import export_policy
from policyctl_exporters.runtimes import open_runner

WINDOW = spaces.Box(-1.0, 1.0, (5, 8), np.float32)


class Transformer(nn.Module):
    """An encoder over a window of observations."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(x).mean(1))


class Determinant(nn.Module):
    """Has an operator that ONNX lacks."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x[:, :, :5]).real[:, :3]


@pytest.fixture(params=[True, False], ids=["fast", "plain"])
def fast_path(request: pytest.FixtureRequest) -> Any:
    """The fast path of attention, on or off for the whole program."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(request.param)
    yield request.param
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.case
def test_a_transformer_is_exported_to_every_format(fast_path: bool, tmp_path: Path) -> None:
    """Its fast path is off while torch writes, and afterwards as it was."""
    result = export_policy(Transformer(), tmp_path / "out", observation_space=WINDOW, action_space=spaces.Discrete(3))
    assert len(result.formats) == 3
    assert torch.backends.mha.get_fastpath_enabled() is fast_path


def test_an_export_that_fails_leaves_the_fast_path_as_it_was(fast_path: bool, tmp_path: Path) -> None:
    """The setting belongs to the program, not to the export."""
    with pytest.raises(UnsupportedError, match="cannot be written as ONNX"):
        export_policy(
            Determinant(),
            tmp_path / "out",
            observation_space=WINDOW,
            action_space=spaces.Box(-9, 9, (3,)),
            formats=["onnx"],
        )
    assert torch.backends.mha.get_fastpath_enabled() is fast_path


@pytest.mark.case
def test_a_module_that_holds_torchscript_is_exported(
    case: Callable[[str], Path], tmp_path: Path, monkeypatch: Any
) -> None:
    """A program that was loaded from a file, inside a module of one's own."""
    folder = case("crash_wrapped_torchscript")
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    linear = nn.Linear(3, 2)
    torch.jit.script(linear).save("net.pt")

    class Wrap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.jit.load("net.pt")

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    box = spaces.Box(-1.0, 1.0, (3,), np.float32)
    result = export_policy(Wrap(), tmp_path / "out", observation_space=box, action_space=spaces.Box(-9, 9, (2,)))
    rows = np.array([[0.1, -0.5, 0.9]], np.float32)
    assert len(result.formats) == 3
    for form in result.formats:
        answer = open_runner(form, result.output, result.contract)({"observation": rows})["action"]
        np.testing.assert_allclose(answer, linear(torch.from_numpy(rows)).detach().numpy(), atol=1e-5)
