"""Every input and output of an ONNX file has a role, or the file is refused by its name: memory, draws, actions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gymnasium import spaces
from onnx import helper
from onnx_graphs import LINEAR, masked, model, node, port, save

from policyctl.domain.contract import DistributionKind
from policyctl.domain.tensor import Role
from policyctl.errors import UsageError
from policyctl_exporters import export_policy
from policyctl_exporters.onnx_file import OnnxFile, read_onnx
from policyctl_exporters.onnx_roles import Roles, assign
from policyctl_exporters.source import Head

OBS = {"obs": ["n", 4]}
ACTION = {"action": ["n", 2]}


def roles_of(file: OnnxFile, head: Any = None, discrete: bool | None = None) -> Roles:
    return assign(file, head=Head.of(head), observed=set(), random=set(), states={}, discrete=discrete)


def recurrent(folder: Path, taken: str, given: str, *, size: int = 2) -> Path:
    """The action depends on the input `taken`, and so does the output `given`, which is of its shape."""
    nodes = [
        node("MatMul", ["obs", "w"], ["seen"]),
        node("Add", ["seen", taken], ["sum"]),
        node("Tanh", ["sum"], ["action"]),
        node("Mul", ["sum", "sum"], [given]),
    ]
    return save(folder, nodes, {**OBS, taken: ["n", size]}, {**ACTION, given: ["n", size]})


@pytest.mark.case
def test_the_memory_of_a_file_is_part_of_its_contract(case: Callable[[str], Path], tmp_path: Path) -> None:
    """A recurrent policy whose states vanished would forget, and nothing would show it."""
    result = export_policy(case("onnx_state_dropped") / "rec_bh.onnx", tmp_path / "out", formats=["onnx"])
    assert {(state.input, state.output) for state in result.contract.states} == {("h_in", "h_out"), ("c_in", "c_out")}
    assert [spec.name for spec in result.contract.environment] == ["obs"]


@pytest.mark.parametrize(
    ("taken", "given"),
    [
        ("h_in", "h_out"),
        ("state_ins", "state_outs"),
        ("recurrent_in", "recurrent_out"),
        ("hidden", "next_hidden"),
        ("h0", "hn"),
        ("hx", "new_hx"),
        ("rnnState", "rnnStateOut"),
        ("obs_history", "obs_history_out"),
    ],
)
def test_memory_is_known_by_its_name(tmp_path: Path, taken: str, given: str) -> None:
    """An input and an output whose names differ in a direction alone."""
    file = read_onnx(recurrent(tmp_path, taken, given))
    assert roles_of(file).states == {taken: given}


SEEN_AND_ALLOWED = spaces.Dict(
    {"obs": spaces.Box(-1, 1, (4,), np.float32), "action_masks": spaces.Box(0, 1, (2,), np.float32)}
)


@pytest.mark.parametrize("space", [None, SEEN_AND_ALLOWED])
def test_an_input_that_is_called_an_action_mask_is_one(space: spaces.Dict | None, tmp_path: Path) -> None:
    """The contract says so, with a space or without, so that `evaluate` asks the environment for it."""
    nodes = [node("MatMul", ["obs", "w"], ["seen"]), node("Add", ["seen", "action_masks"], ["action"])]
    source = save(tmp_path, nodes, {**OBS, "action_masks": ["n", 2]}, ACTION)
    contract = export_policy(source, tmp_path / "out", formats=["onnx"], observation_space=space).contract
    assert [(spec.name, spec.role) for spec in contract.observations] == [
        ("obs", None),
        ("action_masks", Role.ACTION_MASK),
    ]


ALLOWED = spaces.Dict({"obs": spaces.Box(-1, 1, (4,), np.float32), "action_mask": spaces.MultiBinary(2)})


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "float32"])
def test_a_mask_has_the_type_of_its_file_whatever_type_the_space_gives_it(dtype: str, tmp_path: Path) -> None:
    """Environments say int8, and it holds 0 and 1 in every type; every format answers as the file."""
    result = export_policy(masked(tmp_path, dtype), tmp_path / "out", observation_space=ALLOWED)
    (mask,) = result.contract.with_role(Role.ACTION_MASK)
    assert mask.dtype == dtype and result.failed == {}
    assert (mask.low, mask.high) == ((None, None) if dtype == "bool" else (0.0, 1.0))


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,), np.int8), spaces.Box(0, 1, (2,), np.float32)])
def test_truth_values_are_not_made_of_other_numbers(space: spaces.Space[Any], tmp_path: Path) -> None:
    """-1 and 0.5 are neither allowed nor ruled out."""
    observes = spaces.Dict({**ALLOWED.spaces, "action_mask": space})
    with pytest.raises(UsageError, match=r"action_mask is bool\[None, 2\], the observation space says"):
        export_policy(masked(tmp_path, "bool"), tmp_path / "out", observation_space=observes)


def test_what_may_be_memory_is_served_once_somebody_says_what_it_is(tmp_path: Path) -> None:
    """The action depends on it, and it comes back in the same shape: nothing is guessed."""
    source = recurrent(tmp_path, "memory", "carry")
    with pytest.raises(UsageError, match=r"may have memory \(memory -> carry\)") as refusal:
        export_policy(source, tmp_path / "out")
    assert "--state memory=carry" in refusal.value.remedy
    (state,) = export_policy(source, tmp_path / "out", formats=["onnx"], states={"memory": "carry"}).contract.states
    assert (state.input, state.output) == ("memory", "carry")
    with pytest.raises(UsageError, match="has no state memory=other") as refusal:
        export_policy(source, tmp_path / "other", states={"memory": "other"})
    assert "its outputs are action, carry" in refusal.value.remedy
    with pytest.raises(UsageError, match="carry cannot continue obs"):
        export_policy(source, tmp_path / "other", states={"obs": "carry"})


@pytest.mark.parametrize("batch", ["n", 1])
@pytest.mark.parametrize("layers", [1, 2])
def test_memory_that_has_its_layers_first_gets_its_batch_first(tmp_path: Path, layers: int, batch: str | int) -> None:
    """As torch lays it out; also in a file for one row, which is then right for any number."""
    nodes = [
        node("MatMul", ["obs", "w"], ["seen"]),
        node("Add", ["h_in", "seen"], ["h_out"]),
        node("ReduceSum", ["h_out", "zero"], ["action"], keepdims=0),
    ]
    ports = {"obs": [batch, 4], "h_in": [layers, batch, 2]}, {"action": [batch, 2], "h_out": [layers, batch, 2]}
    source = save(tmp_path, nodes, *ports, weights={"zero": np.array([0])})
    result = export_policy(source, tmp_path / "out", formats=["onnx"])
    assert {spec.name: spec.shape for spec in result.contract.observations} == {"obs": (4,), "h_in": (layers, 2)}
    assert result.contract.max_batch is None


def test_steps_are_compared_one_after_another(tmp_path: Path) -> None:
    """Each with what the artifact itself remembered; the report says how far the whole episode is off."""
    result = export_policy(recurrent(tmp_path, "h_in", "h_out"), tmp_path / "out", formats=["onnx", "openvino"])
    evidence = json.loads((tmp_path / "out" / "parity.json").read_text())
    for form in evidence["formats"].values():
        (steps,) = [each for each in form["comparisons"] if each["kind"] == "episode, step by step"]
        assert steps["rows"] == 50
    assert all(parity.max_abs["h_out"] < 1e-4 for parity in result.parity)


def test_memory_that_is_drawn_is_refused(tmp_path: Path) -> None:
    """No two episodes would agree."""
    nodes = [LINEAR, node("RandomNormalLike", ["h_in"], ["h_out"])]
    source = save(tmp_path, nodes, {**OBS, "h_in": ["n", 2]}, {**ACTION, "h_out": ["n", 2]})
    with pytest.raises(UsageError, match="h_out, which continues h_in, cannot be served: it is random"):
        export_policy(source, tmp_path / "out")


def test_scores_that_the_only_action_is_drawn_from_are_served(tmp_path: Path) -> None:
    """The action is then the likeliest choice, and who asks may draw another."""
    nodes = [
        node("MatMul", ["obs", "w"], ["scores"]),
        node("LogSoftmax", ["scores"], ["logs"]),
        node("Multinomial", ["logs"], ["drawn"], dtype=7),
        node("Identity", ["drawn"], ["discrete_actions"]),
    ]
    source = save(tmp_path, nodes, OBS, [port("discrete_actions", ["n", 1], "int64")])
    contract = export_policy(source, tmp_path / "out", formats=["onnx"]).contract
    assert [spec.name for spec in contract.outputs] == ["action", "logits"]
    assert contract.distribution.kind is DistributionKind.CATEGORICAL


@pytest.mark.parametrize("nested", [False, True])
def test_memory_is_followed_into_nested_graphs(tmp_path: Path, nested: bool) -> None:
    """What a branch of `If` reads from around it counts as read."""
    inner = helper.make_graph([node("Mul", ["sum", "sum"], ["y"])], "then", [], [port("y", ["n", 2])])
    other = helper.make_graph([node("Mul", ["seen", "seen"], ["z"])], "else", [], [port("z", ["n", 2])])
    nodes = [
        node("MatMul", ["obs", "w"], ["seen"]),
        node("Add", ["seen", "memory"], ["sum"]),
        node("Tanh", ["sum"], ["action"]),
        node("If", ["yes"], ["carry"], then_branch=inner, else_branch=other)
        if nested
        else node("Mul", ["sum", "sum"], ["carry"]),
    ]
    ports = {**OBS, "memory": ["n", 2]}, {**ACTION, "carry": ["n", 2]}
    with pytest.raises(UsageError, match="memory -> carry"):
        export_policy(save(tmp_path, nodes, *ports, weights={"yes": np.array(True)}), tmp_path / "out")


def test_who_names_the_input_as_an_observation_gives_it_a_role(tmp_path: Path) -> None:
    """A Dict space with its name, or a head for the output: then both are served, and nothing is dropped."""
    source = recurrent(tmp_path, "speed", "power")
    two = spaces.Box(-1, 1, (2,))
    space = spaces.Dict({"obs": spaces.Box(-1, 1, (4,)), "speed": two})
    for settings in ({"observation_space": space}, {"head": {"power": "output"}}):
        result = export_policy(source, tmp_path / "out", formats=["onnx"], force=True, **settings)
        assert [spec.name for spec in result.contract.observations] == ["obs", "speed"]
        assert [spec.name for spec in result.contract.outputs] == ["action", "power"]


@pytest.mark.parametrize(
    ("taken", "given"), [("speed", "value"), ("last_action", "joint_targets"), ("obs_1", "motion")]
)
def test_what_looks_like_memory_and_is_none_is_served(tmp_path: Path, taken: str, given: str) -> None:
    """A value, an action that comes back as an observation, and what is called an observation."""
    result = export_policy(recurrent(tmp_path, taken, given), tmp_path / "out", formats=["onnx"])
    assert taken in [spec.name for spec in result.contract.observations]


def test_an_output_of_the_shape_of_the_only_input_is_no_memory(tmp_path: Path) -> None:
    """What a policy expects to see next is a further output: there is nothing else that it could observe."""
    nodes = [LINEAR, node("Tanh", ["obs"], ["expected"])]
    result = export_policy(
        save(tmp_path, nodes, OBS, {**ACTION, "expected": ["n", 4]}), tmp_path / "out", formats=["onnx"]
    )
    assert [spec.name for spec in result.contract.outputs] == ["action", "expected"]


def test_an_input_that_is_only_passed_through_is_left_out_in_words(tmp_path: Path) -> None:
    """The dummy state of a game engine's policies is no memory; a space that names it keeps it."""
    nodes = [LINEAR, node("Identity", ["state_ins"], ["state_outs"])]
    source = save(tmp_path, nodes, {**OBS, "state_ins": ["n"]}, {**ACTION, "state_outs": ["n"]})
    result = export_policy(source, tmp_path / "out", formats=["onnx"])
    assert [spec.name for spec in result.contract.observations] == ["obs"]
    assert [spec.name for spec in result.contract.outputs] == ["action"]
    assert any("state_outs is left out" in note for note in result.notes)
    flat = export_policy(source, tmp_path / "flat", formats=["onnx"], observation_space=spaces.Box(-1, 1, (4,)))
    assert [spec.name for spec in flat.contract.observations] == ["observation"]
    space = spaces.Dict({"obs": spaces.Box(-1, 1, (4,)), "state_ins": spaces.Box(-1, 1, (1,))})
    kept = export_policy(source, tmp_path / "kept", formats=["onnx"], observation_space=space)
    assert [spec.name for spec in kept.contract.outputs] == ["action", "state_outs"]


@pytest.mark.case
def test_an_action_that_the_graph_draws_is_left_out_and_the_deterministic_one_served(
    case: Callable[[str], Path], tmp_path: Path
) -> None:
    """No two answers of a draw agree, so none is compared, and none is served as if it were the policy's choice."""
    result = export_policy(case("crash_multinomial") / "mlagents.onnx", tmp_path / "out", formats=["onnx"])
    assert [spec.name for spec in result.contract.outputs] == ["action"]
    assert "Multinomial" not in {each.op_type for each in onnx.load(tmp_path / "out" / "model.onnx").graph.node}
    assert any("discrete_actions is left out: it is random" in note for note in result.notes)


def noisy(operator: str) -> list[Any]:
    """An action with noise, drawn by an operator of its own, in a branch, or in a function."""
    draw = node("RandomNormalLike", ["y"], ["noise"])
    match operator:
        case "If":
            branch = helper.make_graph([node("RandomNormalLike", ["y"], ["r"])], "yes", [], [port("r", ["n", 2])])
            other = helper.make_graph([node("Neg", ["y"], ["s"])], "no", [], [port("s", ["n", 2])])
            draw = node("If", ["yes"], ["noise"], then_branch=branch, else_branch=other)
        case "function":
            draw = node("Shake", ["y"], ["noise"], domain="mine")
        case "Dropout":
            return [
                node("MatMul", ["obs", "w"], ["y"]),
                node("Dropout", ["y", "half", "yes"], ["action"]),
            ]
    return [node("MatMul", ["obs", "w"], ["y"]), draw, node("Add", ["y", "noise"], ["action"])]


@pytest.mark.parametrize("operator", ["RandomNormalLike", "If", "function", "Dropout"])
def test_a_file_whose_only_action_is_drawn_is_refused(tmp_path: Path, operator: str) -> None:
    """A draw is found by its operator wherever it stands, and any other one by asking twice."""
    opsets = [helper.make_opsetid("", 17)]
    shake = helper.make_function("mine", "Shake", ["x"], ["r"], [node("RandomNormalLike", ["x"], ["r"])], opsets)
    source = save(
        tmp_path,
        noisy(operator),
        OBS,
        ACTION,
        weights={"yes": np.array(True), "half": np.float32(0.5)},
        domains={"mine": 1},
        functions=[shake],
    )
    with pytest.raises(UsageError, match=r"draws its action \(action\)"):
        export_policy(source, tmp_path / "out")


def test_functions_that_double_forty_times_are_refused_before_they_are_written_out(tmp_path: Path) -> None:
    """Each calls the one below twice: a trillion operators in a file of a few kilobytes."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    functions = [helper.make_function("mine", "F0", ["x"], ["y"], [node("Tanh", ["x"], ["y"])], opsets)]
    for level in range(1, 41):
        calls = [node(f"F{level - 1}", [given], [made], domain="mine") for given, made in (("x", "h"), ("h", "y"))]
        functions.append(helper.make_function("mine", f"F{level}", ["x"], ["y"], calls, opsets))
    nodes = [node("MatMul", ["obs", "w"], ["h"]), node("F40", ["h"], ["action"], domain="mine")]
    source = save(tmp_path, nodes, OBS, ACTION, domains={"mine": 1}, functions=functions)
    with pytest.raises(UsageError, match=r"policy\.onnx has \d+ operators where every call is written out"):
        export_policy(source, tmp_path / "out")


def test_two_actions_need_a_word_and_the_other_is_kept(tmp_path: Path) -> None:
    """A hybrid policy gives a continuous and a discrete action; which one is the action is not guessed."""
    nodes = [
        node("MatMul", ["obs", "w"], ["continuous_actions"]),
        node("ArgMax", ["continuous_actions"], ["discrete_actions"], axis=1),
    ]
    outputs = [port("continuous_actions", ["n", 2]), port("discrete_actions", ["n", 1], "int64")]
    source = save(tmp_path, nodes, OBS, outputs)
    with pytest.raises(UsageError, match="continuous_actions, discrete_actions") as refusal:
        export_policy(source, tmp_path / "out")
    assert "--head NAME=KIND" in refusal.value.remedy
    result = export_policy(source, tmp_path / "out", formats=["onnx"], head={"continuous_actions": "action"})
    assert [spec.name for spec in result.contract.outputs] == ["action", "discrete_actions"]


@pytest.mark.parametrize(
    ("names", "head", "source", "kind"),
    [
        (["actions"], None, "actions", "action"),
        (["value", "actor/actions"], None, "actor/actions", "action"),
        (["value", "action_chunk"], None, "action_chunk", "action"),
        (["actions", "action_chunk"], None, "actions", "action"),
        (["prev_actions", "actions"], None, "actions", "action"),
        (["value", "action"], None, "action", "action"),
        (["value", "logits"], None, "logits", "logits"),
        (["value", "pi"], {"pi": "mean"}, "pi", "mean"),
        (["pi", "value"], "q_values", "pi", "q_values"),
        (
            ["continuous_actions", "deterministic_continuous_actions"],
            None,
            "deterministic_continuous_actions",
            "action",
        ),
        (["action", "better"], {"better": "action"}, "better", "action"),
        (["action", "q"], {"q": "q_values"}, "action", "action"),
    ],
)
def test_the_action_is_found_by_name_or_by_what_was_said(
    tmp_path: Path, names: list[str], head: Any, source: str, kind: str
) -> None:
    """What a file gives next to the action is kept under its own name."""
    nodes = [node("MatMul", ["obs", "w"], [name]) for name in names]
    file = read_onnx(save(tmp_path, nodes, OBS, {name: ["n", 2] for name in names}))
    roles = roles_of(file, head)
    assert (roles.source, roles.kind) == (source, kind)
    rest = {name for name in names if name != source}
    assert set(roles.further) | set(roles.parameters.values()) == rest


def test_the_action_of_the_last_step_is_not_served_as_the_action(tmp_path: Path) -> None:
    """Its name has the word, and a word more that says otherwise."""
    nodes = [node("MatMul", ["obs", "w"], ["mu"]), node("Tanh", ["mu"], ["prev_actions"])]
    file = read_onnx(save(tmp_path, nodes, OBS, {"mu": ["n", 2], "prev_actions": ["n", 2]}))
    with pytest.raises(UsageError, match="no output is called 'action', it gives mu, prev_actions"):
        roles_of(file)


@pytest.mark.parametrize(("discrete", "kind"), [(True, "logits"), (False, "action")])
def test_a_single_output_is_what_the_action_space_makes_it(tmp_path: Path, discrete: bool, kind: str) -> None:
    """As for modules: scores of a discrete space, the action of another; without a space it has to be said."""
    file = read_onnx(save(tmp_path, [node("MatMul", ["obs", "w"], ["y"])], OBS, {"y": ["n", 2]}))
    assert roles_of(file, discrete=discrete).kind == kind
    with pytest.raises(UsageError, match="no output is called 'action', it gives y"):
        roles_of(file)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("scores", "head 'scores' is not known"),
        ({"action": "score"}, "head 'action=score' is not known"),
        ({"gone": "action"}, "head names gone, the policy gives action"),
        (["action", "logits"], "twice"),
        ({"a": "mean", "b": "mean"}, "twice"),
        ("logits", "names its action itself"),
        ("output", "head 'output' is not known"),
    ],
)
def test_a_head_that_cannot_be_meant_is_refused(tmp_path: Path, head: Any, words: str) -> None:
    """Each refusal names what was said, and what could be."""
    with pytest.raises(UsageError, match=words):
        export_policy(save(tmp_path, [LINEAR], OBS, ACTION), tmp_path / "out", head=head)


def test_a_head_of_the_command_line_reads_as_in_python() -> None:
    """Repeated options and a mapping say the same; an output's name may hold a sign of equality."""
    assert Head.of(["a=action", "b=q_values"]) == Head.of({"a": "action", "b": "q_values"})
    assert Head.of(["a=b=mean"]).named == {"a=b": "mean"}
    assert Head.of("logits") == Head.of(["logits"]) == Head(bare="logits")
    assert not Head.of(None)


def test_an_input_that_nothing_needs_is_left_out_in_words(tmp_path: Path) -> None:
    """What no served output depends on need not be sent."""
    nodes = [LINEAR, node("Multinomial", ["scores"], ["drawn"], dtype=7)]
    source = save(
        tmp_path, nodes, {**OBS, "scores": ["n", 3]}, [port("action", ["n", 2]), port("drawn", ["n", 1], "int64")]
    )
    result = export_policy(source, tmp_path / "out", formats=["onnx"])
    assert [spec.name for spec in result.contract.observations] == ["obs"]
    assert any(note.startswith("input scores is left out") for note in result.notes)


def test_a_policy_that_looks_at_nothing_is_refused(tmp_path: Path) -> None:
    """An action that depends on no input is no policy."""
    nodes = [node("Identity", ["constant"], ["action"])]
    source = save(tmp_path, nodes, OBS, {"action": [1, 2]}, weights={"constant": np.ones((1, 2), np.float32)})
    with pytest.raises(UsageError, match="same for every observation"):
        export_policy(source, tmp_path / "out")


def test_text_has_no_role(tmp_path: Path) -> None:
    """Inputs of text refuse the file, outputs of text are left out in words."""
    text = helper.make_tensor_value_info("label", onnx.TensorProto.STRING, ["n", 1])
    made = model([LINEAR, node("Identity", ["names"], ["label"])], OBS, [port("action", ["n", 2]), text])
    made.graph.initializer.append(helper.make_tensor("names", onnx.TensorProto.STRING, [1, 1], [b"left"]))
    onnx.save(made, tmp_path / "policy.onnx")
    result = export_policy(tmp_path / "policy.onnx", tmp_path / "out", formats=["onnx"])
    assert any("label is left out" in note for note in result.notes)
    label = helper.make_tensor_value_info("label", onnx.TensorProto.STRING, ["n", 1])
    onnx.save(model([LINEAR], [port("obs", ["n", 4]), label], ACTION), tmp_path / "policy.onnx")
    with pytest.raises(UsageError, match="takes label"):
        export_policy(tmp_path / "policy.onnx", tmp_path / "other")


@pytest.mark.parametrize("dims", [[0], ["n", 1, 0]])
def test_memory_without_elements_is_left_out_in_words(tmp_path: Path, dims: list[int | str]) -> None:
    """As libraries write it for a policy that has none; the file itself still gets it."""
    nodes = [LINEAR, node("Identity", ["state_ins"], ["state_outs"])]
    source = save(tmp_path, nodes, {**OBS, "state_ins": dims}, {**ACTION, "state_outs": dims})
    result = export_policy(source, tmp_path / "out", formats=["onnx"])
    assert [spec.name for spec in result.contract.observations] == ["obs"]
    assert [spec.name for spec in result.contract.outputs] == ["action"]
    assert "input state_ins is left out: it has no elements" in result.notes
    assert "output state_outs is left out: it has no elements" in result.notes


def test_an_action_that_is_computed_with_nothing_is_refused(tmp_path: Path) -> None:
    """An input without elements cannot be sent, and the graph would miss it."""
    nodes = [node("Concat", ["obs", "more"], ["both"], axis=1), node("MatMul", ["both", "w"], ["action"])]
    source = save(tmp_path, nodes, {**OBS, "more": ["n", 0]}, ACTION)
    with pytest.raises(UsageError, match="computes its action with more, which has no elements") as refusal:
        export_policy(source, tmp_path / "out")
    assert "without that input" in refusal.value.remedy


@pytest.mark.parametrize("operator", ["Unique", "NonZero"])
def test_an_output_whose_shape_depends_on_the_observation_is_left_out(tmp_path: Path, operator: str) -> None:
    """No contract holds it; the action is served."""
    nodes = [LINEAR, node(operator, ["action"], ["found"])]
    dtype = "float32" if operator == "Unique" else "int64"
    outputs = [port("action", ["n", 2]), port("found", ["k"] if operator == "Unique" else [2, "k"], dtype)]
    result = export_policy(save(tmp_path, nodes, [port("obs", ["n", 4])], outputs), tmp_path / "out", formats=["onnx"])
    assert [spec.name for spec in result.contract.outputs] == ["action"]
    assert "output found is left out: its shape depends on the observation" in result.notes


def test_an_output_whose_shape_changes_for_far_observations_alone_is_left_out(tmp_path: Path) -> None:
    """All usual rows have one shape, which says nothing of a row beyond the limit."""
    constants = [node("Constant", [], ["limit"], value_float=1e4), node("Constant", [], ["flat"], value_ints=[-1])]
    nodes = [
        *constants,
        LINEAR,
        node("Less", ["action", "limit"], ["near"]),
        *(node("Reshape", [name, "flat"], [f"{name}_flat"]) for name in ("action", "near")),
        node("Compress", ["action_flat", "near_flat"], ["found"], axis=0),
    ]
    outputs = [port("action", ["n", 2]), port("found", ["k"])]
    result = export_policy(save(tmp_path, nodes, [port("obs", ["n", 4])], outputs), tmp_path / "out", formats=["onnx"])
    assert [spec.name for spec in result.contract.outputs] == ["action"]
    assert "output found is left out: its shape depends on the observation" in result.notes


def test_memory_may_have_its_batch_anywhere(tmp_path: Path) -> None:
    """As a cache of keys and values has it, behind its layers; past and present are one memory."""
    nodes = [node("Add", ["past_key_values", "obs"], ["present_key_values"])]
    nodes += [node("ReduceMean", ["present_key_values"], ["mean"], axes=[0, 1], keepdims=0)]
    nodes += [node("MatMul", ["mean", "w"], ["action"])]
    inputs, outputs = {"obs": [1, 4], "past_key_values": [3, 2, 1, 4]}, {"action": [1, 2]}
    source = save(tmp_path, nodes, inputs, {**outputs, "present_key_values": [3, 2, 1, 4]})
    contract = export_policy(source, tmp_path / "out", formats=["onnx"]).contract
    assert [(state.input, state.output) for state in contract.states] == [("past_key_values", "present_key_values")]
    assert [spec.shape for spec in contract.observations] == [(4,), (3, 2, 4)]
    assert contract.max_batch is None


def test_memory_without_a_batch_is_served_row_by_row(tmp_path: Path) -> None:
    """A history of five steps is no batch of five, where the observation is one."""
    cut = {"one": np.array([1]), "five": np.array([5]), "zero": np.array([0]), "flat": np.array([1, 20])}
    nodes = [node("Slice", ["history_in", "one", "five", "zero"], ["later"])]
    nodes += [node("Concat", ["later", "obs"], ["history_out"], axis=0)]
    nodes += [node("Reshape", ["history_out", "flat"], ["row"]), node("MatMul", ["row", "all"], ["action"])]
    weights = {**cut, "all": np.ones((20, 2), np.float32)}
    inputs, outputs = {"obs": [1, 4], "history_in": [5, 4]}, {"action": [1, 2], "history_out": [5, 4]}
    contract = export_policy(
        save(tmp_path, nodes, inputs, outputs, weights=weights), tmp_path / "out", formats=["onnx"]
    ).contract
    assert [spec.shape for spec in contract.observations] == [(4,), (5, 4)]
    assert (contract.states[0].input, contract.max_batch) == ("history_in", 1)


def test_an_input_without_a_shape_is_refused_by_name(tmp_path: Path) -> None:
    """It is no scalar, for which it was taken."""
    made = model([LINEAR], OBS, ACTION)
    made.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(made, tmp_path / "policy.onnx")
    with pytest.raises(UsageError, match="does not say which shape obs has"):
        export_policy(tmp_path / "policy.onnx", tmp_path / "out")
