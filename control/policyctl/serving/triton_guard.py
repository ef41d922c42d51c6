"""Whether the embedded Triton is kept from crashing, by a small library that `make native` builds.

Triton before 25.05 unlocks a trace's mutex in memory that it has freed (its
pull request 8144), and gives the state of a cancelled gRPC call back while
another thread is about to use it (7840, 8078). The library is preloaded into
the embedded server, whose environment `command` makes, and keeps both alive:
``backend_openvino/src/trace_guard.cpp`` and ``cancel_guard.cpp``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

LIBRARY: Final = "libtriton_guard.so"
MENDED: Final = (2, 58)
"""Triton 25.05; the mending came when 25.04 was on its way out."""

REMEDY: Final = (
    "Build the guard (make native; needs g++) and start policyctl serve again, or use Triton 25.05 or later."
    " POLICYCTL_TRACING__UNGUARDED=true takes the risk."
)
_BESIDE: Final = Path(__file__).resolve().parent / LIBRARY
_VERSION: Final = re.compile(r"(\d+)\.(\d+)")


def find(library: Path = _BESIDE) -> Path | None:
    """The library; None where nobody built it."""
    return library if library.is_file() else None


def is_loaded(pid: int) -> bool:
    """Whether process `pid` has it: the loader goes on without a library that it cannot preload."""
    try:
        return LIBRARY in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def is_mended(version: str) -> bool:
    """Whether Triton of this version needs no guard; False where the version says nothing."""
    found = _VERSION.match(version)
    return found is not None and (int(found[1]), int(found[2])) >= MENDED
