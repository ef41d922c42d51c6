"""The two protocols by which a client asks Triton for actions."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Protocol(StrEnum):
    """How requests travel."""

    GRPC = "grpc"
    HTTP = "http"


CONTROL_REQUEST_ID: Final = "policyctl-control"
"""What the control plane calls its own requests (probes, certification), so that a recording can leave them out."""
