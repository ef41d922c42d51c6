"""The model card of an export: where it came from, what it is, and how well it agrees.

It names files, never folders: a card is published, and the exporting machine
is nobody's business. Fields that nobody has filled in yet stand in it as comments.
"""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from policyctl.card import derive, template
from policyctl_exporters.source import Source

_FRAMEWORKS: Final = (
    "policyctl",
    "torch",
    "stable-baselines3",
    "sb3-contrib",
    "gymnasium",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
)


def write_card(source: Source, *, contract: bytes, golden: bytes, parity: bytes, created: datetime | None) -> str:
    """The card's YAML.

    Args:
        source: What was exported.
        contract: contract.json.
        golden: golden.npz.
        parity: parity.json.
        created: When, with a time zone; None where only the journal is to say when it was published.
    """
    origin: dict[str, Any] = {"kind": source.kind}
    if source.file is not None:
        origin |= {"file": source.file[0], "digest": source.file[1]}
    if source.normalizer_file is not None:
        origin |= {"normalizer": source.normalizer_file[0], "normalizer_digest": source.normalizer_file[1]}
    elif source.scales:
        origin["normalizer"] = "live"
    return template.render(
        {
            "training": {**source.training, "algorithm": source.algorithm},
            **derive.sections(contract, golden, parity),
            "provenance": {
                **({} if created is None else {"created": created.isoformat(timespec="seconds")}),
                "source": origin,
                "exported_with": versions(),
            },
        }
    )


def versions() -> dict[str, str]:
    """Of everything that has a part in an export, where it is installed."""
    found = {}
    for name in _FRAMEWORKS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
