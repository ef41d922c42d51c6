"""Weights that half precision only stores are held to the tolerance of the float32 computation that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_graphs import WEIGHTS, node, save

from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.tensor import TensorSpec
from policyctl_exporters.eager import EagerGraph, graph_of
from policyctl_exporters.onnx_source import open_onnx
from policyctl_exporters.source import Options


class Stored(torch.nn.Module):
    """A layer whose weights are stored in half precision, and that computes in float32 or in half precision."""

    def __init__(self, dtype: torch.dtype, computes: torch.dtype) -> None:
        super().__init__()
        numbers = torch.linspace(-1.0, 1.0, 8).reshape(4, 2).half().to(dtype)
        self.weight, self.computes = torch.nn.Parameter(numbers), computes

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """A product."""
        return (obs.to(self.computes) @ self.weight.t().t().to(self.computes)).float()


@pytest.mark.parametrize("scripted", [False, True])
def test_half_precision_that_only_stores_weights_widens_no_tolerance_of_a_module(scripted: bool) -> None:
    """A module that computes in float32 moves as one with float32 weights; one that computes in halves moves more."""
    contract = Contract(
        observations=(TensorSpec("obs", "float32", (4,)),),
        outputs=(TensorSpec("action", "float32", (2,)),),
        action_kind=ActionKind.CONTINUOUS,
    )
    rows = {"obs": np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)}
    moves = {}
    for dtype, computes in (
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.float16, torch.float16),
    ):
        module: Any = Stored(dtype, computes)
        before = module.weight.detach().clone()
        graph = EagerGraph(torch.jit.script(module) if scripted else module, contract)
        for _ in range(3):
            moves[dtype, computes] = graph.sensitivity(rows, seed=0)
        assert module.weight.dtype == dtype
        assert torch.equal(module.weight, before)
    whole, stored, half = moves.values()
    assert stored == pytest.approx(whole, rel=0.5)
    assert half > 100 * whole


@pytest.mark.parametrize("way", ["initializer", "constant", "turned"])
def test_half_precision_that_only_stores_weights_widens_no_tolerance_of_an_onnx_file(tmp_path: Path, way: str) -> None:
    """Weights that are cast to float32 move by its last digit; those of a half product by their own."""
    half = onnx.numpy_helper.from_array(WEIGHTS.astype(np.float16), "half")
    weights = {"half": WEIGHTS.astype(np.float16), "turned": WEIGHTS.T.astype(np.float16)}
    cast = node("Cast", ["half"], ["whole"], to=onnx.TensorProto.FLOAT)
    product = node("MatMul", ["obs", "whole"], ["action"])
    first = {
        "constant": [node("Constant", [], ["half"], value=half)],
        "turned": [node("Transpose", ["turned"], ["half"])],
    }
    kept = {"initializer": ["half"], "constant": [], "turned": ["turned"]}[way]
    rows = {"obs": np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)}

    def moved(nodes: Any) -> float:
        given = {name: weights[name] for name in kept}
        source = open_onnx(
            save(tmp_path, [*first.get(way, []), *nodes], {"obs": ["n", 4]}, {"action": ["n", 2]}, weights=given),
            Options(),
        )
        return graph_of(source).sensitivity(rows, seed=0)

    assert 0 < moved([cast, product]) < 2e-6
    computed = [
        node("Cast", ["obs"], ["obs_half"], to=onnx.TensorProto.FLOAT16),
        node("MatMul", ["obs_half", "half"], ["action_half"]),
        node("Cast", ["action_half"], ["action"], to=onnx.TensorProto.FLOAT),
    ]
    assert moved(computed) > 1e-4
