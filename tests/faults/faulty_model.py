"""A Python-based backend that two parameters of ``config.pbtxt`` make slow or leaky; its ``model.py`` for Triton."""

from __future__ import annotations

import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

PIECE_BYTES = 4096
real: Any = import_module(f"policyctl.serving.backends.{Path(__file__).parent.name}.model")


class TritonPythonModel(real.TritonPythonModel):
    """The installed backend, with faults."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the sizes of both faults, then load."""
        parameters = json.loads(args["model_config"]).get("parameters", {})
        self.spin_us, self.leak_bytes = (
            int(parameters.get(f"policyctl_{name}", {}).get("string_value", 0)) for name in ("spin_us", "leak_bytes")
        )
        if min(self.spin_us, self.leak_bytes) < 0:
            raise ValueError("a fault has a negative size")
        self.owed_bytes, self.leaked = 0, []
        super().initialize(args)

    def _infer(self, arrays: Any, rows: int) -> Any:
        until = time.perf_counter_ns() + 1000 * self.spin_us
        while time.perf_counter_ns() < until:
            pass
        self.owed_bytes += self.leak_bytes * rows
        while self.owed_bytes >= PIECE_BYTES:
            # Zeros would take no memory: the kernel gives it when something else is written.
            self.leaked.append(b"\x01" * PIECE_BYTES)
            self.owed_bytes -= PIECE_BYTES
        return super()._infer(arrays, rows)
