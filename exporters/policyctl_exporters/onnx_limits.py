"""Which numbers an ONNX file takes where it takes a single one: an index of frames, a step of a schedule.

A tracker of motions looks its frames up by a number, and fails beyond the last
one. No space says so, so the file is asked.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from policyctl.errors import UsageError
from policyctl_exporters.onnx_file import OnnxFile, Port

Limits = tuple[float | None, float | None]
_FAR: Final = 1_000_000
"""No motion has so many frames."""


def limits_of(file: OnnxFile) -> dict[str, Limits]:
    """The least and the largest number of each input of one element that fails beyond one of them; None where open."""
    found = {}
    for port in file.inputs:
        if not port.is_tensor or port.dtype == "bool" or math.prod(dim or 1 for dim in port.dims) != 1:
            continue
        far = _FAR if port.dtype.startswith("float") else min(_FAR, int(np.iinfo(port.dtype).max))
        below, above = _takes(file, port, -far if not port.dtype.startswith("u") else 0), _takes(file, port, far)
        if (below and above) or not _takes(file, port, 0):
            continue
        found[port.name] = None if below else 0.0, None if above else float(_last(file, port, far))
    return found


def _last(file: OnnxFile, port: Port, beyond: int) -> int:
    """The largest whole number below `beyond` that an input takes."""
    taken = 0
    while beyond - taken > 1:
        middle = (taken + beyond) // 2
        taken, beyond = (middle, beyond) if _takes(file, port, middle) else (taken, middle)
    return taken


def _takes(file: OnnxFile, port: Port, number: int) -> bool:
    """Whether the file answers zeros and this number."""
    feed = file.zeros()
    try:
        file.run({**feed, port.name: np.full_like(feed[port.name], number)})
    except UsageError:
        return False
    return True
