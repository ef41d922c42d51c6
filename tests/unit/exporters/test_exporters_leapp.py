"""LEAPP bundles are served as one model with memory, and a release goes back into LEAPP's own runtime."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from policyctl.domain.memory import initial_states
from policyctl.errors import UnsupportedError, UsageError
from policyctl.services.releases.leapp import safetensors
from policyctl_exporters import export_policy
from policyctl_exporters.runtimes import runners

OBSERVED, ACTS, STEPS = 5, 3, 20
BEGIN = np.full((1, ACTS), 0.5, np.float32)
GUIDE = Path(__file__).parents[3] / "docs" / "export.md"
FILES = {"jit": "pt", "onnx": "onnx", "pt2": "pt2"}


class Policy(nn.Module):
    """It takes its last action."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(OBSERVED + ACTS, 8), nn.Tanh(), nn.Linear(8, ACTS))

    def forward(self, obs: Tensor, last: Tensor) -> Tensor:
        return self.net(torch.cat([obs, last], 1))


class Scale(nn.Module):
    def forward(self, raw: Tensor) -> Tensor:
        return (raw - 0.1) / 2.0


class Smooth(nn.Module):
    """It remembers by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(1, OBSERVED))

    def forward(self, raw: Tensor) -> Tensor:
        self.level = 0.5 * self.level + raw
        return self.level.clone()


def _tensor(name: str, size: int) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "shape": [1, size], "type": "tensor"}


def _node(folder: Path, name: str, module: nn.Module, backend: str, sizes: Mapping[str, int], gives: Any) -> Any:
    path, example = folder / f"{name}.{FILES[backend]}", tuple(torch.zeros(1, size) for size in sizes.values())
    match backend:
        case "jit":
            torch.jit.save(torch.jit.script(module.eval()), path)
        case "pt2":
            torch.export.save(torch.export.export(module.eval(), example), path)
        case _:
            names = {"input_names": [*sizes], "output_names": [gives[0]]}
            torch.onnx.export(module.eval(), example, str(path), dynamo=False, **names)
    return {
        "inputs": [_tensor(each, size) for each, size in sizes.items()],
        "outputs": [_tensor(*gives)],
        "parameters": {
            "model_path": path.name,
            "md5sum": "",
            "sha256sum": hashlib.sha256(path.read_bytes()).hexdigest(),
            "backend": backend,
            "warp_segments": 0,
        },
    }


def bundle(folder: Path, backend: str, before: tuple[nn.Module, str] | None = None) -> Path:
    """The policy, whose action flows back, and maybe a node before it."""
    folder.mkdir(exist_ok=True)
    models, flow, inputs = {}, {}, {"policy": ["obs"]}
    if before:
        models["pre"] = _node(folder, "pre", before[0], before[1], {"raw": OBSERVED}, ("features", OBSERVED))
        flow, inputs = {"pre/features": ["policy/obs"]}, {"pre": ["raw"]}
    models["policy"] = _node(folder, "policy", Policy(), backend, {"obs": OBSERVED, "last": ACTS}, ("action", ACTS))
    (folder / "walk_initial_values.safetensors").write_bytes(safetensors({"policy/last": BEGIN}))
    pipeline = {
        "data_flow": flow,
        "feedback_flow": {"policy/action": ["policy/last"]},
        "initial_values": "walk_initial_values.safetensors",
        "inputs": inputs,
        "outputs": {},
    }
    description = {"models": models, "pipeline": pipeline, "system information": {"leapp config version": "1.3"}}
    (folder / "walk.yaml").write_text(json.dumps(description))
    return folder / "walk.yaml"


def _right(rows: Any, before: nn.Module | None) -> list[Any]:
    """What the modules answer for one episode, in plain torch."""
    policy, last, found = Policy().eval(), torch.from_numpy(BEGIN), []
    with torch.no_grad():
        for row in rows:
            obs = torch.from_numpy(row[None])
            last = policy(before(obs) if before else obs, last)
            found.append(last.numpy())
    return found


def _check(path: Path, folder: Path, before: Any = None, **settings: Any) -> Any:
    """Two episodes in turn get, in every format, what the modules answer."""
    result = export_policy(path, folder / "out", golden_rows=8, **settings)
    assert result.failed == {}
    contract = result.contract
    rows = np.random.default_rng(0).standard_normal((2, STEPS, OBSERVED)).astype(np.float32)
    right = [_right(each, before() if before else None) for each in rows]
    (observation,) = [spec.name for spec in contract.environment]
    for form in result.formats:
        for run in runners(form, result.output, contract).values():
            memories = [initial_states(contract) for _ in rows]
            for step in range(STEPS):
                for caller, memory in enumerate(memories):
                    answer = run({observation: rows[caller, step : step + 1], **memory})
                    memories[caller] = {state.input: answer[state.output] for state in contract.states}
                    np.testing.assert_allclose(answer["action"], right[caller][step], rtol=0, atol=2e-5)
    return result


@pytest.mark.parametrize("backend", ["jit", "onnx", "pt2"])
def test_one_node_is_served_with_what_flows_back_as_states(backend: str, tmp_path: Path) -> None:
    """The names are the description's, and an episode begins with the initial values."""
    formats = None if backend == "jit" else ["onnx"]
    contract = _check(bundle(tmp_path / "b", backend), tmp_path, formats=formats).contract
    assert [(state.input, state.initial) for state in contract.states] == [("last", 0.5)]
    assert [spec.name for spec in contract.environment] == ["obs"]
    assert contract.max_batch is None
    assert "leapp" in (tmp_path / "out" / "model_card.yaml").read_text()


@pytest.mark.parametrize(
    ("before", "first", "backend", "states"),
    [
        (Scale, "pt2", "jit", ["last"]),
        (Scale, "onnx", "onnx", ["last"]),
        (Smooth, "jit", "jit", ["last", "node_0_level"]),
    ],
)
def test_several_nodes_are_served_as_one_model(
    before: Any, first: str, backend: str, states: list[str], tmp_path: Path
) -> None:
    """What flows between them is within the model; what a node remembers by itself is memory too."""
    path = bundle(tmp_path / "b", backend, (before(), first))
    contract = _check(path, tmp_path, before, formats=["onnx"]).contract
    assert sorted(state.input for state in contract.states) == states
    assert [spec.name for spec in contract.environment] == ["raw"]


class Bare(nn.Module):
    """One row without a batch, as a script of a person has it."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy()

    def forward(self, obs: Tensor, last: Tensor) -> Tensor:
        return self.policy(obs.unsqueeze(0), last.unsqueeze(0)).squeeze(0)


def test_a_bundle_without_a_batch_is_served_one_row_at_a_time(tmp_path: Path) -> None:
    """Its tensors are rows; the contract says so by `max_batch`."""
    path = bundle(tmp_path / "b", "jit")
    models = json.loads(path.read_text())["models"]
    models["policy"] = _node(tmp_path / "b", "policy", Bare(), "jit", {"obs": OBSERVED, "last": ACTS}, ("action", ACTS))
    for tensor in (*models["policy"]["inputs"], *models["policy"]["outputs"]):
        tensor["shape"] = tensor["shape"][1:]
    _with(path, "models", value=models)
    (tmp_path / "b" / "walk_initial_values.safetensors").write_bytes(safetensors({"policy/last": BEGIN[0]}))
    contract = _check(path, tmp_path, formats=["onnx", "torchscript"]).contract
    assert contract.max_batch == 1
    assert contract.observations[0].shape == (OBSERVED,)


class Listed(Policy):
    """Its tensors in a list."""

    def forward(self, obs: Tensor, last: Tensor) -> list[Tensor]:
        action = self.net(torch.cat([obs, last], 1))
        return [action, action[:, :1]]


def test_tensors_in_a_list_have_the_names_of_the_description(tmp_path: Path) -> None:
    """By their places, as those of a tuple."""
    path = bundle(tmp_path / "b", "jit")
    models = json.loads(path.read_text())["models"]
    sizes = {"obs": OBSERVED, "last": ACTS}
    models["policy"] = _node(tmp_path / "b", "policy", Listed(), "jit", sizes, ("action", ACTS))
    models["policy"]["outputs"].append(_tensor("first", 1))
    _with(path, "models", value=models)
    _with(path, "pipeline", "outputs", value={"policy": ["action", "first"]})
    contract = _check(path, tmp_path, formats=["torchscript"]).contract
    assert "first" in [spec.name for spec in contract.further]


def test_nodes_that_cannot_be_one_model_are_refused_by_name(tmp_path: Path) -> None:
    """ONNX next to TorchScript: the refusal names both nodes."""
    path = bundle(tmp_path / "b", "onnx", (Scale(), "jit"))
    with pytest.raises(UnsupportedError, match=r"pre \(jit\), policy \(onnx\)"):
        export_policy(path, tmp_path / "out")


def _with(path: Path, *keys: Any, value: Any) -> None:
    document = json.loads(path.read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("keys", "value", "problem"),
    [
        (("models", "policy", "parameters", "sha256sum"), "0" * 64, "is not the model that it describes"),
        (("models", "policy", "parameters", "model_path"), "../policy.pt", "lies outside its folder"),
        (("models", "policy", "parameters", "model_path"), "gone.pt", "the model of policy is missing: gone.pt"),
        (("models", "policy", "parameters", "backend"), "trt", "a model of the backend trt"),
        (("models", "policy", "parameters", "warp_segments"), 1, "the node policy has Warp kernels"),
        (("pipeline", "inputs"), {}, "policy/obs does not come from one place"),
        (("pipeline", "data_flow"), {"policy/action": ["policy/obs"]}, "does not come from one place"),
        (("pipeline", "feedback_flow"), {"policy/no": ["policy/last"]}, "feedback_flow of the pipeline has policy/no"),
        (("pipeline", "initial_values"), "gone.safetensors", "the initial values are missing"),
        (("system information", "leapp config version"), "2.0", "version 2.0 of LEAPP's description, and 1 is read"),
        (("models", "policy", "inputs", 0, "shape"), [0, 5], "which no contract can hold"),
        (("pipeline",), None, "is not a description of LEAPP"),
    ],
)
def test_a_bundle_that_is_not_whole_is_refused_in_a_sentence(
    keys: tuple[Any, ...], value: Any, problem: str, tmp_path: Path
) -> None:
    """A changed model, a missing file, a flow that leads nowhere, another version."""
    path = bundle(tmp_path / "b", "jit")
    _with(path, *keys, value=value)
    with pytest.raises((UsageError, UnsupportedError), match=problem) as refusal:
        export_policy(path, tmp_path / "out")
    assert refusal.value.remedy
    assert not (tmp_path / "out").exists()


def test_damaged_initial_values_are_refused(tmp_path: Path) -> None:
    """Cut short, or of another shape than the input."""
    path = bundle(tmp_path / "b", "jit")
    values = tmp_path / "b" / "walk_initial_values.safetensors"
    whole = values.read_bytes()
    for content, problem in [
        (whole[:30], "is damaged, or no safetensors file"),
        (safetensors({"policy/last": np.zeros((1, 9), np.float32)}), r"has float32\[1, 9\] for policy/last"),
        (safetensors({"policy/obs": BEGIN}), "an initial value for policy/obs, to which nothing flows back"),
    ]:
        values.write_bytes(content)
        with pytest.raises(UsageError, match=problem):
            export_policy(path, tmp_path / "out")


@pytest.fixture
def published(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release of the policy with memory, and where its export is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(tmp_path / "models"))
    bundle(tmp_path / "pipeline", "jit", (Smooth(), "jit")).rename(tmp_path / "pipeline" / "pipeline.yaml")
    commands = re.findall(r"^policyctl (export \S+\.yaml .*)$", GUIDE.read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        done = run(*shlex.split(command))
        assert done.code == 0, done.err
    done = run("publish", "build/walk", "--model", "walk", "--release", "1.0.0")
    assert done.code == 0, done.err
    return tmp_path / "build" / "walk"


def test_units_in_a_bundle_are_those_of_the_contract_and_come_back(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """LEAPP has no field for them, and keeps what a tensor has in addition; what does not fit is refused."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(tmp_path / "models"))
    path = bundle(tmp_path / "pipeline", "onnx")
    said = json.loads(path.read_text())
    said["models"]["policy"]["inputs"][0]["units"] = [["m", "m/s", "rad", "rad/s", "1"]]
    said["models"]["policy"]["outputs"][0]["units"] = "N m"
    path.write_text(json.dumps(said))
    found = export_policy(path, tmp_path / "build", formats=["onnx"], golden_rows=8)
    assert found.contract.observations[0].units == ("m", "m/s", "rad", "rad/s", "1")
    assert found.contract.action.units == "N m"
    assert run("publish", str(tmp_path / "build"), "--model", "walk", "--release", "1.0.0").code == 0
    assert run("release", "export", "walk", "1.0.0", str(tmp_path / "leapp"), "--leapp").code == 0
    again = export_policy(tmp_path / "leapp" / "walk.yaml", tmp_path / "again", formats=["onnx"], golden_rows=8)
    assert [spec.units for spec in again.contract.environment] == [found.contract.observations[0].units]
    assert again.contract.action.units == "N m"
    said["models"]["policy"]["inputs"][0]["units"] = ["m"]
    path.write_text(json.dumps(said))
    with pytest.raises(UsageError, match="1 units, its shape"):
        export_policy(path, tmp_path / "other", formats=["onnx"], golden_rows=8)


def test_a_release_is_written_as_a_bundle_and_read_back(published: Path, run: Any, tmp_path: Path) -> None:
    """The commands of the guide; the bundle has the contract of the release, states and all."""
    commands = re.findall(r"^policyctl (release export .* --leapp)$", GUIDE.read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        done = run(*shlex.split(command))
        assert done.code == 0, done.err
        folder = Path(command.split()[-2])
        result = export_policy(folder / "walk.yaml", tmp_path / "again", formats=["onnx"], golden_rows=8)
        before = json.loads((published / "contract.json").read_text())
        after = result.contract.to_json()
        shown = ("name", "dtype", "shape")
        for key in ("observations", "outputs"):
            assert {tuple(map(str, map(t.get, shown))) for t in after[key] if not t["name"].endswith("_next")} <= {
                tuple(map(str, map(t.get, shown))) for t in before[key]
            }
        assert {s["input"]: s.get("initial") for s in after["states"]} == {
            s["input"]: s.get("initial") for s in before["states"]
        }
        # What is there is not overwritten, and a registry takes no folder.
        assert run(*shlex.split(command)).code == 2
    assert run("release", "export", "walk", "1.0.0", "oci://registry.example.com/walk", "--leapp").code == 2
    assert run("release", "export", "walk", "1.0.0", "dry", "--leapp", "--dry-run").code == 0
    assert not Path("dry").exists()


LOADS = """
import sys, json, torch, numpy as np
from leapp import InferenceManager
rows, acted = np.load(sys.argv[2]), []
manager = InferenceManager(sys.argv[1])
for row in rows:
    found = manager({manager.inputs[0]: torch.from_numpy(row[None])})
    acted.append(found["walk/action"].numpy()[0])
np.save(sys.argv[3], np.stack(acted))
"""


def test_leapp_itself_runs_a_release(published: Path, run: Any, tmp_path: Path) -> None:
    """Its own loader takes the bundle, and its episode is that of the policy."""
    pytest.importorskip("leapp", reason="the package leapp is not installed")
    assert run("release", "export", "walk", "1.0.0", "bundle", "--leapp").code == 0
    rows = np.random.default_rng(0).standard_normal((STEPS, OBSERVED)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    command = [sys.executable, "-c", LOADS, "bundle/walk.yaml", "rows.npy", "acted.npy"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    right = np.concatenate(_right(rows, Smooth()))
    np.testing.assert_allclose(np.load(tmp_path / "acted.npy"), right, rtol=0, atol=2e-5)


WRITES = """
import leapp, torch
from leapp import annotate
core = torch.nn.Linear(8, 3)
leapp.start(name="made")
last = torch.full((1, 3), 0.25)
for _ in range(2):
    obs, before = annotate.input_tensors("policy", {"obs": torch.randn(1, 5), "last": last})
    last = torch.tanh(core(torch.cat([obs, before], 1)))
    annotate.output_tensors("policy", {"action": last}, export_with="jit")
leapp.stop()
leapp.compile_graph(visualize=False)
"""


def test_a_bundle_of_leapp_itself_is_served(tmp_path: Path) -> None:
    """What `leapp.compile_graph()` writes is read as it is."""
    pytest.importorskip("leapp", reason="the package leapp is not installed")
    subprocess.run([sys.executable, "-c", WRITES], cwd=tmp_path, check=True, capture_output=True)
    contract = export_policy(
        tmp_path / "made" / "made.yaml", tmp_path / "out", formats=["torchscript"], golden_rows=8
    ).contract
    assert [(state.input, state.initial) for state in contract.states] == [("last", 0.25)]
