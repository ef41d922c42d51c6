"""Clear away what others left that were killed: a recorder its tracing, clients their shared memory.

A client that is killed leaves its file in ``/dev/shm`` and, because the server
has mapped it, the memory too. So both are undone: the server forgets the
region, and the file goes. The supervisor does it now and then.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any, Final

from policyctl import claims
from policyctl.adapters import files, lock
from policyctl.adapters.repository import Repository
from policyctl.adapters.triton import Triton
from policyctl.client import regions
from policyctl.errors import BusyError, ServerError, UsageError
from policyctl.plain_files import read_json
from policyctl.services.control import Control

SWEEP_EVERY_S: Final = 10.0
SETTLED_S: Final = 0.5
"""How long after tracing ended the requests that were under way may still leave a file."""
TRACING_OFF: Final[dict[str, Any]] = {"trace_level": "OFF"}
TRACING_UNSET: Final[dict[str, Any]] = dict.fromkeys(("trace_level", "trace_rate", "trace_count", "log_frequency"))


def settle(control: Control, client: Triton) -> bool:
    """Switch off what a recorder that was killed left on, and remove what it traced; nothing without a leftover.

    The caller holds the recording lock. It takes more than one call, and none
    waits: what was under way when tracing ended is written a moment later.

    Returns:
        Whether all is done.

    Raises:
        ServerError: The server does not answer, or does not have the model loaded; the marker stays.
    """
    repository, folder = control.repository, trace_folder(control.repository)
    try:
        left: dict[str, Any] = read_json(marker_path(repository))
        served, server, off_at = str(left["served"]), str(left["server"]), float(left.get("off_at", math.inf))
    except FileNotFoundError:
        return True
    except (ValueError, KeyError, TypeError):
        unmark(repository)
        return True
    # A server that was started since has tracing off, as it starts.
    if server == client.endpoint.server_id:
        now = time.monotonic()
        if off_at > now:
            client.trace(served, TRACING_OFF)
            client.trace(served, TRACING_UNSET)
            mark(repository, served, server, off_at=now)
        # The embedded server alone writes there.
        if folder.is_dir():
            empty(folder)
        if off_at > now - SETTLED_S:
            return False
    unmark(repository)
    control.tell(f"Tracing of {served} was left on by a recorder that is gone, and is off now.")
    return True


def settle_if_left(control: Control, client: Triton) -> None:
    """`settle` where no recorder is at work; for the supervisor, which must never wait or fail here."""
    if not marker_path(control.repository).exists():
        return
    with contextlib.suppress(BusyError, ServerError, UsageError), recording_lock(control.repository):
        settle(control, client)


def trace_folder(repository: Repository) -> Path:
    """Where the embedded server writes its traces."""
    return repository.control / "server" / "traces"


def empty(folder: Path) -> None:
    """Make the trace folder, its owner's alone, with nothing in it.

    A folder that is there stays the same one: a container may have it mounted.
    """
    with files.storing(folder):
        if folder.is_symlink() or not folder.is_dir():
            files.remove_tree(folder)
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        for left in folder.iterdir():
            files.remove_tree(left)


def marker_path(repository: Repository) -> Path:
    """The file that says that tracing is on."""
    return repository.control / "recording.json"


def mark(repository: Repository, served: str, server: str, **more: float) -> None:
    """Write down that tracing is on, before it is switched on."""
    content = json.dumps({"served": served, "server": server, **more}).encode()
    repository.write(marker_path(repository), content, mode=0o600)


def unmark(repository: Repository) -> None:
    """Remove the marker: tracing is off."""
    marker_path(repository).unlink(missing_ok=True)


def recording_lock(repository: Repository) -> contextlib.AbstractContextManager[None]:
    """The lock of one recorder; refuses while another records."""
    return lock.hold_alone(
        repository.control / "recording.lock",
        doing="policyctl record",
        taken="somebody records from this server already",
        remedy="Wait until it is done.",
    )


def sweep(client: Triton) -> tuple[str, ...]:
    """Forget and remove what dead clients left; what belongs to a living one is not touched.

    Returns:
        The names of the regions.
    """
    swept: set[str] = set()
    with contextlib.suppress(ServerError), regions.abandoned() as names:
        swept.update(names)
        for name in client.regions():
            # A file that is gone was removed by its client, which then could not reach the server.
            if name in swept or (name.startswith(regions.PREFIX) and not (claims.FOLDER / name).exists()):
                with contextlib.suppress(ServerError):  # a request still has it: the next sweep forgets it
                    client.forget_region(name)
                    swept.add(name)
    return tuple(sorted(swept))
