"""Puts backends with faults of a known size into a folder from which Triton loads its backends."""

from __future__ import annotations

import shutil
from pathlib import Path

SPIN_US = "policyctl_spin_us"
"""Parameter of ``config.pbtxt``: burn that much CPU time in every inference."""

LEAK_BYTES = "policyctl_leak_bytes"
"""Parameter of ``config.pbtxt``: keep that much memory for every observation."""

HERE = Path(__file__).resolve().parent


def put_into(folder: Path) -> Path:
    """Replace each Python-based backend in `folder` by the same one with faults; `folder` itself."""
    for model in folder.glob("*/model.py"):
        model.unlink()
        shutil.copyfile(HERE / "faulty_model.py", model)
    return folder
