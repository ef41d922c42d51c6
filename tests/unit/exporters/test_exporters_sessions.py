"""What an export certifies is what serves: artifacts are run as both backends of OpenVINO compile them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policyctl.domain.artifacts import Format
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.tensor import TensorSpec
from policyctl.sessions import openvino as session
from policyctl_exporters import export_policy
from policyctl_exporters.runtimes import runners

WIDE = Contract(
    (TensorSpec("obs", "float64", (4,)),), (TensorSpec("action", "float64", (3,)),), action_kind=ActionKind.CONTINUOUS
)


@pytest.mark.case
def test_float64_is_proved_as_the_native_backend_compiles_it(
    case: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces of fixed size OpenVINO cannot compile float64 at an edge: without a conversion the export finds it."""
    source = case("onnx_float64_native") / "double_io.onnx"
    result = export_policy(source, tmp_path / "out", formats=["openvino"])
    rows = {"obs": np.random.default_rng(0).standard_normal((7, 4))}
    answers = [run(rows)["action"] for run in runners(Format.OPENVINO, result.output, result.contract).values()]
    assert len(answers) == 2
    assert answers[0].dtype == np.float64
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)

    monkeypatch.setattr(session, "_without_float64", lambda model: model)
    with pytest.raises(Exception, match="f64"):
        runners(Format.OPENVINO, result.output, WIDE)


def test_what_float32_cannot_hold_becomes_its_largest_number(tmp_path: Path) -> None:
    """As inside OpenVINO: an observation of 1e300 is no infinity to the policy, and NaN stays NaN."""
    import openvino as ov
    from openvino import opset13 as ops

    given = ops.parameter([-1, 4], np.float64, name="obs")
    graph = ov.Model([ops.multiply(given, np.float64(1))], [given], "echo")
    graph.inputs[0].get_tensor().set_names({"obs"})
    graph.outputs[0].get_tensor().set_names({"action"})
    ov.save_model(graph, tmp_path / "model.xml", compress_to_fp16=False)
    echo = Contract(WIDE.observations, (TensorSpec("action", "float64", (4,)),), action_kind=ActionKind.CONTINUOUS)
    largest = float(np.finfo(np.float32).max)
    for run in runners(Format.OPENVINO, tmp_path, echo).values():
        found: Any = run({"obs": np.array([[1e300, -1e300, 0.5, np.nan]])})["action"]
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, [[largest, -largest, 0.5, np.nan]])


@pytest.mark.parametrize(
    "module", ["policyctl.sessions.openvino", "policyctl.sessions.quiet_openvino", "openvino"], ids=str
)
def test_openvino_tells_nobody_that_it_is_imported(tmp_path: Path, module: str) -> None:
    """It would send an event to Google Analytics by another package, which it finds when it is imported by itself."""
    (tmp_path / "openvino_telemetry").mkdir()
    marker = tmp_path / "sent"
    (tmp_path / "openvino_telemetry" / "__init__.py").write_text(
        f"open({str(marker)!r}, 'w').close(); raise ImportError"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", f"import {module}"], env=environment, check=True, timeout=120)
    assert marker.exists() is (module == "openvino")
