"""Choices that a file draws, or leaves to its engine to draw, are served as scores with their likeliest choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from onnx import TensorProto
from onnx_graphs import node, port, save

from policyctl.domain.contract import ActionKind, DistributionKind
from policyctl.errors import UsageError
from policyctl_exporters import ExportResult, export_policy, load_reference
from policyctl_exporters.onnx_choices import with_scores
from policyctl_exporters.onnx_file import read_onnx
from policyctl_exporters.runtimes import runners
from policyctl_exporters.source import Head

ROWS = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
WEIGHTS = {
    "three": np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32),
    "two": np.random.default_rng(2).standard_normal((4, 2)).astype(np.float32),
}


def branch(name: str) -> list[Any]:
    """Logarithms of the probabilities of a branch, called like its weights."""
    nodes = [node("MatMul", ["obs", name], [f"{name}_h"]), node("Softmax", [f"{name}_h"], [f"{name}_p"], axis=1)]
    return [*nodes, node("Log", [f"{name}_p"], [f"{name}_log"])]


def drawn(name: str) -> Any:
    """A draw from a branch."""
    return node("Multinomial", [f"{name}_log"], [f"{name}_drawn"], dtype=TensorProto.INT64)


def logarithms(rows: Any, name: str) -> Any:
    """What `branch` computes."""
    scores = rows @ WEIGHTS[name]
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def agree(result: ExportResult, scores: Any, choices: Any) -> None:
    """Hold every way of serving every artifact against the scores and the likeliest choices."""
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            found = run({"obs": ROWS})
            np.testing.assert_allclose(found["logits"], scores, atol=1e-5)
            np.testing.assert_array_equal(found["action"], choices)


BOTH = np.concatenate([logarithms(ROWS, "three"), logarithms(ROWS, "two")], axis=1)
FIRSTS = np.array([10, 20])
BEST = np.stack([BOTH[:, :3].argmax(axis=1), BOTH[:, 3:].argmax(axis=1)], axis=1)


def test_several_drawn_choices_are_served_by_their_scores(tmp_path: Path) -> None:
    """Two names for the same draws, as older ML-Agents writes them, change nothing."""
    nodes = [*branch("three"), *branch("two"), drawn("three"), drawn("two")]
    nodes += [node("Concat", ["three_drawn", "two_drawn"], [name], axis=1) for name in ("discrete_actions", "action")]
    outputs = [port(name, ["n", 2], "int64") for name in ("discrete_actions", "action")]
    result = export_policy(save(tmp_path, nodes, [port("obs", ["n", 4])], outputs, weights=WEIGHTS), tmp_path / "out")
    contract = result.contract
    assert (contract.action_kind, contract.action.high) == (ActionKind.MULTI_DISCRETE, (2.0, 1.0))
    assert (contract.distribution.kind, contract.distribution.nvec) == (DistributionKind.MULTI_CATEGORICAL, (3, 2))
    agree(result, BOTH, BEST)


@pytest.mark.parametrize("old", [False, True])
def test_scores_that_a_file_calls_its_action_are_scores(tmp_path: Path, old: bool) -> None:
    """Older ML-Agents leaves the draw to its engine: its floats are no continuous action; both names are kept."""
    names = ["action", "is_continuous_control"] if old else ["discrete_actions", "action"]
    nodes = [*branch("three"), *branch("two")]
    nodes += [node("Concat", ["three_log", "two_log"], [n], axis=1) for n in names if n != "is_continuous_control"]
    outputs = [port(name, ["n", 5]) for name in names if name != "is_continuous_control"]
    kind = {}
    if old:
        outputs.append(port("is_continuous_control", [1]))
        kind = {"is_continuous_control": np.zeros(1, np.float32)}
    source = save(tmp_path, nodes, [port("obs", ["n", 4])], outputs, weights={**WEIGHTS, **kind})
    result = export_policy(source, tmp_path / "out")
    assert result.contract.action_kind is ActionKind.MULTI_DISCRETE
    assert [spec.name for spec in result.contract.further] == ([] if old else ["out_action"])
    agree(result, BOTH, BEST)


def test_a_continuous_action_of_an_old_file_stays_one(tmp_path: Path) -> None:
    """The constant next to it says what it is."""
    nodes = [node("MatMul", ["obs", "two"], ["action"])]
    outputs = [port("action", ["n", 2]), port("is_continuous_control", [1])]
    weights = {**WEIGHTS, "is_continuous_control": np.ones(1, np.float32)}
    source = save(tmp_path, nodes, [port("obs", ["n", 4])], outputs, weights=weights)
    result = export_policy(source, tmp_path / "out", formats=["onnx"])
    assert result.contract.action_kind is ActionKind.CONTINUOUS


def test_scores_of_several_choices_are_read_for_a_space_that_says_their_sizes(tmp_path: Path) -> None:
    """Also where choices do not begin at 0."""
    nodes = [*branch("three"), *branch("two"), node("Concat", ["three_log", "two_log"], ["scores"], axis=1)]
    source = save(tmp_path, nodes, [port("obs", ["n", 4])], [port("scores", ["n", 5])], weights=WEIGHTS)
    space = spaces.MultiDiscrete([3, 2], start=FIRSTS)
    result = export_policy(source, tmp_path / "out", head={"scores": "logits"}, action_space=space)
    agree(result, BOTH, BEST + FIRSTS)
    right = load_reference(source, head={"scores": "logits"}, action_space=space)({"obs": ROWS})
    np.testing.assert_array_equal(right["action"], BEST + FIRSTS)


def test_scores_may_have_the_name_that_the_contract_gives_them(tmp_path: Path) -> None:
    """Inside the graph: it is renamed there."""
    nodes = [node("MatMul", ["obs", "three"], ["logits"])]
    nodes.append(node("Multinomial", ["logits"], ["action"], dtype=TensorProto.INT64))
    outputs = [port("action", ["n", 1], "int64")]
    result = export_policy(save(tmp_path, nodes, [port("obs", ["n", 4])], outputs, weights=WEIGHTS), tmp_path / "out")
    scores = ROWS @ WEIGHTS["three"]
    agree(result, scores, scores.argmax(axis=1)[:, None])


def test_scores_of_double_precision_are_scores(tmp_path: Path) -> None:
    """Whatever floats a file gives, they are served as float32."""
    nodes = [
        node("Cast", ["obs"], ["wide"], to=TensorProto.DOUBLE),
        node("MatMul", ["wide", "d"], ["discrete_actions"]),
    ]
    outputs = [port("discrete_actions", ["n", 3], "float64")]
    weights = {"d": WEIGHTS["three"].astype(np.float64)}
    result = export_policy(save(tmp_path, nodes, [port("obs", ["n", 4])], outputs, weights=weights), tmp_path / "out")
    scores = ROWS @ WEIGHTS["three"]
    agree(result, scores, scores.argmax(axis=1)[:, None])


def test_choices_that_a_file_gives_as_floats_are_no_scores(tmp_path: Path) -> None:
    """The best of one score would always be the first choice."""
    nodes = [*branch("three"), node("ArgMax", ["three_log"], ["best"], axis=1)]
    nodes.append(node("Cast", ["best"], ["discrete_actions"], to=TensorProto.FLOAT))
    outputs = [port("discrete_actions", ["n", 1])]
    result = export_policy(save(tmp_path, nodes, [port("obs", ["n", 4])], outputs, weights=WEIGHTS), tmp_path / "out")
    assert [spec.name for spec in result.contract.outputs] == ["action"]
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            np.testing.assert_array_equal(run({"obs": ROWS})["action"], BEST[:, :1])


NOISE = [node("MatMul", ["obs", "two"], ["mean"]), node("RandomNormalLike", ["mean"], ["noise"])]
NOISE.append(node("Add", ["mean", "noise"], ["continuous_actions"]))


def test_a_file_that_draws_its_only_action_says_so(tmp_path: Path) -> None:
    """Nothing that could be said about its outputs would help; what to export does."""
    outputs = [port("continuous_actions", ["n", 2])]
    source = save(tmp_path, NOISE, [port("obs", ["n", 4])], outputs, weights=WEIGHTS)
    with pytest.raises(
        UsageError, match=r"draws its action \(continuous_actions\), so no two answers agree"
    ) as refusal:
        export_policy(source, tmp_path / "out")
    assert "its deterministic action as an output" in refusal.value.remedy
    assert "--head" not in refusal.value.remedy


def test_half_of_a_hybrid_action_is_not_served_for_the_whole(tmp_path: Path) -> None:
    """A continuous action that is only drawn is not dropped next to a discrete one, unless somebody says so."""
    nodes = [*NOISE, *branch("three"), *branch("two")]
    nodes.append(node("Concat", ["three_log", "two_log"], ["discrete_actions"], axis=1))
    outputs = [port("continuous_actions", ["n", 2]), port("discrete_actions", ["n", 5])]
    source = save(tmp_path, nodes, [port("obs", ["n", 4])], outputs, weights=WEIGHTS)
    with pytest.raises(UsageError, match="two actions, discrete_actions and continuous_actions") as refusal:
        export_policy(source, tmp_path / "out")
    assert "--head discrete_actions=logits" in refusal.value.remedy
    result = export_policy(source, tmp_path / "out", head={"discrete_actions": "logits"})
    agree(result, BOTH, BEST)


def test_a_hybrid_action_that_is_drawn_whole_is_refused_without_an_output_that_the_file_lacks(tmp_path: Path) -> None:
    """The scores behind the draws have no name in the file, so nobody can say `--head` for them."""
    nodes = [*NOISE, *branch("three"), *branch("two"), drawn("three"), drawn("two")]
    nodes.append(node("Concat", ["three_drawn", "two_drawn"], ["discrete_actions"], axis=1))
    outputs = [port("continuous_actions", ["n", 2]), port("discrete_actions", ["n", 2], "int64")]
    source = save(tmp_path, nodes, [port("obs", ["n", 4])], outputs, weights=WEIGHTS)
    with pytest.raises(UsageError, match="two actions, discrete_actions and continuous_actions") as refusal:
        export_policy(source, tmp_path / "out")
    assert refusal.value.remedy == "Export it again with its deterministic action as an output."


SIX = {"six": np.random.default_rng(3).standard_normal((4, 6)).astype(np.float32)}
FOLDED = {"folded": np.array([-1, 2, 3], np.int64), "flat": np.array([-1, 6], np.int64)}
INTERLEAVED = [
    *(node("Unsqueeze", [f"{name}_log", "last"], [f"{name}_column"]) for name in ("three", "other")),
    node("Concat", ["three_column", "other_column"], ["pairs"], axis=-1),
    node("Reshape", ["pairs", "flat"], ["discrete_actions"]),
]
BESTS = [node("ArgMax", [f"{name}_log"], [f"{name}_best"], axis=1) for name in ("three", "two")]
UNSURE = {
    "several branches in one block": [
        node("MatMul", ["obs", "six"], ["h"]),
        node("Reshape", ["h", "folded"], ["rows"]),
        node("LogSoftmax", ["rows"], ["log"], axis=2),
        node("Reshape", ["log", "flat"], ["discrete_actions"]),
    ],
    "branches that lie apart": [*branch("three"), *branch("other"), *INTERLEAVED],
    "joined before the last step": [
        *branch("three"),
        *branch("two"),
        node("Concat", ["three_log", "two_log"], ["both"], axis=1),
        node("Add", ["both", "one"], ["discrete_actions"]),
    ],
    "joined before the logarithm": [
        *branch("three"),
        *branch("two"),
        node("Concat", ["three_p", "two_p"], ["both"], axis=1),
        node("Log", ["both"], ["discrete_actions"]),
    ],
    "choices": [
        *branch("three"),
        *branch("two"),
        *BESTS,
        node("Concat", ["three_best", "two_best"], ["both"], axis=1),
        node("Cast", ["both"], ["floats"], to=TensorProto.FLOAT),
        node("Mul", ["floats", "one"], ["discrete_actions"]),
    ],
    "probabilities": [node("MatMul", ["obs", "three"], ["h"]), node("Softmax", ["h"], ["discrete_actions"], axis=1)],
    "scores turned around by a factor": [*branch("three"), node("Mul", ["three_log", "minus"], ["discrete_actions"])],
    "scores turned around by a computed divisor": [
        *branch("three"),
        node("Sub", ["minus", "one"], ["below"]),
        node("Div", ["three_log", "below"], ["discrete_actions"]),
    ],
    "scores turned around by a sign": [*branch("three"), node("Neg", ["three_log"], ["discrete_actions"])],
    "scores taken from a number": [*branch("three"), node("Sub", ["one", "three_log"], ["discrete_actions"])],
    "the logarithm of what is not chosen": [
        *branch("three"),
        node("Sub", ["one", "three_p"], ["rest"]),
        node("Log", ["rest"], ["discrete_actions"]),
    ],
    "scores turned around by a factor of their shape": [
        *branch("three"),
        node("Shape", ["three_log"], ["size"]),
        node("Expand", ["minus", "size"], ["turned"]),
        node("Mul", ["three_log", "turned"], ["discrete_actions"]),
    ],
    "the best score less each": [
        *branch("three"),
        node("ReduceMax", ["three_log"], ["top"], axes=[1]),
        node("Sub", ["top", "three_log"], ["discrete_actions"]),
    ],
    "half of each score less all of it": [
        *branch("three"),
        node("Mul", ["three_log", "half"], ["less"]),
        node("Sub", ["less", "three_log"], ["discrete_actions"]),
    ],
    "the logarithm of a sum over each part": [
        *branch("three"),
        node("ReduceSum", ["three_p", "first"], ["sum"]),
        node("Div", ["sum", "three_p"], ["odds"]),
        node("Log", ["odds"], ["discrete_actions"]),
    ],
    "the logarithm of each part's reciprocal": [
        *branch("three"),
        node("Reciprocal", ["three_p"], ["odds"]),
        node("Log", ["odds"], ["discrete_actions"]),
    ],
    "the logarithm of the distance to the largest": [
        *branch("three"),
        node("ReduceMax", ["three_p"], ["top"], axes=[1]),
        node("Sub", ["top", "three_p"], ["rest"]),
        node("Log", ["rest"], ["discrete_actions"]),
    ],
    "doubled forty times": [
        node("MatMul", ["obs", "three"], ["x0"]),
        *(node("Concat", [f"x{n}", f"x{n}"], [f"x{n + 1}"], axis=1) for n in range(40)),
        node("Identity", ["x40"], ["discrete_actions"]),
    ],
    "a one for the choice": [
        *branch("three"),
        node("ArgMax", ["three_log"], ["best"], axis=1, keepdims=0),
        node("OneHot", ["best", "depth", "bits"], ["discrete_actions"]),
    ],
}


@pytest.mark.parametrize("graph", UNSURE)
def test_floats_are_scores_of_branches_only_where_the_graph_says_so(tmp_path: Path, graph: str) -> None:
    """A wrong reading would be right in every artifact, as the reference would read the same."""
    more = {
        "one": np.ones(1, np.float32),
        "minus": -np.ones(1, np.float32),
        "half": np.full(1, 0.5, np.float32),
        "first": np.array([1], np.int64),
        "depth": np.int64(3),
        "bits": np.array([0, 1], np.float32),
    }
    weights = {**WEIGHTS, **SIX, **FOLDED, **more, "other": SIX["six"][:, :3], "last": np.array([2], np.int64)}
    outputs = [port("discrete_actions", ["n", "scores"])]
    source = save(tmp_path, UNSURE[graph], [port("obs", ["n", 4])], outputs, weights=weights)
    for head in ({}, {"discrete_actions": "logits"}):
        with pytest.raises(UsageError, match="does not say whether discrete_actions are scores of choices") as refusal:
            export_policy(source, tmp_path / "out", head=head)
        assert "--head discrete_actions=logits, with an environment" in refusal.value.remedy


def test_scores_keep_their_order_below_a_positive_factor_and_forty_doublings(tmp_path: Path) -> None:
    """A temperature, a largest score taken off, and sums of a tensor with itself."""
    nodes = [node("MatMul", ["obs", "three"], ["h"]), node("ReduceMax", ["h"], ["top"], axes=[1])]
    nodes += [node("Sub", ["h", "top"], ["below"]), node("Div", ["below", "heat"], ["x0"])]
    nodes += [node("Add", [f"x{n}", f"x{n}"], [f"x{n + 1}"]) for n in range(40)]
    nodes.append(node("Identity", ["x40"], ["discrete_actions"]))
    weights = {**WEIGHTS, "heat": np.float32(2**40)}
    source = save(tmp_path, nodes, [port("obs", ["n", 4])], [port("discrete_actions", ["n", 3])], weights=weights)
    scores = ROWS @ WEIGHTS["three"]
    answers = load_reference(source)({"obs": ROWS})
    np.testing.assert_allclose(answers["logits"], scores - scores.max(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("how", ["Reciprocal", "Div"])
def test_probabilities_of_what_is_allowed_may_be_made_to_sum_to_one_again(tmp_path: Path, how: str) -> None:
    """By a division, or by the reciprocal that an exporter writes for it; then a logarithm of them is a score."""
    nodes = [
        *branch("three"),
        node("Mul", ["three_p", "half"], ["part"]),
        node("ReduceSum", ["part", "first"], ["sum"]),
    ]
    if how == "Reciprocal":
        nodes += [node("Reciprocal", ["sum"], ["over"]), node("Mul", ["part", "over"], ["again"])]
    else:
        nodes.append(node("Div", ["part", "sum"], ["again"]))
    nodes.append(node("Log", ["again"], ["discrete_actions"]))
    weights = {**WEIGHTS, "half": np.full(3, 0.5, np.float32), "first": np.array([1], np.int64)}
    source = save(tmp_path, nodes, [port("obs", ["n", 4])], [port("discrete_actions", ["n", 3])], weights=weights)
    np.testing.assert_allclose(load_reference(source)({"obs": ROWS})["logits"], logarithms(ROWS, "three"), atol=1e-5)


def test_a_space_and_a_head_say_what_the_graph_does_not(tmp_path: Path) -> None:
    """Two branches of three that come out of one layer are served as two choices."""
    nodes = UNSURE["several branches in one block"]
    outputs = [port("discrete_actions", ["n", 6])]
    source = save(tmp_path, nodes, [port("obs", ["n", 4])], outputs, weights={**SIX, **FOLDED})
    given = {"head": {"discrete_actions": "logits"}, "action_space": spaces.MultiDiscrete([3, 3])}
    scores = (ROWS @ SIX["six"]).reshape(-1, 2, 3)
    logs = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
    agree(export_policy(source, tmp_path / "out", **given), logs.reshape(-1, 6), scores.argmax(axis=2))


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([1, 4]), spaces.Discrete(5)])
@pytest.mark.parametrize("how", ["draws", "scores", "said"])
def test_an_action_space_with_other_branches_than_the_file_is_refused(tmp_path: Path, space: Any, how: str) -> None:
    """Also where it has as many choices together."""
    ends = "drawn" if how == "draws" else "log"
    nodes = [*branch("three"), *branch("two"), *([drawn("three"), drawn("two")] if how == "draws" else [])]
    nodes.append(node("Concat", [f"three_{ends}", f"two_{ends}"], ["discrete_actions"], axis=1))
    outputs = [port("discrete_actions", ["n", 2], "int64") if how == "draws" else port("discrete_actions", ["n", 5])]
    source = save(tmp_path, nodes, [port("obs", ["n", 4])], outputs, weights=WEIGHTS)
    head = {"discrete_actions": "logits"} if how == "said" else None
    with pytest.raises(UsageError, match=r"has scores of \[3, 2\] choices, the action space .* has \["):
        export_policy(source, tmp_path / "out", head=head, action_space=space)


@pytest.mark.parametrize("how", ["several draws of one choice", "draws below each other"])
def test_draws_are_branches_only_where_each_is_one_choice_of_a_row(tmp_path: Path, how: str) -> None:
    """Five draws from the same scores are five answers, and draws below each other are of other rows."""
    if how == "several draws of one choice":
        draw = node("Multinomial", ["three_log"], ["action"], dtype=TensorProto.INT64, sample_size=5)
        nodes, outputs = [*branch("three"), draw], [port("action", ["n", 5], "int64")]
    else:
        nodes = [*branch("three"), *branch("two"), drawn("three"), drawn("two")]
        nodes.append(node("Concat", ["three_drawn", "two_drawn"], ["action"], axis=0))
        outputs = [port("action", ["m", 1], "int64")]
    with pytest.raises(UsageError, match="draws its action"):
        export_policy(save(tmp_path, nodes, [port("obs", ["n", 4])], outputs, weights=WEIGHTS), tmp_path / "out")


# ONNX Runtime draws from no doubles.
@pytest.mark.parametrize(("dtype", "draws"), [("float16", False), ("float16", True), ("float64", False)])
def test_scores_may_be_of_any_precision(tmp_path: Path, dtype: str, draws: bool) -> None:
    """What stands in the graph says of which type they are."""
    name = "h" if draws else "discrete_actions"
    nodes = [node("MatMul", ["obs", "typed"], ["r"]), node("LogSoftmax", ["r"], [name], axis=1)]
    outputs = [port("discrete_actions", ["n", 3], dtype)]
    if draws:
        nodes.append(node("Multinomial", ["h"], ["discrete_actions"], dtype=TensorProto.INT64))
        outputs = [port("discrete_actions", ["n", 1], "int64")]
    weights = {"typed": WEIGHTS["three"].astype(dtype)}
    source = save(tmp_path, nodes, [port("obs", ["n", 4], dtype)], outputs, weights=weights)
    answers = load_reference(source)({"obs": ROWS.astype(dtype)})
    np.testing.assert_allclose(answers["logits"], logarithms(ROWS, "three"), atol=1e-2 if dtype == "float16" else 1e-5)


def test_many_branches_are_measured_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy of a file with many branches would cost a session."""
    from policyctl.sessions import onnxruntime

    names = [f"branch{number}" for number in range(20)]
    nodes = [node("MatMul", ["obs", "three"], ["h"])]
    nodes += [node("LogSoftmax", ["h"], [name], axis=1) for name in names]
    nodes.append(node("Concat", names, ["discrete_actions"], axis=1))
    outputs = [port("discrete_actions", ["n", 60])]
    file = read_onnx(save(tmp_path, nodes, [port("obs", ["n", 4])], outputs, weights=WEIGHTS))
    opened: list[Any] = []
    really = onnxruntime.open_graph
    monkeypatch.setattr(onnxruntime, "open_graph", lambda graph: opened.append(graph) or really(graph))
    found, _ = with_scores(file, Head(), sized=False)
    assert (found.blocks, len(opened)) == ((3,) * 20, 1)
