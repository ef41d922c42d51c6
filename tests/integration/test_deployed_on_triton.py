"""Policies that people deploy, on the real Triton: each answers fifty steps as in its author's runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded import PATIENCE_S, Embedded, embedded
from gymnasium import spaces
from serving_fixtures import needs_native

from policyctl.client import PolicyClient
from policyctl_exporters import export_policy

DEPLOYED = Path(__file__).resolve().parents[3] / "shared" / "policies-real"
pytestmark = [pytest.mark.server, pytest.mark.shared, pytest.mark.long, needs_native]

ACTS = {
    "asap_cr7.onnx": "action",
    "booster_T1.pt": "0",
    "go2_cts.pt": "0",
    "godot_3DLander_onnx_model.onnx": "output",
    "godot_BallChase_BallChase.onnx": "output",
    "holo_wbt.onnx": "actions",
    "lite3.onnx": "actions",
    "mjpg_go1.onnx": "continuous_actions",
    "mjpg_leap_reorient.onnx": "continuous_actions",
    "mla_3dball_r18.onnx": "deterministic_continuous_actions",
    "mla_basic_r18.onnx": "deterministic_discrete_actions",
    "mla_hallway.onnx": "recurrent_out",
    "mla_sorter.onnx": "deterministic_discrete_actions",
    "rlsar_b2.pt": "0",
    "rlsar_himloco.pt": "0",
    "rlsar_l4w4.pt": "0",
    "tron_policy.onnx": "mlp_output",
    "unitree_g1.pt": "0",
}
"""By file, which of its outputs acts. The action of `mla_hallway` is drawn, so its memory is compared."""

UNTELLING = ("mlp_output", "output")
"""Names of outputs that do not say that they are the action."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A server without a model."""
    if not DEPLOYED.is_dir():
        pytest.skip("the policies that people deploy are not here")
    with embedded(tmp_path_factory.mktemp("deployed")) as running:
        running.start()
        yield running


def exported(file: str, form: str, steps: Mapping[str, Any], folder: Path) -> Any:
    """In the format of the native backend, and in one other."""
    options: dict[str, Any] = {}
    if file.endswith(".pt"):
        sizes = {name: steps[name].shape[2:] for name in ("in.observation", "out.0")}
        space = {name: spaces.Box(-np.inf, np.inf, size, np.float32) for name, size in sizes.items()}
        options = {"observation_space": space["in.observation"], "action_space": space["out.0"]}
    elif ACTS[file] in UNTELLING:
        options = {"head": {ACTS[file]: "action"}}
    return export_policy(DEPLOYED / file, folder, formats=["openvino", form], golden_rows=16, **options)


@pytest.mark.parametrize("file", ACTS)
def test_a_deployed_policy_answers_through_triton_as_in_its_own_runtime(
    server: Embedded, file: str, tmp_path: Path
) -> None:
    """By the native OpenVINO backend and by one other, memory carried from step to step."""
    other = "torchscript" if file.endswith(".pt") else "onnx"
    with np.load(DEPLOYED / f"{file}.npz") as arrays:
        steps = dict(arrays)
    result = exported(file, other, steps, tmp_path / "exported")
    model, contract, right = Path(file).stem.lower(), result.contract, steps[f"out.{ACTS[file]}"]
    seen = {spec.name: steps[f"in.{spec.name}"].reshape(-1, *spec.shape) for spec in contract.environment}
    further = [ACTS[file]] if ACTS[file] in [spec.name for spec in contract.further] else []
    server.run("publish", str(result.output), "--model", model, "--release", "1.0.0")
    for form in ("openvino", other):
        alias = f"by_{form}"
        server.run("promote", model, "1.0.0", "--format", form, "--alias", alias)
        with PolicyClient(model, alias=alias, url=server.endpoint["grpc"]) as client, client.episode() as episode:
            for step, wanted in enumerate(right):
                looked = {name: rows[step] for name, rows in seen.items()}
                action = episode.act(looked, outputs=further, deadline_s=PATIENCE_S)
                found = np.asarray(action.outputs[further[0]] if further else action.value)
                near = 2e-5 * max(1.0, float(np.abs(right).max()))
                np.testing.assert_allclose(found.ravel(), wanted.ravel(), rtol=0, atol=near, err_msg=f"{form} {step}")
        server.run("unserve", model, "--alias", alias)
