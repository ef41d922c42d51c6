"""Exports of a policy that never answers, as somebody might publish one that was made elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from embedded import exported

from policyctl.domain.artifacts import CARD_FILE, FILES, PARITY_FILE, Format
from policyctl.domain.manifest import canonical_json, digest_of


def endless_export(folder: Path, form: Format) -> Path:
    """The export of a good policy whose one artifact is replaced by a graph with an endless loop."""
    shutil.copytree(exported(1), folder)
    for path in (folder / name for other in Format for name in FILES[other]):
        path.unlink(missing_ok=True)
    (folder / CARD_FILE).write_text("schema_version: 2\n")
    {Format.ONNX: _onnx, Format.OPENVINO: _openvino, Format.TORCHSCRIPT: _torchscript}[form](folder)
    parity = json.loads((folder / PARITY_FILE).read_text())
    parity["formats"] = {form.value: parity["formats"][form.value]}
    parity["formats"][form.value]["files"] = {n: digest_of((folder / n).read_bytes()) for n in FILES[form]}
    (folder / PARITY_FILE).write_bytes(canonical_json(parity))
    return folder


def _onnx(folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    def value(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    def same(before: str, after: str) -> onnx.NodeProto:
        return helper.make_node("Identity", [before], [after])

    body = helper.make_graph(
        [same("go", "go_on"), same("x", "y")],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, ["n", 2])],
        [value("go_on", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, ["n", 2])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["observation", "start", "end", "axis"], ["first"]),
            helper.make_node("Loop", ["", "true", "first"], ["action"], body=body),
        ],
        "endless",
        [value("observation", TensorProto.FLOAT, ["n", 4])],
        [value("action", TensorProto.FLOAT, ["n", 2])],
        [
            helper.make_tensor("true", TensorProto.BOOL, [], [True]),
            *(
                helper.make_tensor(name, TensorProto.INT64, [1], [n])
                for name, n in (("start", 0), ("end", 2), ("axis", 1))
            ),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / FILES[Format.ONNX][0])


def _openvino(folder: Path) -> None:
    import openvino

    _onnx(folder)
    source = folder / FILES[Format.ONNX][0]
    openvino.save_model(openvino.convert_model(source), folder / FILES[Format.OPENVINO][0], compress_to_fp16=False)
    source.unlink()


def _torchscript(folder: Path) -> None:
    import torch

    class Endless(torch.nn.Module):
        def forward(self, observation: torch.Tensor) -> torch.Tensor:
            x = observation[:, :2]
            while bool((x * 0 == 0).all()):
                x = x * 1.0
            return x

    torch.jit.script(Endless()).save(str(folder / FILES[Format.TORCHSCRIPT][0]))
