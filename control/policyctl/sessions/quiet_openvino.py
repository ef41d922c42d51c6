"""OpenVINO, which says nothing to anybody.

`import openvino` sends an event to Google Analytics by the package `openvino_telemetry`, and waits for it, also
in a server. Without that package OpenVINO takes a stub. So everything imports OpenVINO from here.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # an import of it fails from now on

import openvino as ov  # noqa: E402 - after the line above
from openvino import opset10  # noqa: E402

__all__ = ["opset10", "ov"]
