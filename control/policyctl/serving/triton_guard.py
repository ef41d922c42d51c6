"""Whether the embedded Triton is kept from crashing, by a small library that is compiled with the native backend.

Triton 2.51 can be ended by what clients send: a huge shape, deep JSON, memory
that is cut short, calls that are cancelled, requests that are traced. The
library is preloaded into the embedded server, whose environment `command`
makes, and prevents each of these (docs/guard.md): ``backend_openvino/src/*guard.cpp``.
It ends a tritonserver that it does not fit, so one that runs with it is guarded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from policyctl.serving.compiled import how_to_have_them

LIBRARY: Final = "libtriton_guard.so"
MENDED: Final = (2, 58)
"""Triton 25.05; the mending came when 25.04 was on its way out."""

REMEDY: Final = (
    f"For the guard: {how_to_have_them()}. Then start policyctl serve again, or use Triton 25.05 or later."
    " POLICYCTL_TRACING__UNGUARDED=true takes the risk."
)
_BESIDE: Final = Path(__file__).resolve().parent / LIBRARY
_VERSION: Final = re.compile(r"(\d+)\.(\d+)")


def find(library: Path = _BESIDE) -> Path | None:
    """The library; None where nobody built it."""
    return library if library.is_file() else None


def limits(request_bytes: int, hosts: Sequence[str]) -> dict[str, str]:
    """What the library lets through, as it reads it from the server's environment.

    Args:
        request_bytes: The largest request.
        hosts: Names by which HTTP clients may call the server; the machine's own name always is one.
    """
    return {"TRITON_GUARD_REQUEST_BYTES": str(request_bytes), "TRITON_GUARD_HOSTS": ",".join(hosts)}


def is_loaded(pid: int) -> bool:
    """Whether process `pid` has it: the loader goes on without a library that it cannot preload."""
    try:
        return LIBRARY in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def is_mended(version: str) -> bool:
    """Whether Triton of this version needs no guard; False where the version says nothing."""
    match = _VERSION.match(version)
    return match is not None and (int(match[1]), int(match[2])) >= MENDED
