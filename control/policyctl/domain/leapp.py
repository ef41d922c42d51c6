"""Words of LEAPP's format that its writer and its reader here share.

Source:
    The package `leapp` 0.7, configuration version 1.3: `OutputKindEnum`, `GraphConfigs`; and the format safetensors.
"""

from __future__ import annotations

from typing import Final

from policyctl.domain.drive import DriveKind

CONTRACT: Final = "policyctl contract"
"""Among the settings of a pipeline (``configs``), which take any key: the contract of the release."""

TARGETS: Final = {
    DriveKind.POSITION: "target/joint/position",
    DriveKind.VELOCITY: "target/joint/velocity",
    DriveKind.TORQUE: "target/joint/torques",
}
"""The ``kind`` of an output that is a command as it stands."""

SAFETENSORS: Final = {"float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL"} | {
    f"{sign}int{bits}": f"{sign.upper() or 'I'}{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
"""What a safetensors file calls each type of a contract."""
