"""Find the compiled OpenVINO backend, and say why it is not used where it is not.

The wheel of this platform has it; in a checkout, `make native` compiles
``backend_openvino/``. The library lies next to the Python-based backend of the
same name, which serves wherever the library cannot: where nobody compiled it, or
where another OpenVINO is installed than the one that it was compiled against.
Both read the same ``config.pbtxt``.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyctl.errors import UnsupportedError
from policyctl.serving.compiled import how_to_have_them
from policyctl.settings import NativeMode

LIBRARY: Final = "libtriton_openvino.so"
_BESIDE: Final = Path(__file__).resolve().parent / "backends" / "openvino" / LIBRARY
_NEEDED: Final = re.compile(rb"libopenvino\.so\.\d+")


@dataclass(frozen=True, slots=True)
class NativeBackend:
    """The compiled backend and what it was compiled against.

    Attributes:
        library: What Triton loads.
        openvino: Folder of the OpenVINO libraries that it needs.
    """

    library: Path
    openvino: Path


@dataclass(frozen=True, slots=True)
class Choice:
    """Which backend serves OpenVINO artifacts.

    Attributes:
        backend: The native one; None where the Python-based one serves.
        summary: Which, and why, for doctor and the log.
        remedy: What to do to have the native one; empty where nothing is to be done.
    """

    backend: NativeBackend | None
    summary: str
    remedy: str = ""


def choose(mode: NativeMode, *, library: Path = _BESIDE, libraries: Path | None = None) -> Choice:
    """Which backend serves OpenVINO artifacts here.

    Args:
        mode: What was asked for.
        library: The compiled backend.
        libraries: Folder of OpenVINO's libraries; looked up if not given.

    Raises:
        UnsupportedError: `mode` is on and the native backend cannot serve.
    """
    if mode is NativeMode.OFF:
        return Choice(None, "Python-based, as serving.native says")
    backend, why, remedy = _find(library, libraries)
    if backend is not None:
        return Choice(backend, f"native ({library.name})")
    if mode is NativeMode.ON:
        raise UnsupportedError(f"the native OpenVINO backend cannot serve: {why}", remedy=remedy)
    return Choice(None, f"Python-based: {why}", remedy)


def _find(library: Path, libraries: Path | None) -> tuple[NativeBackend | None, str, str]:
    try:
        needed = _NEEDED.search(library.read_bytes())
    except OSError:
        return None, "the native one is not built", f"For little more than half the latency: {how_to_have_them()}."
    folder = libraries or _openvino_libraries()
    if folder is None:
        return None, "openvino is not installed", "pip install 'policyctl[serve]'"
    if needed is None or not (folder / needed.group().decode()).is_file():
        name = "?" if needed is None else needed.group().decode()
        return None, f"the native one needs {name}, which {folder} has not", f"For the other one: {how_to_have_them()}."
    return NativeBackend(library, folder), "", ""


def _openvino_libraries() -> Path | None:
    """Where the wheel has its libraries; openvino is not imported."""
    spec = importlib.util.find_spec("openvino")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))).resolve() / "libs"
