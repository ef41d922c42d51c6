"""Read what Triton's own tracing writes: files of requests with their tensors.

The files look like JSON and are not always: 8-bit elements stand in them as
raw bytes, and a request id with a quote is not escaped. So they are read by
their known pieces, byte by byte. What does not fit is skipped, and a request
of which any piece stands twice is dropped, because a client could have written
the second one into its request id. Elements of type float16 are left empty by
Triton, so policies with such observations cannot be recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.recording import Traced
from policyctl.plain_files import read_plain

_PIECE = re.compile(
    rb'\{"id":(?P<id>\d+),(?:'
    rb'"model_name":"(?P<model>[^"\\]*)","model_version":(?P<slot>-?\d+)'
    rb'(?:,"request_id":"(?P<request>[^"\\]*)")?(?:,"parent_id":\d+)?\}'
    rb'|"timestamps":\[\{"name":"(?P<stamp>\w+)","ns":(?P<ns>\d+)\}\]\}'
    rb'|"activity":"(?P<activity>\w+)","tensor":\{"name":"(?P<tensor>\w+)","data":"'
    # Bytes separated by commas first: one of them may be a quote.
    rb'(?P<data>(?:[\x00-\xff],)*[\x00-\xff]|[^"]*)","shape":"(?P<shape>[\d,]+)","dtype":"(?P<dtype>\w+)"\}\})'
)
_ENDS: Final = (b"]}]", b"}}]", b'"}]')
"""How a file ends that is written whole; a piece of one never ends so."""

_MOST_BYTES: Final = 1 << 30

_TYPES: Final = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP32": "float32",
    "FP64": "float64",
}


@dataclass(slots=True)
class _Request:
    """The pieces of one request."""

    served: str = ""
    slot: int = 0
    request_id: str = ""
    start_ns: int = 0
    inputs: dict[str, NDArray[Any]] = field(default_factory=dict)
    outputs: dict[str, NDArray[Any]] = field(default_factory=dict)
    broken: bool = False


def parse(content: bytes) -> tuple[Traced, ...]:
    """Every whole request in one trace file.

    Args:
        content: The file.
    """
    found: dict[int, _Request] = {}
    for piece in _PIECE.finditer(content):
        request = found.setdefault(int(piece["id"]), _Request())
        if piece["model"] is not None:
            request.broken |= bool(request.served)
            request.served, request.slot = piece["model"].decode("utf-8", "replace"), int(piece["slot"])
            request.request_id = (piece["request"] or b"").decode("utf-8", "replace")
        elif piece["stamp"] == b"REQUEST_START":
            request.broken |= bool(request.start_ns)
            request.start_ns = int(piece["ns"])
        elif piece["activity"] in {b"TENSOR_QUEUE_INPUT", b"TENSOR_BACKEND_OUTPUT"}:
            tensors = request.inputs if piece["activity"] == b"TENSOR_QUEUE_INPUT" else request.outputs
            array, name = _array(piece), piece["tensor"].decode()
            request.broken |= array is None or name in tensors
            if array is not None:
                tensors[name] = array
    return tuple(
        Traced(r.served, r.slot, r.request_id, r.start_ns, r.inputs, r.outputs)
        for r in found.values()
        if not r.broken and r.served and r.start_ns and r.inputs
    )


def _array(piece: re.Match[bytes]) -> NDArray[Any] | None:
    """One tensor; None where its text is not what its type and shape say."""
    dtype, data = _TYPES.get(piece["dtype"].decode()), piece["data"]
    shape = tuple(int(d) for d in piece["shape"].split(b","))
    if dtype is None:
        return None
    if dtype in {"uint8", "int8"}:
        flat = np.frombuffer(data[::2], dtype=dtype).copy()
    else:
        try:
            text = data.decode().split(",")
            if dtype.startswith("float"):
                flat = np.array([float(v) for v in text]).astype(dtype)
            else:
                # Not by way of a common type, which for large unsigned ones would be a float.
                flat = np.array([int(v) for v in text], dtype=dtype)
        except (ValueError, OverflowError):
            return None
    return flat.reshape(shape) if flat.size == np.prod(shape, dtype=np.int64) else None


@dataclass(slots=True)
class TraceFiles:
    """The files that one server writes, taken as they become whole, and removed.

    Attributes:
        prefix: Triton's ``trace_file``; a file is called so with a dot and a number.
    """

    prefix: Path
    _before: dict[Path, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What was there before belongs to an earlier recording.
        self._before = {path: path.stat().st_mtime_ns for path in self._paths()}

    def _paths(self) -> Iterator[Path]:
        pattern = re.compile(re.escape(self.prefix.name) + r"(\.\d+)?")
        with suppress(FileNotFoundError):
            yield from sorted(p for p in self.prefix.parent.iterdir() if pattern.fullmatch(p.name))

    def take(self) -> tuple[Traced, ...]:
        """The requests of every file that is whole by now."""
        found: list[Traced] = []
        for path in self._paths():
            with suppress(OSError):  # it is gone, or no file of Triton's
                if self._before.get(path) == path.stat().st_mtime_ns:
                    continue
                content = read_plain(path, most_bytes=_MOST_BYTES)
                if content.startswith(b"[") and content.endswith(_ENDS):
                    found += parse(content)
                    path.unlink()
        return tuple(found)

    def remove(self) -> None:
        """Remove every file that came since, whole or not."""
        for path in self._paths():
            with suppress(FileNotFoundError):
                if self._before.get(path) != path.stat().st_mtime_ns:
                    path.unlink()
