"""Which files a release holds, by format, and which backend serves each."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Format(StrEnum):
    """A form in which a policy is exported."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    TORCHSCRIPT = "torchscript"
    TENSORRT = "tensorrt"


FILES: Final[dict[Format, tuple[str, ...]]] = {
    Format.ONNX: ("model.onnx",),
    Format.OPENVINO: ("model.xml", "model.bin"),
    Format.TORCHSCRIPT: ("model.pt",),
    Format.TENSORRT: ("model.plan",),
}
"""Files of a format; the first is the one that `config.pbtxt` names."""

BACKENDS: Final[dict[Format, str]] = {
    Format.ONNX: "onnxruntime",
    Format.OPENVINO: "openvino",
    Format.TORCHSCRIPT: "pytorch",
    Format.TENSORRT: "tensorrt",
}

CONTRACT_FILE: Final = "contract.json"
GOLDEN_FILE: Final = "golden.npz"
PARITY_FILE: Final = "parity.json"
CARD_FILE: Final = "model_card.yaml"
MANIFEST_FILE: Final = "manifest.json"

REQUIRED: Final = (CONTRACT_FILE, GOLDEN_FILE, PARITY_FILE, CARD_FILE)
"""What every export holds next to the artifacts of at least one format."""

SOURCE_FILES: Final[dict[str, tuple[str, ...]]] = {
    "a Stable-Baselines3 or sb3-contrib archive": (".zip",),
    "TorchScript": (".pt", ".ts", ".pth", ".jit"),
    "an rsl_rl checkpoint": (".pt",),
    "torch.export": (".pt2",),
    "ONNX": (".onnx",),
    "the description of a LEAPP bundle": (".yaml", ".yml"),
}
"""Files that can be exported, and how the name of each ends."""

SOURCES: Final = (
    ", ".join(f"{what} ({', '.join(ends)})" for what, ends in SOURCE_FILES.items())
    + ", or FILE.py:callable or package.module:callable that returns a torch module"
)
"""The same in words, with sources that are not files."""
