"""What a running `policyctl serve` is set to, where other commands find it.

A small file beside the server's own, readable by its owner alone, with every
secret masked. It holds what is in force, not what the files say: a setting that
waits for a restart is told as waiting.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.repository import Repository

FILE: Final = "settings.json"


@dataclass(frozen=True, slots=True)
class Running:
    """Settings in force.

    Attributes:
        supervisor_pid: Of the `policyctl serve` that they are of.
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

    supervisor_pid: int
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
    repository.write(repository.control / FILE, json.dumps(asdict(running)).encode(), mode=0o600)


def read(repository: Repository) -> Running | None:
    """What the running server is set to; None where none runs, or it did not say."""
    found = endpoints.read(repository)
    try:
        running = Running(**json.loads((repository.control / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return running if found is not None and running.supervisor_pid == found.supervisor_pid else None


def clear(repository: Repository) -> None:
    """The server is gone; what another one wrote stays."""
    with suppress(OSError, ValueError, TypeError):
        path = repository.control / FILE
        if json.loads(path.read_text())["supervisor_pid"] == os.getpid():
            path.unlink()
