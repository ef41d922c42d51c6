"""How much is logged, changed while the server runs.

The settings say it, and `policyctl log-level` says otherwise until it is reset:
its wish is a small file, which the supervisor reads each second, and which
outlives a restart of tritonserver or of the supervisor.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from policyctl.domain.log_event import LogLevel
from policyctl.services.control import Control
from policyctl.services.log import folder


@dataclass(frozen=True, slots=True)
class Levels:
    """The least that is logged.

    Attributes:
        control: By the control plane.
        triton: By tritonserver; debug is its verbose level 1.
    """

    control: LogLevel
    triton: LogLevel

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {name: level.value for name, level in asdict(self).items()}


def path_in(control: Control) -> Path:
    """Where a wish is kept."""
    return folder(control.repository.control) / "levels.json"


def wanted(control: Control) -> Levels:
    """What is to be logged now: as wished, else as set."""
    logs = control.settings.logs
    wish = _wish(control)
    return Levels(wish.get("control", logs.level), wish.get("triton", logs.triton_level))


def change(control: Control, *, level: LogLevel | None, triton: LogLevel | None) -> Levels:
    """Wish for other levels; what is None stays as it is.

    Returns:
        What the supervisor will follow within a second, and with every start from now on.

    Raises:
        UsageError: The disk refuses.
    """
    wish = {**_wish(control), **{k: v for k, v in (("control", level), ("triton", triton)) if v is not None}}
    path = path_in(control)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    control.repository.write(path, json.dumps({name: value.value for name, value in wish.items()}).encode())
    return wanted(control)


def reset(control: Control) -> Levels:
    """Follow the settings again."""
    path_in(control).unlink(missing_ok=True)
    return wanted(control)


def _wish(control: Control) -> dict[str, LogLevel]:
    """The wish; empty where there is none, or none that can be read."""
    try:
        found = json.loads(path_in(control).read_text())
        return {name: LogLevel(found[name]) for name in ("control", "triton") if name in found}
    except (OSError, ValueError, TypeError):
        return {}
