"""Puts the guides into the wheel, and marks one that carries the compiled backend as one for this platform.

Without the mark, the wheel would claim to run anywhere, and bring a library for one
kind of machine. A tree where nothing was compiled gives a pure wheel, which
serves with the Python-based backend.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "control/policyctl/serving/backends/openvino/libtriton_openvino.so"
MANUAL = "build/policyctl.1"
"""What `make wheel` wrote from the help; a tree without it gives a wheel without it."""
GUIDES = (
    *("docs/*.md", "docs/*/*.md"),
    *("alerts/*.yml", "alerts/rules/*.yml", "alerts/targets/*.yml"),
    *("grafana/dashboards/*.json", "grafana/provisioning/*/*.yml"),
    "examples/cpp/*",
)
"""What `policyctl docs` shows and writes; a tree without it gives a wheel without it."""


class PlatformWheel(BuildHookInterface[Any]):
    """Called by hatchling for each build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add guides and manual page, and set the wheel's tag; an editable install stays as it is.

        Args:
            version: What is built: ``standard`` or ``editable``.
            build_data: What hatchling builds by; changed in place.
        """
        if version != "standard":
            return
        root = Path(self.root)
        guides = [path for pattern in GUIDES for path in root.glob(pattern)]
        build_data["force_include"] |= {str(path): f"policyctl/guides/{path.relative_to(root)}" for path in guides}
        if (root / MANUAL).is_file():
            build_data["shared_data"][str(root / MANUAL)] = "share/man/man1/policyctl.1"
        if (root / LIBRARY).is_file():
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
