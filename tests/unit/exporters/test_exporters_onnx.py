"""ONNX files as others write them: what they compute is served whole, by rows and in batches, or refused in words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gymnasium import spaces
from onnx import helper
from onnx_graphs import LINEAR, WEIGHTS, model, node, port, save

from policyctl.domain.contract import ActionKind
from policyctl.domain.golden import Golden
from policyctl.errors import PolicyctlError, UnsupportedError, UsageError
from policyctl.services.cards.check import check_folder
from policyctl_exporters import ExportResult, export_policy, load_reference
from policyctl_exporters.runtimes import runners

ROWS = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)


def answers(result: ExportResult, rows: dict[str, Any]) -> list[dict[str, Any]]:
    """What every way of serving every artifact answers."""
    ways = [run for form in result.formats for run in runners(form, result.output, result.contract).values()]
    assert len(ways) == 3
    return [run(rows) for run in ways]


@pytest.mark.case
def test_every_output_of_a_file_is_kept_under_its_name(case: Callable[[str], Path], tmp_path: Path) -> None:
    """A motion that the policy gives with its action is in contract, parity, golden set and every artifact."""
    result = export_policy(case("onnx_outputs_dropped") / "tracker.onnx", tmp_path / "out")
    assert [spec.name for spec in result.contract.outputs] == ["action", "joint_pos"]
    assert [spec.name for spec in result.contract.further] == ["joint_pos"]
    assert all(set(each.max_abs) == {"action", "joint_pos"} for each in result.parity)
    golden = Golden.from_bytes((tmp_path / "out" / "golden.npz").read_bytes(), result.contract)
    assert set(golden.outputs) == {"action", "joint_pos"}
    time_step = np.linspace(0, 3, 9, dtype=np.float32)[:, None]
    for found in answers(result, {"obs": ROWS, "time_step": time_step}):
        np.testing.assert_allclose(found["joint_pos"], np.sin(time_step), atol=1e-6)
        np.testing.assert_allclose(found["action"], ROWS @ np.ones((4, 2)), atol=1e-5)


@pytest.mark.case
@pytest.mark.parametrize(("file", "name"), [("batch1", "obs"), ("vector", "obs"), ("godot", "obs")])
def test_a_file_for_one_row_is_served_in_batches_where_that_is_right(
    case: Callable[[str], Path], tmp_path: Path, file: str, name: str
) -> None:
    """What robots have, [1, n] and [n]: rows of a batch get the answers that they get alone."""
    head = {"output": "action"} if file == "godot" else None
    result = export_policy(case("onnx_fixed_batch") / f"{file}.onnx", tmp_path / "out", head=head)
    assert [spec.name for spec in result.contract.observations] == [name]
    assert result.contract.max_batch is None
    for found in answers(result, {name: ROWS}):
        np.testing.assert_allclose(found["action"], ROWS @ np.ones((4, 2)), atol=1e-5)


TO_ONE_ROW = [node("Reshape", ["obs", "one"], ["row"]), node("MatMul", ["row", "w"], ["action"])]
CENTRED = [node("ReduceMean", ["obs"], ["m"], axes=[0]), node("Sub", ["obs", "m"], ["c"])]
CENTRED += [node("MatMul", ["c", "w"], ["a"]), node("Add", ["a", "a"], ["action"])]
NORMED = [node("ReduceL2", ["obs"], ["long"], keepdims=0), node("Max", ["long", "most"], ["d"])]
NORMED += [node("Div", ["obs", "d"], ["c"]), node("MatMul", ["c", "w"], ["action"])]
ONE_ROW_ONLY = {
    "an extreme row that shortens the others": (NORMED, {"obs": ["n", 4]}, {"action": ["n", 2]}),
    "a shape inside": (TO_ONE_ROW, {"obs": [1, 4]}, {"action": [1, 2]}),
    "a shape inside, no batch": (TO_ONE_ROW, {"obs": [4]}, {"action": [1, 2]}),
    "rows that see each other": (CENTRED, {"obs": ["n", 4]}, {"action": ["n", 2]}),
}


@pytest.mark.parametrize("name", ONE_ROW_ONLY)
def test_a_file_that_answers_otherwise_in_a_batch_is_served_row_by_row(tmp_path: Path, name: str) -> None:
    """The contract says so, every artifact takes one row, and the export says why."""
    source = save(tmp_path, *ONE_ROW_ONLY[name], weights={"one": np.array([1, 4]), "most": np.float32(2000)})
    result = export_policy(source, tmp_path / "out")
    assert result.contract.max_batch == 1
    (why,) = (note for note in result.notes if "one row at a time" in note)
    assert "ONNXRuntimeError" not in why
    assert "onnxruntime_src" not in why
    assert "max_batch: 1" in (tmp_path / "out" / "model_card.yaml").read_text()
    assert check_folder(tmp_path / "out").problems == ()
    right = load_reference(source)({"obs": ROWS})["action"]
    for at in range(3):
        for found in answers(result, {"obs": ROWS[at : at + 1]}):
            np.testing.assert_allclose(found["action"], right[at : at + 1], atol=1e-5)


def test_a_batch_that_is_fixed_at_many_is_served_dynamic_or_refused(tmp_path: Path) -> None:
    """A file for exactly five rows cannot answer one; where it is right for any number, it is served."""
    five = save(tmp_path, [LINEAR], {"obs": [5, 4]}, {"action": [5, 2]})
    for found in answers(export_policy(five, tmp_path / "out"), {"obs": ROWS}):
        np.testing.assert_allclose(found["action"], ROWS @ WEIGHTS, atol=1e-5)
    inside = [node("Reshape", ["obs", "five"], ["row"]), node("MatMul", ["row", "w"], ["action"])]
    only = save(tmp_path, inside, {"obs": [5, 4]}, {"action": [5, 2]}, weights={"five": np.array([5, 4])})
    with pytest.raises(UnsupportedError, match="takes 5 rows at once"):
        export_policy(only, tmp_path / "other")


@pytest.mark.case
def test_a_file_that_fails_at_the_batch_of_a_server_is_refused_in_words(
    case: Callable[[str], Path], tmp_path: Path
) -> None:
    """A number of rows that was baked in somewhere is an error that says what was asked and what to do."""
    with pytest.raises(UsageError, match=r"static_inside.onnx itself fails on obs float32\[1, 4\]") as refusal:
        export_policy(case("crash_other_batch") / "static_inside.onnx", tmp_path / "out", head="action")
    assert "dynamic batch" in refusal.value.remedy
    assert not (tmp_path / "out").exists()


@pytest.mark.case
def test_weights_in_another_file_are_read_from_the_folder_of_the_model(
    case: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the command runs; and the artifact holds them, so it needs no other file."""
    folder = case("onnx_external_data") / "exported"
    monkeypatch.chdir(tmp_path)
    rows = np.ones((3, 64), np.float32)
    for source in (folder / "policy.onnx", Path("onnx_external_data/exported/policy.onnx")):
        for found in answers(export_policy(source, tmp_path / "out", force=True), {"obs": rows}):
            np.testing.assert_allclose(found["action"], np.full((3, 4), 64.0))
    monkeypatch.chdir(folder)
    export_policy("policy.onnx", tmp_path / "out", force=True, formats=["onnx"])


@pytest.fixture
def outside(tmp_path: Path) -> Callable[..., Path]:
    """A model in a folder of its own, with weights in another file: where, and which part."""
    folder = tmp_path / "model"
    folder.mkdir()
    content = WEIGHTS.tobytes()
    (tmp_path / "secret").write_bytes(content)
    (folder / "plain").write_bytes(content)
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "fifo")

    def write(location: str, **part: int) -> Path:
        made = model([LINEAR], {"obs": ["n", 4]}, {"action": ["n", 2]})
        tensor = made.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": location, **part}.items():
            tensor.external_data.add(key=key, value=str(value))
        path = folder / "policy.onnx"
        path.write_bytes(made.SerializeToString())
        return path

    return write


@pytest.mark.parametrize("location", ["../secret", "link", "fifo", "gone", "."])
def test_weights_are_read_from_nowhere_else(outside: Callable[..., Path], tmp_path: Path, location: str) -> None:
    """No path, link, device or folder leads a model to a file that does not lie next to it."""
    with pytest.raises(UsageError, match="weights in other files"):
        export_policy(outside(location), tmp_path / "out")


def test_an_absolute_path_of_weights_is_refused(outside: Callable[..., Path], tmp_path: Path) -> None:
    """Also where it is the right file."""
    with pytest.raises(UsageError, match="weights in other files"):
        export_policy(outside(str(tmp_path / "model" / "plain")), tmp_path / "out")


@pytest.mark.parametrize("part", [{"length": 10**13}, {"offset": 10**13}, {"offset": -1}, {"length": 8}])
def test_weights_beyond_their_file_are_refused_unread(
    outside: Callable[..., Path], tmp_path: Path, part: dict[str, int]
) -> None:
    """What a file says of its size is never allocated."""
    with pytest.raises(PolicyctlError, match=r"weights|cannot load"):
        export_policy(outside("plain", **part), tmp_path / "out")


CHOICE = node(
    "If",
    ["stop"],
    ["action"],
    then_branch=helper.make_graph([node("MatMul", ["obs", "w"], ["y"])], "yes", [], [port("y", ["n", 2])]),
    else_branch=helper.make_graph([node("MatMul", ["half", "w"], ["z"])], "no", [], [port("z", ["n", 2])]),
)


def test_a_branch_inside_a_graph_is_kept(tmp_path: Path) -> None:
    """`If` with graphs that use tensors around them, some of which have names of the contract."""
    nodes = [
        node("ReduceMax", ["obs"], ["action_"], keepdims=0),
        node("Less", ["action_", "limit"], ["stop"]),
        node("Mul", ["obs", "limit"], ["half"]),
        CHOICE,
    ]
    source = save(tmp_path, nodes, {"obs": [1, 4]}, {"action": [1, 2]}, weights={"limit": np.float32(0.5)})
    result = export_policy(source, tmp_path / "out", observation_space=spaces.Box(-1, 1, (4,)))
    calm, wild = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    for row, right in ((calm, calm @ WEIGHTS), (wild, 0.5 * wild @ WEIGHTS)):
        for found in answers(result, {"observation": row}):
            np.testing.assert_allclose(found["action"], right, atol=1e-6)


def test_tensors_inside_that_have_names_of_the_contract_give_way(tmp_path: Path) -> None:
    """A graph may call anything `action`, `logits` or `observation`: only its inputs and outputs count."""
    nodes = [
        node("Mul", ["input.1", "two"], ["observation"]),
        node("MatMul", ["observation", "w"], ["action"]),
        node("Tanh", ["action"], ["actions"]),
        node("Neg", ["actions"], ["input_1"]),
    ]
    outputs = {"actions": ["n", 2], "input_1": ["n", 2]}
    source = save(tmp_path, nodes, {"input.1": ["n", 4]}, outputs, weights={"two": np.float32(2)})
    result = export_policy(source, tmp_path / "out", observation_space=spaces.Box(-1, 1, (4,)))
    assert [spec.name for spec in result.contract.outputs] == ["action", "input_1"]
    for found in answers(result, {"observation": ROWS}):
        np.testing.assert_allclose(found["action"], np.tanh(2 * ROWS @ WEIGHTS), atol=1e-6)
        np.testing.assert_allclose(found["input_1"], -np.tanh(2 * ROWS @ WEIGHTS), atol=1e-6)
    plain = export_policy(source, tmp_path / "plain", formats=["onnx"])
    assert [spec.name for spec in (*plain.contract.observations, *plain.contract.outputs)] == [
        "input_1",
        "action",
        "out_input_1",
    ]


def test_the_file_s_own_type_counts_where_the_space_has_a_wider_one(tmp_path: Path) -> None:
    """Environments say float64 where policies take float32; an action is cast to what the environment takes."""
    nodes = [node("MatMul", ["obs", "w"], ["a"]), node("Cast", ["a"], ["action"], to=onnx.TensorProto.DOUBLE)]
    source = save(tmp_path, nodes, {"obs": ["n", 4]}, [port("action", ["n", 2], "float64")])
    result = export_policy(
        source,
        tmp_path / "out",
        observation_space=spaces.Box(-2.0, 2.0, (4,), np.float64),
        action_space=spaces.Box(-0.5, 0.5, (2,)),
    )
    (observation,) = result.contract.observations
    assert (observation.dtype, observation.low, result.contract.action.dtype) == ("float32", -2.0, "float32")
    for found in answers(result, {"observation": ROWS}):
        np.testing.assert_allclose(found["action"], np.clip(ROWS @ WEIGHTS, -0.5, 0.5), atol=1e-6)


def test_an_open_dimension_is_closed_by_the_space_or_asked_for(tmp_path: Path) -> None:
    """Some exporters leave every dimension open; only the space knows then what a row is."""
    source = save(tmp_path, [LINEAR], {"obs": ["n", "features"]}, {"action": ["n", 2]})
    with pytest.raises(UsageError, match="open dimension"):
        export_policy(source, tmp_path / "out")
    result = export_policy(source, tmp_path / "out", observation_space=spaces.Box(-1, 1, (4,)))
    for found in answers(result, {"observation": ROWS}):
        np.testing.assert_allclose(found["action"], ROWS @ WEIGHTS, atol=1e-5)


def test_a_spread_that_is_the_same_for_all_observations_is_given_with_each(tmp_path: Path) -> None:
    """A constant `log_std` belongs to the action and gets a batch; other constants are left out by name."""
    nodes = [LINEAR, node("Identity", ["action"], ["mean"]), node("Identity", ["spread"], ["log_std"])]
    outputs = {"action": ["n", 2], "mean": ["n", 2], "log_std": [2], "version": [1]}
    nodes.append(node("Identity", ["three"], ["version"]))
    weights = {"spread": np.array([-1.0, 0.5], np.float32), "three": np.array([3.0], np.float32)}
    result = export_policy(save(tmp_path, nodes, {"obs": ["n", 4]}, outputs, weights=weights), tmp_path / "out")
    assert [spec.name for spec in result.contract.outputs] == ["action", "mean", "log_std"]
    assert any("version is left out" in note for note in result.notes)
    for found in answers(result, {"obs": ROWS}):
        np.testing.assert_allclose(found["log_std"], np.tile(weights["spread"], (9, 1)))


def test_what_has_no_dimension_but_the_batch_gets_one(tmp_path: Path) -> None:
    """A value of shape [n] has shape (1,) in the contract, and a gain of shape [n] as an input likewise."""
    nodes = [
        node("Unsqueeze", ["gain", "last"], ["column"]),
        node("Mul", ["obs", "column"], ["x"]),
        node("MatMul", ["x", "w"], ["action"]),
        node("ReduceSum", ["x", "last"], ["value"], keepdims=0),
    ]
    ports = {"obs": ["n", 4], "gain": ["n"]}, {"action": ["n", 2], "value": ["n"]}
    result = export_policy(save(tmp_path, nodes, *ports, weights={"last": np.array([1])}), tmp_path / "out")
    gain = np.arange(9, dtype=np.float32)[:, None]
    for found in answers(result, {"obs": ROWS, "gain": gain}):
        np.testing.assert_allclose(found["action"], (gain * ROWS) @ WEIGHTS, atol=1e-4)
        np.testing.assert_allclose(found["value"], (gain * ROWS).sum(axis=1, keepdims=True), atol=1e-4)


def test_integers_and_truth_values_are_discrete_actions(tmp_path: Path) -> None:
    """Without a space the type says what the action is."""
    kinds = {"int64": ActionKind.MULTI_DISCRETE, "bool": ActionKind.MULTI_BINARY}
    for dtype, kind in kinds.items():
        cast = node("Cast", ["a"], ["action"], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        nodes = [node("MatMul", ["obs", "w"], ["y"]), node("Relu", ["y"], ["a"]), cast]
        source = save(tmp_path, nodes, {"obs": ["n", 4]}, [port("action", ["n", 2], dtype)])
        result = export_policy(source, tmp_path / dtype, formats=["onnx"])
        assert (result.contract.action_kind, result.contract.action.dtype) == (kind, "int64")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "cannot load"), (b"no model at all", "not a valid ONNX model"), (b"\x08\x08", "cannot load")],
)
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, content: bytes, words: str) -> None:
    """Whatever protobuf or ONNX Runtime raise."""
    (tmp_path / "policy.onnx").write_bytes(content)
    with pytest.raises(PolicyctlError, match=words):
        export_policy(tmp_path / "policy.onnx", tmp_path / "out")


def test_an_operator_that_nobody_else_has_is_named(tmp_path: Path) -> None:
    """A custom operator needs a library that no server loads."""
    mine = node("Frobnicate", ["obs"], ["action"], domain="my.operators")
    source = save(tmp_path, [mine], {"obs": ["n", 4]}, {"action": ["n", 4]}, domains={"my.operators": 1})
    with pytest.raises(UnsupportedError, match=r"my\.operators:Frobnicate"):
        export_policy(source, tmp_path / "out")


def test_an_index_out_of_range_asks_for_bounds(tmp_path: Path) -> None:
    """A table that is looked up with several whole numbers needs to know which; with bounds it is served."""
    nodes = [node("Gather", ["w", "modes"], ["rows"]), node("ReduceMean", ["rows"], ["action"], axes=[1], keepdims=0)]
    source = save(tmp_path, nodes, [port("modes", ["n", 2], "int64")], {"action": ["n", 2]})
    with pytest.raises(UsageError, match="itself fails on modes") as refusal:
        export_policy(source, tmp_path / "out")
    assert "bounds" in refusal.value.remedy
    result = export_policy(source, tmp_path / "out", observation_space=spaces.MultiDiscrete([4, 4]))
    for found in answers(result, {"observation": np.array([[3, 3], [0, 0]])}):
        np.testing.assert_allclose(found["action"], WEIGHTS[[3, 0]])
