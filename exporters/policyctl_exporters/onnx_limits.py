"""Which numbers an ONNX file takes where it takes a single one: an index of frames, a step of a schedule.

A tracker of motions looks its frames up by a number, and fails beyond the last
one. No space says so, so the file is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from policyctl.errors import UsageError
from policyctl_exporters.onnx_file import OnnxFile, Port
from policyctl_exporters.onnx_rows import Feed

Limits = tuple[float | None, float | None]
_FAR: Final = 1_000_000
"""No motion has so many frames."""
_LEAST, _MOST = -(2**24), 2**24


def limits_of(file: OnnxFile) -> dict[str, Limits]:
    """The least and the largest number of each input of one element that fails beyond one of them; None where open.

    Whole numbers of 64 bits lie within those that float32 holds, for OpenVINO computes others less exactly.
    """
    found: dict[str, Limits] = {}
    for port in file.inputs:
        if not port.is_tensor or port.dtype == "bool" or math.prod(dim or 1 for dim in port.dims) != 1:
            continue
        wide = port.dtype in ("int64", "uint64")
        open_ends: Limits = (float(_LEAST if port.dtype == "int64" else 0), float(_MOST)) if wide else (None, None)
        far = _FAR if port.dtype.startswith("float") else min(_FAR, int(np.iinfo(port.dtype).max))
        below, above = _takes(file, port, 0 if port.dtype.startswith("u") else -far), _takes(file, port, far)
        if (below and above) or not _takes(file, port, 0):
            ends = open_ends
        else:
            ends = (open_ends[0] if below else 0.0, open_ends[1] if above else float(_last(file, port, far)))
        if ends != (None, None):
            found[port.name] = ends
    return found


def limit_notes(file: OnnxFile, feeds: Sequence[Feed]) -> list[str]:
    """A sentence on each input that has such limits."""
    notes = []
    for feed in feeds:
        # Memory has no bounds: it comes from the policy.
        low, high = (feed.spec.low, feed.spec.high) if feed.port.name in file.limits else (None, None)
        ends = [f"{low:g} or more"] if low not in (None, _LEAST) else []
        ends += [f"{high:g} or less"] if high not in (None, _MOST) else []
        if ends:
            notes.append(f"{feed.spec.name} is {' and '.join(ends)}: {file.name} fails on other numbers")
        if low == _LEAST or high == _MOST:
            notes.append(f"{feed.spec.name} is at most {_MOST}: OpenVINO computes larger whole numbers less exactly")
    return notes


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
