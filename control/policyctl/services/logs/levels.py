"""How much is logged, changed while the server runs.

The settings say it, and `policyctl log-level` overrides them until it is reset.
It writes a small file, which the supervisor reads each second. The file
outlives a restart of tritonserver or of the supervisor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyctl.domain.log_event import LogLevel
from policyctl.services.control import Control
from policyctl.services.log import FOLDER

_FILE: Final = f"{FOLDER}/levels.json"


@dataclass(frozen=True, slots=True)
class Levels:
    """The least that is logged.

    Attributes:
        triton: By tritonserver; debug is its verbose level 1.
    """

    control: LogLevel
    triton: LogLevel


def path_in(control: Control) -> Path:
    """Where a wish is kept."""
    return control.repository.control / _FILE


def wanted(control: Control) -> Levels:
    """What is to be logged now: as wished, else as set."""
    logs = control.settings.logs
    wish = _wish(control)
    return Levels(wish.get("control", logs.level), wish.get("triton", logs.triton_level))


def change(control: Control, *, level: LogLevel | None, triton: LogLevel | None) -> Levels:
    """Wish for other levels; what is None stays as it is.

    Returns:
        What the supervisor will follow within a second, and with every start from now on.
    """
    wish = {**_wish(control), **{k: v for k, v in (("control", level), ("triton", triton)) if v is not None}}
    path_in(control).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    control.repository.write_value(_FILE, wish)
    return wanted(control)


def reset(control: Control) -> Levels:
    """Follow the settings again."""
    path_in(control).unlink(missing_ok=True)
    return wanted(control)


def _wish(control: Control) -> dict[str, LogLevel]:
    """The wish; empty where the file is missing or holds something else."""
    return control.repository.read_value(_FILE, dict[str, LogLevel]) or {}
