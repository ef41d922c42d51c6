"""What a setting and an option of the command line may both be, where nothing else defines it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

LONGEST_DRAIN_S: Final = 3600
"""A release that is to stay reachable for longer is pinned."""

MOST_CLIENTS: Final = 1024
"""That any measurement runs at a time: each is a thread of perf_analyzer, and more of them measure that one."""

STORE_SCHEMES: Final = ("s3://", "gs://", "az://", "file://")
"""How the address of an object store begins; ``file://`` is a folder that is used as one."""


def holds_secrets(address: str) -> bool:
    """Whether the address of a store has a user, a query or a fragment, where secrets stand.

    A key of a cloud may hold a slash, so ``@`` counts behind one, too; a folder's name may hold ``@``.
    """
    marks = "?#" if address.startswith("file:///") else "@?#"
    return any(mark in address for mark in marks)


class Engine(StrEnum):
    """Who runs the Triton that `policyctl serve` looks after."""

    EMBEDDED = "embedded"
    """`policyctl serve` itself, from the nvidia-pytriton wheel."""
    DOCKER = "docker"
    """`policyctl serve`, as a container of NVIDIA's image."""
    EXTERNAL = "external"
    """Somebody else: `url` says where."""


class Anonymous(StrEnum):
    """What a caller without a token may do, on this machine; from elsewhere nobody may do anything without one."""

    NONE = "none"
    """Nothing but ask whether the process lives."""
    READ = "read"
    """Look."""
