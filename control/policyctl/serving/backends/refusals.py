"""Count the requests that a Python-based backend answers with an error.

Triton 2.51 counts such a request as a success (a native backend says which of
its requests failed; Triton's Python backend does not), so neither its
statistics nor ``nv_inference_request_failure`` tell of them. This counter
stands next to those, on the same page of metrics.

Each process has its series. Triton 2.51 hands two processes that ask for
the same labels (two instances, or a version that is loaded again next to itself)
one series, and takes it away from both when the first of them ends.

Where Triton was built or started without metrics there is no counter, and
nothing else changes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from policyctl.domain.protocol import REFUSED_METRIC

_DESCRIPTION: Final = "Requests that a Python-based backend answered with an error; Triton counts them as successes."


class Reason(StrEnum):
    """Whose doing it was."""

    REQUEST = "request"
    """What the client sent cannot be answered."""
    POLICY = "policy"
    """The policy gave no action that could be sent."""


class Refusals:
    """The counter of one model version; it is there, at 0, from the load on.

    Args:
        triton: Triton's module of the Python backend.
        model: The Triton model.
        version: Its slot.
    """

    def __init__(self, triton: Any, *, model: str, version: str) -> None:
        self._counters: Mapping[Reason, Any] = {}
        self._family: Any = None  # it outlives its counters
        try:
            kind = triton.MetricFamily.COUNTER
            self._family = triton.MetricFamily(name=REFUSED_METRIC, description=_DESCRIPTION, kind=kind)
            labels = {"model": model, "version": version, "process": str(os.getpid())}
            self._counters = {
                reason: self._family.Metric(labels={**labels, "reason": reason.value}) for reason in Reason
            }
        except triton.TritonModelException as error:
            triton.Logger.log_warn(f"policyctl: refused requests are not counted ({error})")

    def count(self, reason: Reason) -> None:
        """One more."""
        if counter := self._counters.get(reason):
            counter.increment(1)

    def close(self) -> None:
        """Take the counters off the page, as Triton does with its own of an unloaded version."""
        self._counters = {}
        self._family = None
