"""The generated configuration: protobuf reads it back, and its identity is what is served."""

from __future__ import annotations

import json

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from policyctl.adapters.pbtxt import (
    ServingOptions,
    contract_of,
    identity,
    max_batch_size,
    options_of,
    render,
    with_releases,
)
from policyctl.domain.artifacts import BACKENDS, FILES, Format
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.tensor import DTYPES, TensorSpec

TRITON_TYPES = {
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    **{f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
ACTION = TensorSpec("action", "float32", (2,), -1.0, 1.0)
CONTRACT = Contract((TensorSpec("observation", "float32", (3, 4)),), (ACTION,), ActionKind.CONTINUOUS)


def _render(contract=CONTRACT, *, options=None, **changes) -> str:
    values = {
        "release": "1.0.0",
        "slot": 7,
        "releases": {"7": "1.0.0", "8": "1.1.0"},
        "manifest_digest": "sha256:x",
        "format": Format.ONNX,
    }
    return render(contract, **{**values, **changes}, options=options or ServingOptions())


def _parse(text: str):
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_its_triton_type(dtype: str) -> None:
    """Inputs and outputs keep names, types and shapes, without the batch dimension."""
    contract = Contract((TensorSpec("x", dtype, (2, 3)),), (TensorSpec("action", dtype, (1,)),), ActionKind.CONTINUOUS)
    config = _parse(_render(contract))
    for tensor, name, dims in ((config.input[0], "x", [2, 3]), (config.output[0], "action", [1])):
        assert (tensor.name, list(tensor.dims)) == (name, dims)
        assert model_config_pb2.DataType.Name(tensor.data_type) == TRITON_TYPES[dtype]


@pytest.mark.parametrize("form", Format)
def test_every_format_names_its_backend_and_file(form: Format) -> None:
    """One slot, one backend, one file, and no model name."""
    config = _parse(_render(format=form))
    assert (config.backend, config.default_model_filename) == (BACKENDS[form], FILES[form][0])
    assert list(config.version_policy.specific.versions) == [7]
    assert config.name == ""


@pytest.mark.parametrize("gpu", [False, True])
def test_options_reach_the_configuration(gpu: bool) -> None:
    """Batching, instances, devices and the backend's own parameters; ours cannot be overridden by them."""
    options = ServingOptions(32, 150, 3, gpu, {"threads": "2", "release": "9.9.9", "contract": "{}"})
    config = _parse(_render(options=options))
    assert config.max_batch_size == max_batch_size(_render(options=options)) == 32
    assert config.dynamic_batching.max_queue_delay_microseconds == 150
    (group,) = config.instance_group
    assert (group.count, group.kind) == (3, group.KIND_GPU if gpu else group.KIND_CPU)
    assert config.parameters["threads"].string_value == "2"
    assert config.parameters["release"].string_value == "1.0.0"
    assert json.loads(config.parameters["contract"].string_value) == CONTRACT.to_json()


def test_a_policy_of_one_row_is_never_asked_for_more() -> None:
    """The contract's limit goes before the settings, and no size beyond it is preferred."""
    contract = Contract(CONTRACT.observations, CONTRACT.outputs, CONTRACT.action_kind, max_batch=4)
    text = _render(contract, options=ServingOptions(64, preferred_batch_sizes=(2, 4, 8)))
    assert (options_of(text).max_batch_size, options_of(text).preferred_batch_sizes) == (4, (2, 4))
    assert contract_of(text) == contract
    assert max_batch_size(_render(contract, options=ServingOptions(2))) == 2


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=30))
def test_a_feature_of_any_name_survives(name: str) -> None:
    """Quotes, line feeds, control characters and any script come back letter by letter."""
    contract = Contract((TensorSpec("o", "float32", (1,), features=(name,)),), (ACTION,), ActionKind.CONTINUOUS)
    text = _render(contract)
    text.encode()
    found = json.loads(_parse(text).parameters["contract"].string_value)
    assert Contract.from_json(found) == contract
    assert with_releases(text, {"7": "1.0.0", "8": "1.1.0"}) == text


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.integers(1, 99).map(str), st.just("1.0.0"), max_size=5))
def test_only_the_releases_map_is_no_part_of_the_identity(releases: dict[str, str]) -> None:
    """A placement stays the same when the model gets another release."""
    assert identity(_render(releases=releases)) == identity(_render())
    assert with_releases(_render(), releases) == _render(releases=releases)


CHANGES = [
    {"release": "1.0.1"},
    {"slot": 8},
    {"manifest_digest": "sha256:y"},
    {"format": Format.OPENVINO},
    {"options": ServingOptions(max_batch_size=63)},
    {"options": ServingOptions(max_queue_delay_us=1)},
    {"options": ServingOptions(instances=2)},
    {"options": ServingOptions(gpu=True)},
    {"options": ServingOptions(parameters={"a": "b"})},
    {"contract": Contract(CONTRACT.observations, (TensorSpec("action", "float32", (2,)),), ActionKind.CONTINUOUS)},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: next(iter(c)))
def test_everything_else_is_part_of_the_identity(change: dict) -> None:
    """What was certified under one configuration says nothing about any other."""
    assert identity(_render(**change)) != identity(_render())


def test_the_text_is_the_same_every_time() -> None:
    """The order in which options were given does not matter."""
    one = _render(options=ServingOptions(parameters={"a": "1", "b": "2"}), releases={"7": "x", "10": "y"})
    two = _render(options=ServingOptions(parameters={"b": "2", "a": "1"}), releases={"10": "y", "7": "x"})
    assert one == two
