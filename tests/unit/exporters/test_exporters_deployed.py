"""Policies that people deploy, as their authors published them: what is served agrees with what they ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from policyctl.errors import UsageError
from policyctl_exporters import export_policy
from policyctl_exporters.memory import episode
from policyctl_exporters.runtimes import runners

DEPLOYED = Path(__file__).resolve().parents[4] / "shared" / "policies-real"
pytestmark = pytest.mark.shared

SERVED: dict[str, tuple[dict[str, str] | None, dict[str, str]]] = {
    "asap_cr7": (None, {"action": "action"}),
    "godot_3DLander_onnx_model": ({"output": "action"}, {"action": "output"}),
    "godot_BallChase_BallChase": ({"output": "action"}, {"action": "output"}),
    "holo_wbt": (
        None,
        {"action": "actions"} | {name: name for name in ("joint_pos", "joint_vel", "ref_pos_xyz", "ref_quat_xyzw")},
    ),
    "lite3": (None, {"action": "actions"}),
    "mjpg_go1": (None, {"action": "continuous_actions"}),
    "mjpg_leap_reorient": (None, {"action": "continuous_actions"}),
    "mla_3dball_r18": (None, {"action": "deterministic_continuous_actions"}),
    "mla_basic_r18": (None, {"action": "deterministic_discrete_actions"}),
    "mla_sorter": (None, {"action": "deterministic_discrete_actions"}),
    "tron_policy": ({"mlp_output": "action"}, {"action": "mlp_output"}),
}
"""By file: what has to be said about its outputs, and which of its outputs each one of the contract is."""

TORCHSCRIPT = ("booster_T1", "rlsar_b2", "rlsar_himloco")
"""TorchScript files that answer any number of rows."""


SLOW_ONES, SLOW = ("asap_cr7", "mla_sorter"), pytest.mark.long
"""They take many seconds each."""


@pytest.fixture
def deployed() -> Path:
    """The folder of real policies, which is not part of the repository."""
    if not DEPLOYED.is_dir():
        pytest.skip("the policies that people deploy are not here")
    return DEPLOYED


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW) if name in SLOW_ONES else name for name in SERVED])
def test_a_deployed_policy_answers_as_in_its_own_runtime(deployed: Path, tmp_path: Path, name: str) -> None:
    """Fifty steps of its author's runtime, one by one and in one batch, in every way of serving it."""
    head, outputs = SERVED[name]
    result = export_policy(deployed / f"{name}.onnx", tmp_path / "out", head=head)
    assert result.failed == {}
    assert [spec.name for spec in result.contract.outputs] == list(outputs)
    with np.load(deployed / f"{name}.onnx.npz") as steps:
        rows = {s.name: steps[f"in.{s.name}"].reshape(-1, *s.shape) for s in result.contract.observations}
        right = {s.name: steps[f"out.{outputs[s.name]}"].reshape(-1, *s.shape) for s in result.contract.outputs}
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            for found in (run(rows), _one_by_one(run, rows)):
                for key, wanted in right.items():
                    _require_near(found[key], wanted, name)


def _require_near(found: Any, right: Any, name: str) -> None:
    """Hold answers against those of a file's own runtime, and print how far they are off (`pytest -rP`)."""
    difference, largest = (float(np.abs(values).max()) for values in (found - right, right))
    print(f"{name}: differs by {difference:.1e}, the largest answer is {largest:.1e}")
    assert difference <= 2e-5 * max(1.0, largest)


def _one_by_one(run: Any, rows: dict[str, Any]) -> dict[str, Any]:
    count = len(next(iter(rows.values())))
    parts = [run({name: array[at : at + 1] for name, array in rows.items()}) for at in range(count)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_a_deployed_policy_with_memory_answers_as_in_its_own_runtime(deployed: Path, tmp_path: Path) -> None:
    """Its action is drawn from scores of an LSTM: fifty steps, each from what the artifact itself remembered."""
    result = export_policy(deployed / "mla_hallway.onnx", tmp_path / "out")
    assert [(state.input, state.output) for state in result.contract.states] == [("recurrent_in", "recurrent_out")]
    with np.load(deployed / "mla_hallway.onnx.npz") as steps:
        rows = {s.name: steps[f"in.{s.name}"].reshape(-1, *s.shape) for s in result.contract.environment}
        right = steps["out.recurrent_out"].reshape(50, 1, 128)
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            _, answers = episode(run, result.contract, rows)
            _require_near(answers["recurrent_out"], right, "mla_hallway")


@pytest.mark.parametrize(("name", "output"), [("godot_BallChase_BallChase", "output"), ("tron_policy", "mlp_output")])
def test_a_deployed_policy_without_a_telling_name_asks_which_output_acts(
    deployed: Path, tmp_path: Path, name: str, output: str
) -> None:
    """Nothing is guessed, as Godot calls scores and actions alike; the remedy is what to type."""
    with pytest.raises(UsageError, match="no output is called 'action'") as refusal:
        export_policy(deployed / f"{name}.onnx", tmp_path / "out")
    assert f"--head {output}=action." in refusal.value.remedy
    assert f"--head {output}=logits." in refusal.value.remedy


@pytest.mark.parametrize(
    ("name", "rows_an_inference"),
    [*dict.fromkeys(TORCHSCRIPT, None).items(), pytest.param("rlsar_l4w4", 1, marks=SLOW)],
)
def test_a_deployed_torchscript_policy_answers_as_in_its_own_runtime(
    deployed: Path, tmp_path: Path, name: str, rows_an_inference: int | None
) -> None:
    """Fifty steps of torch.jit, in every way of serving it; one that has a batch of one in its code row by row."""
    with np.load(deployed / f"{name}.pt.npz") as steps:
        rows, right = steps["in.observation"][:, 0], steps["out.0"][:, 0]
    result = export_policy(
        deployed / f"{name}.pt",
        tmp_path / "out",
        observation_space=spaces.Box(-np.inf, np.inf, rows.shape[1:], np.float32),
        action_space=spaces.Box(-np.inf, np.inf, right.shape[1:], np.float32),
    )
    assert result.failed == {}
    assert len(result.formats) == 3
    assert result.contract.max_batch == rows_an_inference
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            found = _one_by_one(run, {"observation": rows})["action"]
            _require_near(found, right, name)


@pytest.mark.parametrize(
    ("name", "states"),
    [("go2_cts", {"history": (5, 45)}), ("unitree_g1", {"cell_state": (1, 64), "hidden_state": (1, 64)})],
)
def test_a_deployed_torchscript_policy_with_memory_answers_as_in_its_own_runtime(
    deployed: Path, tmp_path: Path, name: str, states: dict[str, tuple[int, ...]]
) -> None:
    """One keeps its history in an attribute, the other an LSTM's state in buffers; both answer any number of rows."""
    with np.load(deployed / f"{name}.pt.npz") as steps:
        rows, right = {"observation": steps["in.observation"][:, 0]}, steps["out.0"][:, 0]
    result = export_policy(
        deployed / f"{name}.pt",
        tmp_path / "out",
        observation_space=spaces.Box(-np.inf, np.inf, rows["observation"].shape[1:], np.float32),
        action_space=spaces.Box(-np.inf, np.inf, right.shape[1:], np.float32),
    )
    assert (result.failed, len(result.formats), result.contract.max_batch) == ({}, 3, None)
    shapes = {spec.name: spec.shape for spec in result.contract.observations}
    assert {state.input: shapes[state.input] for state in result.contract.states} == states
    assert {state.initial for state in result.contract.states} == {0.0}
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            _, answers = episode(run, result.contract, rows)
            _require_near(answers["action"], right, name)
