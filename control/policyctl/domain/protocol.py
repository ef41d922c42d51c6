"""The two protocols by which a client asks Triton for actions."""

from __future__ import annotations

from enum import StrEnum


class Protocol(StrEnum):
    """How requests travel."""

    GRPC = "grpc"
    HTTP = "http"
