"""A leak of a known size, for tests of the soak that must find one. Never for serving.

The parameter ``policyctl_leak_bytes`` of ``config.pbtxt`` makes a backend keep
that many bytes for every observation that it answers. It is refused like
`spin.PARAMETER`, unless the server was started for tests.
"""

from __future__ import annotations

import os
from typing import Any, Final

from policyctl.errors import UsageError
from policyctl.serving.backends.batching import Arrays
from policyctl.serving.backends.spec import ModelSpec
from policyctl.serving.backends.spin import VARIABLE

PARAMETER: Final = "policyctl_leak_bytes"
_PIECE: Final = 4096


def leak_bytes(spec: ModelSpec) -> int:
    """How much to keep for every observation; 0 unless configured.

    Raises:
        UsageError: It is configured, and this server was not started for tests; or it is negative.
    """
    found = spec.integer(PARAMETER, 0)
    if found and os.environ.get(VARIABLE) != "1":
        raise UsageError(
            f"config.pbtxt sets {PARAMETER}, which fills the memory and is for tests alone",
            remedy=f"Remove the parameter; or, for a test of the soak, start the server with {VARIABLE}=1.",
        )
    if found < 0:
        raise UsageError(f"config.pbtxt sets {PARAMETER} to {found}, expected 0 or more")
    return found


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
