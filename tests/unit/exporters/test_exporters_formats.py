"""One format that cannot be written does not take the others with it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from policyctl.cli.main import main
from policyctl.domain.artifacts import FILES, Format
from policyctl.domain.contract import Contract
from policyctl.services.cards.check import check_folder
from policyctl_exporters import IncompleteExportError, export_policy, steps, writers


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A decision tree as scikit-learn writes it: ONNX Runtime computes it, OpenVINO knows no such operator."""
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["obs"],
        ["action"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0, 0, 0],
        nodes_values=[0.0, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights=[-1.0, 1.0],
    )
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", s]) for n, s in (("obs", 3), ("action", 1))]
    graph = helper.make_graph([node], "tree", ports[:1], ports[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "tree.onnx")
    return tmp_path / "tree.onnx"


def test_a_default_format_that_fails_is_left_out_in_words(tree: Path, tmp_path: Path) -> None:
    """What can be written is a whole export; the reason for the rest is said and kept in the result."""
    words: list[str] = []
    result = export_policy(tree, tmp_path / "out", progress=words.append)
    assert result.formats == (Format.ONNX,)
    assert "TreeEnsembleRegressor" in result.failed[Format.OPENVINO].problem
    assert any(line.startswith("openvino is left out: ") for line in words)
    assert not any((tmp_path / "out" / name).exists() for name in FILES[Format.OPENVINO])
    assert check_folder(tmp_path / "out").problems == ()


def test_a_format_that_was_named_fails_the_call_and_keeps_the_others(tree: Path, tmp_path: Path) -> None:
    """Who asked for it learns of it as an error; what was written is whole, and in the error."""
    with pytest.raises(IncompleteExportError, match="openvino: ") as failure:
        export_policy(tree, tmp_path / "out", formats=["openvino", "onnx"])
    assert failure.value.result.formats == (Format.ONNX,)
    assert failure.value.exit_code == 8
    contract = json.loads((tmp_path / "out" / "contract.json").read_bytes())
    assert Contract.from_json(contract) == failure.value.result.contract


@pytest.mark.parametrize(("formats", "code"), [([], 0), (["-f", "onnx", "-f", "openvino"], 8)])
def test_the_command_fails_where_it_was_asked_for_the_format(
    tree: Path, tmp_path: Path, formats: list[str], code: int, monkeypatch, capfd
) -> None:
    """The exit code is that of the format that failed; stdout has one document with what was written and why not."""
    arguments = ["policyctl", "export", str(tree), "-o", str(tmp_path / "out"), "--json", *formats]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as end:
        main()
    assert int(end.value.code or 0) == code
    document = json.loads(capfd.readouterr().out)
    assert document["formats"] == ["onnx"]
    assert "TreeEnsembleRegressor" in document["failed"]["openvino"]["problem"]
    assert (tmp_path / "out" / "model.onnx").exists()


def test_an_export_that_loses_every_format_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    """With nothing to publish there is no folder."""
    from policyctl.errors import UnsupportedError

    with pytest.raises(UnsupportedError, match="OpenVINO cannot convert"):
        export_policy(tree, tmp_path / "out", formats=["openvino"])
    assert not (tmp_path / "out").exists()


def test_a_format_that_does_not_end_is_left_out_too(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter that hangs costs its own format and the limit of one step, and nothing else."""
    late_s = 0.0

    def hang(*_: object) -> None:
        nonlocal late_s
        late_s = 1000.0
        while True:
            time.sleep(0.01)

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late_s)
    monkeypatch.setattr(steps, "time", clock)
    monkeypatch.setattr(writers, "write_openvino", hang)
    result = export_policy(tree, tmp_path / "out", step_limit_s=900)
    assert result.formats == (Format.ONNX,)
    assert "could not write openvino within 900 s" in result.failed[Format.OPENVINO].problem
    assert check_folder(tmp_path / "out").problems == ()
