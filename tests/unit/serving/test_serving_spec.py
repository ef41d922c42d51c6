"""Reading the configuration that Triton hands to a backend."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError
from policyctl.serving.backends.spec import ModelSpec, Port, check_contract
from policyctl.sessions.ports import check_artifact

CONTRACT = Contract(
    observations=(TensorSpec("a", "float32", (2,)), TensorSpec("b", "float32", (2,))),
    outputs=(TensorSpec("action", "int64", (1,)),),
    action_kind=ActionKind.DISCRETE,
)


def text(**changes: Any) -> str:
    config: dict[str, Any] = {
        "max_batch_size": 8,
        "default_model_filename": "",
        "input": [
            {"name": "a", "data_type": "TYPE_FP32", "dims": [2], "reshape": {"shape": []}},
            {"name": "b", "data_type": "TYPE_FP32", "dims": ["2"]},
        ],
        "output": [{"name": "action", "data_type": "TYPE_INT64", "dims": [1]}],
        "parameters": {"release": {"string_value": "1.0.0"}},
    }
    return json.dumps({**config, **changes})


def read(**changes: Any) -> ModelSpec:
    return ModelSpec.from_json(text(**changes), default_filename="model.onnx")


def test_a_configuration_is_read() -> None:
    """Names, types and dims in order; numbers may be text, as Triton's JSON has them."""
    spec = read()
    assert spec.inputs == (Port("a", "float32", (2,)), Port("b", "float32", (2,)))
    assert spec.outputs == (Port("action", "int64", (1,)),)
    assert spec.filename == "model.onnx"
    assert read(default_model_filename="p.onnx").filename == "p.onnx"
    assert spec.required("release") == "1.0.0"


def test_a_parameter_that_must_be_there_is_asked_for() -> None:
    """Absent and empty are the same."""
    for parameters in ({}, {"manifest_digest": {"string_value": ""}}):
        with pytest.raises(UsageError, match="manifest_digest"):
            read(parameters=parameters).required("manifest_digest")


@pytest.mark.parametrize(("given", "value"), [("", 1), ("4", 4), ("0", 0)])
def test_a_number_is_read_or_its_default_taken(given: str, value: int) -> None:
    """An option that is not set has the default of the backend."""
    spec = read(parameters={"n": {"string_value": given}})
    assert spec.integer("n", 1) == value
    assert spec.integer("absent", 7) == 7


def test_a_number_that_is_none_is_refused() -> None:
    """Names the parameter and what it was set to."""
    with pytest.raises(UsageError, match="n to 'four'"):
        read(parameters={"n": {"string_value": "four"}}).integer("n", 1)


@pytest.mark.parametrize(
    "item",
    [
        {"name": "a", "data_type": "TYPE_STRING", "dims": [2]},
        {"name": "a", "data_type": "TYPE_FP32", "dims": [2], "reshape": {"shape": [1, 2]}},
    ],
)
def test_what_no_contract_can_say_is_refused(item: dict[str, Any]) -> None:
    """Text tensors and reshapes are not served."""
    with pytest.raises(UsageError, match="a "):
        read(input=[item])


def test_a_configuration_that_fits_its_contract_passes() -> None:
    """With and without Triton's batching."""
    check_contract(read(), CONTRACT)
    unbatched = read(
        max_batch_size=0,
        input=[{"name": n, "data_type": "TYPE_FP32", "dims": [-1, 2]} for n in "ab"],
        output=[{"name": "action", "data_type": "TYPE_INT64", "dims": [-1, 1]}],
    )
    check_contract(unbatched, CONTRACT)


@pytest.mark.parametrize(
    "changes",
    [
        {"input": json.loads(text())["input"][::-1]},
        {"input": json.loads(text())["input"][:1]},
        {"output": [{"name": "action", "data_type": "TYPE_INT32", "dims": [1]}]},
        {"output": [{"name": "action", "data_type": "TYPE_INT64", "dims": [2]}]},
        {"max_batch_size": 0},
        {"parameters": {"contract": {"string_value": "{}"}}},
    ],
)
def test_a_configuration_that_does_not_fit_its_contract_is_refused(changes: dict[str, Any]) -> None:
    """Order, number, type, shape, the batch dimension, and the contract shown to clients."""
    with pytest.raises(UsageError, match=r"config\.pbtxt"):
        check_contract(read(**changes), CONTRACT)


@pytest.mark.parametrize("largest", [0, 8])
def test_a_configuration_with_larger_batches_than_the_contract_allows_is_refused(largest: int) -> None:
    """A policy that is right one row at a time is never given more, by any configuration."""
    one = replace(CONTRACT, max_batch=1)
    check_contract(read(max_batch_size=1), one)
    with pytest.raises(UsageError, match=r"the contract allows 1 rows|must begin with -1"):
        check_contract(read(max_batch_size=largest), one)


def test_an_artifact_that_fits_passes() -> None:
    """Types that the artifact does not tell, and outputs beyond the contract, are no objection."""
    check_artifact("input", {"a": "float32", "b": None}, CONTRACT.observations, filename="m")
    check_artifact("output", {"action": "int64", "more": "float32"}, CONTRACT.outputs, filename="m")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"a": "float32"}, "m has no input 'b', it has a"),
        ({"a": "float32", "b": "float64"}, "input 'b' is float64, the contract says float32"),
        ({"a": "float32", "b": "float32", "c": "float32"}, "m wants input c"),
    ],
)
def test_an_artifact_that_does_not_fit_is_refused(found: dict[str, str | None], words: str) -> None:
    """Names the file, the tensor, and both types."""
    with pytest.raises(UsageError, match=words):
        check_artifact("input", found, CONTRACT.observations, filename="m")
