"""Lets a server that a test starts serve by the backends with faults.

A test puts this folder on ``PYTHONPATH``, so each interpreter of that test
imports this module first. The wheel needs no door for faults.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from faults import put_into

CHANGED = "policyctl.serving.backend_directory"


class FaultyBackends(MetaPathFinder):
    """Finds the module that lays out the folder of backends, and changes what it lays."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """The installed module, with a loader that does more."""
        spec = PathFinder.find_spec(fullname, path) if fullname == CHANGED else None
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_change(module: Any) -> None:
            load(module)
            assemble = module.assemble
            module.assemble = lambda *args, **options: put_into(assemble(*args, **options))

        spec.loader.exec_module = load_and_change
        return spec


sys.meta_path.insert(0, FaultyBackends())
