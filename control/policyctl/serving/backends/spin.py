"""A slow-down of a known size, for tests of the gates that must find one. Never for serving.

The parameter ``policyctl_spin_us`` of ``config.pbtxt`` makes a backend burn
that many microseconds of CPU in every inference. It is refused, and the model
with it, unless the server was started with `VARIABLE` set to ``1`` in its
environment, so that no configuration alone can slow a real server down.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

from policyctl.errors import UsageError
from policyctl.serving.backends.batching import Arrays
from policyctl.serving.backends.spec import ModelSpec

PARAMETER: Final = "policyctl_spin_us"
VARIABLE: Final = "ALLOW_POLICYCTL_SPIN"


def spin_us(spec: ModelSpec) -> int:
    """How long to spin in every inference; 0 unless configured.

    Raises:
        UsageError: It is configured, and this server was not started for tests; or it is negative.
    """
    found = spec.integer(PARAMETER, 0)
    if found and os.environ.get(VARIABLE) != "1":
        raise UsageError(
            f"config.pbtxt sets {PARAMETER}, which slows a model down and is for tests alone",
            remedy=f"Remove the parameter; or, for a test of the gates, start the server with {VARIABLE}=1.",
        )
    if found < 0:
        raise UsageError(f"config.pbtxt sets {PARAMETER} to {found}, expected 0 or more")
    return found


class SpinningSession:
    """A session that is slower than the one it holds by `spin_us` of CPU time a run."""

    def __init__(self, session: Any, spin_us: int) -> None:
        self._session, self._spin_ns = session, spin_us * 1000

    def run(self, inputs: Arrays) -> Arrays:
        """Spin, then compute."""
        until = time.perf_counter_ns() + self._spin_ns
        while time.perf_counter_ns() < until:
            pass
        answer: Arrays = self._session.run(inputs)
        return answer
