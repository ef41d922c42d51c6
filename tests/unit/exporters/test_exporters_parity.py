"""An artifact that does not compute the policy's actions is never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from policyctl.domain.artifacts import Format
from policyctl.domain.contract import ActionKind, Contract, Distribution, DistributionKind
from policyctl.domain.golden import Golden
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import ParityError, UnsupportedError, UsageError
from policyctl_exporters import export_policy, parity, runtimes, writers

NAMES = ["x", "y", "z", "speed", "turn"]


def _perturb(path: Path, *, by: float) -> None:
    import onnx

    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 2 and values.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1 + by), tensor.name))
    onnx.save(model, path)


def test_changed_weights_are_caught_with_the_worst_observation(
    ppo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose weights are off by a thousandth fails, and the message says where and by how much."""
    honest = writers.write_onnx

    def dishonest(graph: Any, contract: Contract, path: Path) -> None:
        honest(graph, contract, path)
        _perturb(path, by=1e-3)

    monkeypatch.setattr(writers, "write_onnx", dishonest)
    with pytest.raises(ParityError) as failure:
        export_policy(ppo, tmp_path / "out", formats=["onnx"], feature_names=NAMES)
    message = str(failure.value)
    assert "onnx" in message
    assert "logits" in message
    assert "expected [" in message
    assert "found    [" in message
    assert "speed=" in message
    assert "allowed" in message
    assert not list(tmp_path.iterdir())


def test_an_earlier_export_survives_a_failed_one(ppo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replacing is all or nothing."""
    output = tmp_path / "out"
    export_policy(ppo, output, formats=["onnx"])
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    monkeypatch.setattr(writers, "write_torchscript", lambda *_, **__: 1 / 0)
    with pytest.raises(UnsupportedError, match="division by zero"):
        export_policy(ppo, output, formats=["torchscript"], force=True)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_batch_that_was_traced_in_is_caught() -> None:
    """A graph that is right at the batch size it was traced with, and only there, fails."""

    def runner(rows: Any) -> dict[str, Any]:
        size = len(rows["observation"])
        return {"action": np.zeros((size, 1), np.int64), "logits": np.full((size, 3), float(size == 64), np.float32)}

    rows = {"observation": np.zeros((70, 1), np.float32)}
    expected = {"action": np.zeros((70, 1), np.int64), "logits": np.ones((70, 3), np.float32)}
    with pytest.raises(ParityError, match="batch 1"):
        parity.check("test", runner, _contract(), [parity.Rows("usual", rows, expected, parity.TOLERANCE)])


def _contract() -> Contract:
    return Contract(
        observations=(TensorSpec("observation", "float32", (1,)),),
        outputs=(TensorSpec("action", "int64", (1,), 0.0, 2.0), TensorSpec("logits", "float32", (3,))),
        action_kind=ActionKind.DISCRETE,
        distribution=Distribution(DistributionKind.CATEGORICAL),
    )


def test_a_flip_at_a_near_tie_is_counted_and_a_real_flip_is_refused() -> None:
    """Where the policy scores both choices alike either may be taken; elsewhere none but its own."""
    rows = {"observation": np.zeros((2, 1), np.float32)}
    logits = np.array([[1.0, 1.0 + 1e-5, 0.0], [3.0, 0.0, 0.0]], np.float32)
    expected = {"action": np.array([[1], [0]]), "logits": logits}
    flipped_tie = {"action": np.array([[0], [0]]), "logits": logits}
    flipped_choice = {"action": np.array([[1], [1]]), "logits": logits}

    def runner(found: dict[str, Any]) -> Any:
        # Answers row by row: tell the rows apart by their position in the call.
        return lambda batch: {k: v[: len(batch["observation"])] for k, v in found.items()}

    def check(found: dict[str, Any]) -> parity.Report:
        original = parity.BATCHES
        try:
            parity.BATCHES = (64,)  # type: ignore[misc]
            group = parity.Rows("usual", rows, expected, parity.TOLERANCE)
            return parity.check("onnx", runner(found), _contract(), [group])
        finally:
            parity.BATCHES = original  # type: ignore[misc]

    assert check(flipped_tie).near_ties == 1
    with pytest.raises(ParityError, match="action"):
        check(flipped_choice)


def test_the_golden_set_has_no_near_ties() -> None:
    """A row is decided only if its best choice is clearly ahead."""
    outputs = {
        "action": np.array([[1], [0], [0]]),
        "logits": np.array([[1.0, 1.0 + 5e-4, 0.0], [3.0, 0.0, 0.0], [1.0, 0.99, 0.0]], np.float32),
    }
    assert parity.decided(_contract(), outputs, parity.TOLERANCE).tolist() == [False, True, True]


def test_the_default_tolerance_follows_the_outputs_and_stays_small() -> None:
    """It is 2e-5 for outputs of the order of 1, a millionth of large ones, never above a thousandth."""
    small = {"action": np.array([[0.5]], np.float32)}
    large = {"action": np.array([[1]]), "q_values": np.array([[-900.0, 0.01]], np.float32)}
    assert parity.fitted(small).atol == 2e-5
    assert parity.fitted(large).atol == pytest.approx(9e-4)
    assert parity.fitted(small, sensitivity=1e-5).atol == pytest.approx(8e-5)
    assert parity.fitted(small, sensitivity=1.0).atol == 1e-3
    assert parity.fitted({**small, "height": np.array([[1e6]], np.float32)}).atol == 2e-5
    half = {"action": np.array([[0.5]], np.float16)}
    assert (parity.fitted(small).rtol, parity.fitted(half).rtol) == (1e-4, pytest.approx(2 * 2**-10))


def test_measuring_sensitivity_leaves_the_weights_alone() -> None:
    """Moving each weight by its last digit moves the output a little, and then all is as before."""
    import torch

    from policyctl_exporters.eager import EagerGraph
    from policyctl_exporters.modules import open_module
    from policyctl_exporters.source import Options

    torch.manual_seed(0)
    net = torch.nn.Linear(4, 2)
    options = Options(observation_space=spaces.Box(-1.0, 1.0, (4,)), action_space=spaces.Box(-9.0, 9.0, (2,)))
    built = open_module(net, options, kind="module")
    before = net.weight.detach().clone()
    moved = EagerGraph(built.graph, built.contract).sensitivity({"observation": np.ones((3, 4), np.float32)}, seed=0)
    assert 0 < moved < 1e-6
    assert torch.equal(net.weight, before)


def test_the_same_seed_gives_the_same_golden_set(ppo: Any, tmp_path: Path) -> None:
    """Golden sets are reproducible byte by byte, and another seed gives another one."""
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        export_policy(ppo, tmp_path / name, formats=["onnx"], seed=seed, golden_rows=16)
        contents.append((tmp_path / name / "golden.npz").read_bytes())
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


@pytest.mark.parametrize("name", ["observation", "observation/observation"])
def test_recorded_observations_are_proved_and_kept(ppo: Any, tmp_path: Path, name: str) -> None:
    """What was recorded in the environment, or by `policyctl record`, is compared, and half of the golden set."""
    recorded = np.random.default_rng(5).normal(size=(300, 5)).astype(np.float32)
    np.savez(tmp_path / "recorded.npz", **{name: recorded})
    plain = export_policy(ppo, tmp_path / "plain", formats=["onnx"])
    result = export_policy(ppo, tmp_path / "out", formats=["onnx"], recorded=tmp_path / "recorded.npz")
    assert result.parity[0].rows == plain.parity[0].rows + 300
    golden = Golden.from_bytes((tmp_path / "out" / "golden.npz").read_bytes(), result.contract)
    known = {row.tobytes() for row in recorded}
    assert sum(row.tobytes() in known for row in golden.observations["observation"]) == 32


def test_recorded_observations_that_do_not_fit_are_refused(ppo: Any, tmp_path: Path) -> None:
    """Another shape is a usage error, not a broadcast."""
    with pytest.raises(UsageError, match="recorded observation has shape"):
        export_policy(ppo, tmp_path / "out", recorded=np.zeros((4, 3), np.float32))


def test_tensorrt_is_refused_where_it_cannot_run(ppo: Any, tmp_path: Path) -> None:
    """Without TensorRT or a GPU the refusal says what to run, and on which machine."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UnsupportedError, match="tensorrt") as refusal:
        export_policy(ppo, tmp_path / "out", formats=["onnx", "tensorrt"])
    assert "--format tensorrt" in refusal.value.remedy
    assert "GPU" in refusal.value.remedy
    assert not list(tmp_path.iterdir())


def test_a_folder_with_anything_in_it_is_left_alone(ppo: Any, tmp_path: Path) -> None:
    """Without force an export is not replaced, and even with force nothing else is."""
    output = tmp_path / "out"
    export_policy(ppo, output, formats=["onnx"])
    with pytest.raises(UsageError, match="not empty"):
        export_policy(ppo, output, formats=["onnx"])
    export_policy(ppo, output, formats=["openvino"], force=True)
    assert not (output / "model.onnx").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not an export"):
        export_policy(ppo, precious, formats=["onnx"], force=True)
    assert (precious / "thesis.tex").read_text() == "years of work"


def test_an_unknown_format_is_refused_with_the_known_ones(ppo: Any, tmp_path: Path) -> None:
    """The remedy lists what can be written."""
    with pytest.raises(UsageError) as refusal:
        export_policy(ppo, tmp_path / "out", formats=["tflite"])
    assert "openvino" in refusal.value.remedy


def test_openvino_weights_are_not_compressed(ppo: Any, tmp_path: Path) -> None:
    """The IR holds float32 weights; half precision would cost three digits."""
    export_policy(ppo, tmp_path / "out", formats=["openvino"])
    graph = (tmp_path / "out" / "model.xml").read_text()
    assert "FP16" not in graph
    assert "FP32" in graph


def test_importing_the_package_loads_no_framework() -> None:
    """The command line can import the exporters without paying for torch."""
    import subprocess
    import sys

    code = "import sys, policyctl_exporters; print({'torch', 'onnx', 'openvino'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_runner_covers_its_format(ppo: Any, tmp_path: Path) -> None:
    """The three CPU artifacts are opened from their files and give every output."""
    result = export_policy(ppo, tmp_path / "out")
    rows = {"observation": np.zeros((3, 5), np.float32)}
    for form in (Format.ONNX, Format.OPENVINO, Format.TORCHSCRIPT):
        found = runtimes.open_runner(form, tmp_path / "out", result.contract)(rows)
        assert {name: array.shape for name, array in found.items()} == {"action": (3, 1), "logits": (3, 4)}
