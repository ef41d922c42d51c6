"""The model card of an export: where it came from and how well it agrees.

It names files, never folders: a card is published, and the exporting machine
is nobody's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import yaml

from policyctl.domain.artifacts import Format
from policyctl.domain.parity import Tolerance
from policyctl.domain.tensor import TensorSpec
from policyctl_exporters.parity import Report
from policyctl_exporters.source import Source

SCHEMA_VERSION: Final = 1

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


def write_card(
    source: Source,
    reports: Mapping[Format, Report],
    *,
    tolerance: Tolerance,
    golden_rows: int,
    seed: int,
    created: datetime,
) -> str:
    """The card's YAML.

    Args:
        source: What was exported.
        reports: Parity by format.
        tolerance: What counted as agreement.
        golden_rows: Rows of the golden set.
        seed: Of the observations.
        created: When, with a time zone.
    """
    origin: dict[str, Any] = {"kind": source.kind, "algorithm": source.algorithm}
    if source.file is not None:
        origin |= {"file": source.file[0], "digest": source.file[1]}
    if source.framework is not None:
        origin["stable_baselines3"] = source.framework
    origin["normalizer"] = source.normalizer_file or ("live" if source.scales else None)
    card = {
        "schema": SCHEMA_VERSION,
        "created": created.isoformat(timespec="seconds"),
        "source": origin,
        "observations": [_tensor(spec) for spec in source.contract.observations],
        "outputs": [_tensor(spec) for spec in source.contract.outputs],
        "action_kind": source.contract.action_kind.value,
        "distribution": source.contract.distribution.kind.value,
        "tolerance": {"atol": tolerance.atol, "rtol": tolerance.rtol, "tie": tolerance.tie},
        "parity": {
            form.value: {
                "rows": report.rows,
                "near_ties": report.near_ties,
                "max_abs": {name: float(f"{value:.3g}") for name, value in report.max_abs.items()},
            }
            for form, report in reports.items()
        },
        "golden_rows": golden_rows,
        "seed": seed,
        "frameworks": _versions(),
    }
    return yaml.safe_dump(card, sort_keys=False, allow_unicode=False)


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype}[{', '.join(map(str, spec.shape))}]"


def _versions() -> dict[str, str]:
    found = {}
    for name in _FRAMEWORKS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
