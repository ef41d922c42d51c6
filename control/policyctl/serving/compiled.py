"""How to have the compiled libraries, where they are missing.

They are in the wheel for this platform; a checkout compiles them. A person who
installed a wheel has no make, so the advice depends on which of the two this is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_SOURCES: Final = Path(__file__).resolve().parents[3] / "backend_openvino" / "build.py"


def how_to_have_them(sources: Path = _SOURCES) -> str:
    """What to do, as a clause without a capital and without a full stop.

    Args:
        sources: What compiles them, in a checkout.
    """
    if sources.is_file():
        return "make native (needs g++)"
    return "install policyctl from its wheel for this platform (manylinux, x86-64), which has it"
