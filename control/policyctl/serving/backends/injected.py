"""Faults of a known size that tests put into a backend, by parameters of ``config.pbtxt``.

Such a parameter is refused, and the model with it, unless the server was
started with `VARIABLE` set to ``1`` in its environment: no configuration alone
can make a real server slow or leaky.
"""

from __future__ import annotations

import os
from typing import Final

from policyctl.errors import UsageError
from policyctl.serving.backends.spec import ModelSpec

VARIABLE: Final = "ALLOW_POLICYCTL_SPIN"


def injected(spec: ModelSpec, parameter: str, *, does: str, tests: str) -> int:
    """The size of a fault; 0 unless configured.

    Args:
        spec: Of the model.
        parameter: Which fault.
        does: What it does, for the refusal: "slows a model down".
        tests: What it is for.

    Raises:
        UsageError: It is configured, and this server was not started for tests; or it is negative.
    """
    found = spec.integer(parameter, 0)
    if found and os.environ.get(VARIABLE) != "1":
        raise UsageError(
            f"config.pbtxt sets {parameter}, which {does} and is for tests alone",
            remedy=f"Remove the parameter; or, for a test of {tests}, start the server with {VARIABLE}=1.",
        )
    if found < 0:
        raise UsageError(f"config.pbtxt sets {parameter} to {found}, expected 0 or more")
    return found
