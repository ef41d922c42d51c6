"""Exported policies of every type, with further outputs, squashed draws and one row at a time, on the real Triton."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from embedded import PATIENCE_S, Embedded, embedded
from gymnasium import spaces
from onnx import helper
from serving_fixtures import NATIVE, Server, config, needs_native, seal, serving

from policyctl.client import PolicyClient
from policyctl.domain.artifacts import CONTRACT_FILE, GOLDEN_FILE, Format
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.domain.tensor import DTYPES
from policyctl.errors import UsageError
from policyctl_exporters import export_policy

pytestmark = pytest.mark.server

KINDS = (Format.ONNX, Format.OPENVINO, pytest.param(NATIVE, marks=needs_native))
NUMBERS = tuple(name for name in DTYPES if name != "bool")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with every backend and no model."""
    root = tmp_path_factory.mktemp("outputs")
    with serving(root / "repository", root / "backends") as running:
        yield running


def serve(server: Server, exported: Path, kind: Any, model: str) -> Contract:
    """Put an export into a slot as it is, and load it by one backend."""
    slot = server.repository / model / "1"
    shutil.copytree(exported, slot)
    contract = Contract.from_json(json.loads((exported / CONTRACT_FILE).read_bytes()))
    digest = seal(slot, release="1.0.0", model=model.partition(".")[0]).digest
    (slot.parent / "config.pbtxt").write_text(config(kind, version=1, release="1.0.0", digest=digest, of=contract))
    assert server.load(model) == ""
    return contract


@pytest.fixture(scope="module")
def echoes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX policy that takes a tensor of each type and gives each back, doubled in length, next to its action."""
    types = {name: helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in DTYPES}
    nodes = [helper.make_node("Concat", [f"x_{name}"] * 2, [f"y_{name}"], axis=1) for name in DTYPES]
    nodes += [helper.make_node("Cast", [f"x_{name}"], [f"f_{name}"], to=types["float32"]) for name in DTYPES]
    nodes.append(helper.make_node("Sum", [f"f_{name}" for name in DTYPES], ["action"]))
    inputs = [helper.make_tensor_value_info(f"x_{name}", kind, ["n", 3]) for name, kind in types.items()]
    outputs = [helper.make_tensor_value_info("action", types["float32"], ["n", 3])]
    outputs += [helper.make_tensor_value_info(f"y_{name}", kind, ["n", 6]) for name, kind in types.items()]
    graph = helper.make_graph(nodes, "echoes", inputs, outputs)
    folder = tmp_path_factory.mktemp("echoes")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "echoes.onnx")
    heads = {f"y_{name}": "output" for name in DTYPES}
    observes = spaces.Dict({f"x_{name}": box(name) for name in DTYPES})
    result = export_policy(folder / "echoes.onnx", folder / "out", head=heads, observation_space=observes)
    assert result.failed == {}
    return folder / "out"


def box(name: str) -> spaces.Box:
    """Of what `values` gives: OpenVINO holds no more than 32 bits of an integer, so larger types have bounds."""
    kind = np.dtype(name)
    low, high = (0, 1) if kind.kind == "b" else (0 if kind.kind == "u" else -100, 100)
    if kind.kind in "iu" and kind.itemsize < 4:
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
    return spaces.Box(low, high, (3,), kind.type)


def values(name: str, rows: int, *, most: int = 100) -> Any:
    """Numbers that the type holds, its limits among them where 32 bits hold those as well."""
    if name == "bool":
        return np.arange(rows * 3).reshape(rows, 3) % 2 == 1
    kind = np.dtype(name)
    found = np.linspace(-most if kind.kind != "u" else 0, most, rows * 3).astype(kind)
    if kind.kind in "iu" and kind.itemsize < 4:
        found[:2] = np.iinfo(kind).min, np.iinfo(kind).max
    return found.reshape(rows, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_goes_in_and_comes_out_of_every_backend(server: Server, echoes: Path, kind: Any) -> None:
    """What an export certified loads and serves: each type as an observation and as an output, alone and in a batch."""
    model = f"echoes_{kind}".lower()
    contract = serve(server, echoes, kind, model)
    assert {spec.dtype for spec in contract.observations} == {spec.dtype for spec in contract.outputs} == set(DTYPES)
    for rows in (1, 7, 40):
        sent = {f"x_{name}": values(name, rows) for name in DTYPES}
        found = server.infer(model, sent, outputs=[spec.name for spec in contract.outputs])
        assert found.status == 200, found.error
        for name in DTYPES:
            # OpenVINO computes float64 in float32.
            near = 1e-6 if name == "float64" else 0.0
            np.testing.assert_allclose(found.outputs[f"y_{name}"], np.tile(sent[f"x_{name}"], 2), rtol=near)
        total = sum(array.astype(np.float32) for array in sent.values())
        np.testing.assert_allclose(found.outputs["action"], total, rtol=1e-5, atol=1e-3)


class Echo(torch.nn.Module):
    """Each input again in its type (a module takes floats in its own precision), next to an action."""

    def forward(self, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {f"y_{name}": torch.cat([x[name], x[name]], dim=1).to(getattr(torch, name[2:])) for name in x}
        found["action"] = torch.stack([value.to(torch.float32) for value in x.values()]).sum(dim=0)
        return found


def test_every_type_of_number_goes_through_torchscript(server: Server, tmp_path: Path) -> None:
    """The same by PyTorch's backend; gymnasium has no space of truth values, which are integers there."""
    export_policy(
        Echo(),
        tmp_path / "out",
        formats=["torchscript"],
        observation_space=spaces.Dict({f"x_{name}": box(name) for name in NUMBERS}),
        action_space=spaces.Box(-np.inf, np.inf, (3,)),
    )
    contract = serve(server, tmp_path / "out", Format.TORCHSCRIPT, "echoes_torchscript")
    assert {spec.dtype for spec in contract.further} == set(NUMBERS)
    for rows in (1, 7):
        sent = {f"x_{name}": values(name, rows) for name in NUMBERS}
        found = server.infer("echoes_torchscript", sent, outputs=[spec.name for spec in contract.further])
        assert found.status == 200, found.error
        for name in NUMBERS:
            near = 1e-6 if name == "float64" else 0.0
            np.testing.assert_allclose(found.outputs[f"y_x_{name}"], np.tile(sent[f"x_{name}"], 2), rtol=near)


@pytest.mark.case
@pytest.mark.parametrize("kind", KINDS)
def test_a_float64_policy_that_was_certified_is_served(
    server: Server, case: Callable[[str], Path], tmp_path: Path, kind: Any
) -> None:
    """Float64 in and out: every backend loads the very file that export proved, and answers its golden set."""
    export_policy(case("onnx_float64_native") / "double_io.onnx", tmp_path / "out")
    model = f"double_{kind}".lower()
    contract = serve(server, tmp_path / "out", kind, model)
    golden = Golden.from_bytes((tmp_path / "out" / GOLDEN_FILE).read_bytes(), contract)
    for rows in (1, 7, 40):
        sent = {name: array[:rows] for name, array in golden.observations.items()}
        found = server.infer(model, sent, outputs=["action"])
        assert found.status == 200, found.error
        assert found.outputs["action"].dtype == np.float64
        np.testing.assert_allclose(found.outputs["action"], golden.outputs["action"][:rows], atol=2e-5)


class Ratio(torch.nn.Module):
    """An action, and a further output that is NaN where the observation is zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"action": self.net(x), "ratio": x / x}


@pytest.mark.parametrize("kind", [*KINDS, Format.TORCHSCRIPT])
def test_nan_in_a_further_output_withholds_no_action(server: Server, tmp_path: Path, kind: Any) -> None:
    """The action does not depend on it, so who asks gets both."""
    box = spaces.Box(-1.0, 1.0, (3,))
    export_policy(Ratio(), tmp_path / "out", observation_space=box, action_space=spaces.Box(-9.0, 9.0, (2,)))
    model = f"ratio_{kind}".lower()
    serve(server, tmp_path / "out", kind, model)
    found = server.infer(model, {"observation": np.zeros((2, 3), np.float32)}, outputs=["action", "ratio"])
    assert found.status == 200, found.error
    assert np.isfinite(found.outputs["action"]).all()
    assert np.isnan(found.outputs["ratio"]).all()


THREE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
X = np.array([0.5, -0.4, 0.8], np.float32)


def _made(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("squashed", folder / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make()


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Embedded]]:
    """Publishes and promotes an export, on a server that runs."""
    with embedded(tmp_path_factory.mktemp("promoted")) as running:
        running.start()

        def promote(model: str, exported: Path, *options: str) -> Embedded:
            running.run("publish", str(exported), "--model", model, "--release", "1.0.0")
            running.run("promote", model, "1.0.0", *options)
            return running

        yield promote


@pytest.mark.case
@pytest.mark.parametrize("kind", ["module", "onnx"])
def test_draws_of_a_squashed_policy_are_squashed_for_its_clients(
    promoted: Any, case: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    """Its spread is e^-20: what a client draws is the deterministic action, [-0.95, 0.86]."""
    folder = case("squashed_gaussian_draws")
    source = _made(folder) if kind == "module" else folder / "sac.onnx"
    export_policy(source, tmp_path / "out", observation_space=THREE, action_space=spaces.Box(-2.0, 2.0, (2,)))
    running = promoted(f"squashed-{kind}", tmp_path / "out")
    with PolicyClient(f"squashed-{kind}", url=running.control.endpoint().grpc, deadline_s=PATIENCE_S) as client:
        certain = client.act(X).value
        drawn = client.act(X, deterministic=False, seed=1).value
    np.testing.assert_allclose(certain, [-0.95, 0.86], atol=5e-3)
    np.testing.assert_allclose(drawn, certain, atol=1e-5)


@pytest.mark.case
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_client_reads_further_outputs(
    promoted: Any, case: Callable[[str], Path], tmp_path: Path, protocol: str
) -> None:
    """Next to the action, by their names, of one observation and of a batch; nobody gets them unasked."""
    export_policy(case("onnx_outputs_dropped") / "tracker.onnx", tmp_path / "out")
    model = f"tracker-{protocol}"
    running = promoted(model, tmp_path / "out")
    url = getattr(running.control.endpoint(), protocol)
    row = {"obs": np.ones(4, np.float32), "time_step": np.array([0.5], np.float32)}
    with PolicyClient(model, url=url, protocol=protocol, deadline_s=PATIENCE_S) as client:
        assert set(client.act(row).outputs) == {"action"}
        found = client.act(row, outputs=["joint_pos"])
        np.testing.assert_allclose(found.value, [4.0, 4.0])
        np.testing.assert_allclose(found.outputs["joint_pos"], np.sin([0.5]), atol=1e-6)
        batch = {name: np.stack([array, 2 * array]) for name, array in row.items()}
        both = client.act_batch(batch, outputs=["joint_pos"])
        np.testing.assert_allclose(both.outputs["joint_pos"], np.sin([[0.5], [1.0]]), atol=1e-6)
        with pytest.raises(UsageError, match="output gone is not in the contract"):
            client.act(row, outputs=["gone"])


def masked(folder: Path) -> Path:
    """Prefers the last of three choices, of those that its mask of truth values allows."""
    nodes = [
        helper.make_node("MatMul", ["obs", "w"], ["scores"]),
        helper.make_node("Where", ["action_mask", "scores", "never"], ["logits"]),
    ]
    weights = {"w": np.array([[1, 2, 3]] * 4, np.float32), "never": np.float32(-1e9)}
    types = onnx.TensorProto
    ports = [("obs", types.FLOAT, ["n", 4]), ("action_mask", types.BOOL, ["n", 3]), ("logits", types.FLOAT, ["n", 3])]
    infos = [helper.make_tensor_value_info(*each) for each in ports]
    tensors = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "masked", infos[:2], infos[2:], tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "masked.onnx"
    )
    return folder / "masked.onnx"


@pytest.mark.parametrize("form", ["openvino", "onnx"])
def test_a_client_may_give_a_mask_of_truth_values_as_its_environment_gives_it(
    promoted: Any, tmp_path: Path, form: str
) -> None:
    """The file takes bool, the space says int8: the policy gets what its file wants, from either."""
    allowed = spaces.Dict({"obs": spaces.Box(-1.0, 1.0, (4,)), "action_mask": spaces.MultiBinary(3)})
    result = export_policy(masked(tmp_path), tmp_path / "out", observation_space=allowed)
    assert [spec.dtype for spec in result.contract.observations] == ["float32", "bool"]
    running = promoted(f"masked-{form}", tmp_path / "out", "--format", form)
    for protocol in ("grpc", "http"):
        url = getattr(running.control.endpoint(), protocol)
        with PolicyClient(f"masked-{form}", url=url, protocol=protocol, deadline_s=PATIENCE_S) as client:
            for dtype in (bool, np.int8):
                masks = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], dtype)
                rows = {"obs": np.ones((3, 4), np.float32), "action_mask": masks}
                assert client.act_batch(rows).value.reshape(-1).tolist() == [2, 1, 0]
                assert client.act({name: array[1] for name, array in rows.items()}).value == 1


def test_a_policy_of_one_row_is_certified_and_served_one_row_at_a_time(promoted: Any, tmp_path: Path) -> None:
    """Its golden set is answered, and a client that sends two rows hears of the limit before anything is sent."""
    weights = {"w": np.linspace(-1, 1, 8).astype(np.float32).reshape(4, 2), "one": np.array([1, 4])}
    nodes = [helper.make_node("Reshape", ["obs", "one"], ["x"]), helper.make_node("MatMul", ["x", "w"], ["actions"])]
    ports = [helper.make_tensor_value_info(n, 1, d) for n, d in (("obs", [1, 4]), ("actions", [1, 2]))]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "one", ports[:1], ports[1:], tensors)
    source = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    result = export_policy(source, tmp_path / "out")
    assert (result.contract.max_batch, result.failed) == (1, {})
    running = promoted("one-row", tmp_path / "out")
    with PolicyClient("one-row", url=running.control.endpoint().grpc, deadline_s=PATIENCE_S) as client:
        np.testing.assert_allclose(client.act(np.ones(4)).value, weights["w"].sum(axis=0), atol=1e-6)
        with pytest.raises(UsageError, match="at most 1"):
            client.act_batch(np.ones((2, 4)))
