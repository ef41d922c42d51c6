"""A slow-down of a known size, for tests of the gates that must find one. Never for serving.

The parameter ``policyctl_spin_us`` of ``config.pbtxt`` makes a backend burn
that many microseconds of CPU in every inference, where `injected` allows it.
"""

from __future__ import annotations

import time
from typing import Any, Final

from policyctl.serving.backends.batching import Arrays
from policyctl.serving.backends.injected import injected
from policyctl.serving.backends.spec import ModelSpec

PARAMETER: Final = "policyctl_spin_us"


def spin_us(spec: ModelSpec) -> int:
    """How long to spin in every inference; 0 unless configured.

    Raises:
        UsageError: It is configured, and this server was not started for tests; or it is negative.
    """
    return injected(spec, PARAMETER, does="slows a model down", tests="the gates")


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
