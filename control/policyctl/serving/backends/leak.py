"""A leak of a known size, for tests of the soak that must find one. Never for serving.

The parameter ``policyctl_leak_bytes`` of ``config.pbtxt`` makes a backend keep
that many bytes for every observation that it answers, where `injected` allows
it.
"""

from __future__ import annotations

from typing import Any, Final

from policyctl.serving.backends.batching import Arrays
from policyctl.serving.backends.injected import injected
from policyctl.serving.backends.spec import ModelSpec

PARAMETER: Final = "policyctl_leak_bytes"
_PIECE: Final = 4096


def leak_bytes(spec: ModelSpec) -> int:
    """How much to keep for every observation; 0 unless configured.

    Raises:
        UsageError: It is configured, and this server was not started for tests; or it is negative.
    """
    return injected(spec, PARAMETER, does="fills the memory", tests="the soak")


class LeakingSession:
    """A session that never gives back `leak_bytes` for each row that it computes."""

    def __init__(self, session: Any, leak_bytes: int) -> None:
        self._session, self._leak_bytes = session, leak_bytes
        self._owed = 0
        self._kept: list[bytes] = []

    def run(self, inputs: Arrays) -> Arrays:
        """Compute, and keep some more."""
        answer: Arrays = self._session.run(inputs)
        self._owed += self._leak_bytes * len(inputs[0])
        while self._owed >= _PIECE:
            # Not zeros: the kernel would give those no memory before they are written to.
            self._kept.append(b"\x01" * _PIECE)
            self._owed -= _PIECE
        return answer
