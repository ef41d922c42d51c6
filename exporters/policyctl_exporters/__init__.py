"""Turn a trained policy into files that compute the same actions.

Importing this package is cheap: torch, onnx and openvino are loaded by the
first call that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policyctl_exporters.artifacts import ExportResult, FormatParity, IncompleteExportError
    from policyctl_exporters.export import export_policy
    from policyctl_exporters.sources import load_callable, load_reference

__all__ = [
    "ExportResult",
    "FormatParity",
    "IncompleteExportError",
    "export_policy",
    "load_callable",
    "load_reference",
]

_HOMES = {
    "ExportResult": "artifacts",
    "FormatParity": "artifacts",
    "IncompleteExportError": "artifacts",
    "export_policy": "export",
    "load_callable": "sources",
    "load_reference": "sources",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
