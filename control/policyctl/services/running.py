"""What a running `policyctl serve` is set to, where other commands find it.

A small file next to the server's own, readable by its owner alone, with every
secret masked. It holds what is in force, not what the files say. A setting that
waits for a restart is listed as waiting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.repository import Repository
from policyctl.plain_files import DOCUMENT_BYTES, read_json

FILE: Final = "settings.json"


@dataclass(frozen=True, slots=True)
class Running:
    """Settings in force.

    Attributes:
        supervisor: Names the run of `policyctl serve` that they are of (`Endpoint.supervisor`).
        profile: Which one holds; empty for none.
        files: The settings files that were read.
        settings: Every setting by its dotted name; secrets are masked.
        places: Where each was set that is not as by default.
        waiting: Settings that a restart would change, by name: in force and in the files.
        applied: How many reloads changed something.
        refused: How many were refused.
        unchanged: How many found nothing to change.
        last_applied_s: When one last changed something, seconds since the epoch; 0 for never.
    """

    supervisor: str
    profile: str
    files: Sequence[str]
    settings: Mapping[str, Any]
    places: Mapping[str, str]
    waiting: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    applied: int = 0
    refused: int = 0
    unchanged: int = 0
    last_applied_s: float = 0.0


def write(repository: Repository, running: Running) -> None:
    """Tell other commands.

    Raises:
        UsageError: The disk refuses.
    """
    repository.write_value(FILE, running, mode=0o600)


def read(repository: Repository) -> Running | None:
    """What the running server is set to; None where none runs, or it did not say.

    Raises:
        UsageError: A server runs, and this process may not read what it is set to.
    """
    found = endpoints.read(repository)
    if found is None:
        return None
    running = repository.read_value(FILE, Running)
    return running if running is not None and running.supervisor == found.supervisor else None


def clear(repository: Repository) -> None:
    """The server is gone; what another one wrote stays."""
    with suppress(OSError, ValueError, TypeError):
        path = repository.control / FILE
        if read_json(path, most_bytes=DOCUMENT_BYTES)["supervisor"] == endpoints.THIS_PROCESS:
            path.unlink()
