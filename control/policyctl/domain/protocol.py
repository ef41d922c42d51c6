"""The two protocols by which a client asks Triton for actions."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Protocol(StrEnum):
    """How requests travel."""

    GRPC = "grpc"
    HTTP = "http"


CONTROL_REQUEST_ID: Final = "policyctl-control"
"""What the control plane calls its own requests (probes, certification), so that a recording can leave them out.

One that a move makes has a slash and the move's id behind it.
"""


def control_request_id(move: str) -> str:
    """What to call a request of the control plane; `move` is empty outside a move."""
    return f"{CONTROL_REQUEST_ID}/{move}" if move else CONTROL_REQUEST_ID


def is_control_request(request_id: str) -> bool:
    """Whether the control plane made a request."""
    return request_id.partition("/")[0] == CONTROL_REQUEST_ID


def move_of(request_id: str) -> str:
    """The move that made a request; empty where none did."""
    return request_id.partition("/")[2] if is_control_request(request_id) else ""


REFUSED_METRIC: Final = "policyctl_refused_requests_total"
"""On Triton's page of metrics: requests that a Python-based backend answered with an error.

Triton 2.51 counts such a request as a success; see `serving.backends.refusals`.
"""
