"""Where the control API of a repository listens: it writes that down for commands on the same machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyctl.adapters import lock
from policyctl.adapters.audit import FOLDER
from policyctl.adapters.repository import Repository
from policyctl.errors import ServerError

_FILE: Final = f"{FOLDER}/address.json"
_EVERYWHERE: Final = {"//0.0.0.0:": "//127.0.0.1:", "//[::]:": "//[::1]:"}


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """What stands in the file."""

    url: str


def lock_path(repository: Repository) -> Path:
    """What the control API of a repository holds while it runs."""
    return repository.control / FOLDER / "lock"


def write(repository: Repository, url: str) -> None:
    """Write down where the control API listens.

    Raises:
        UsageError: The disk refuses.
    """
    repository.write_value(_FILE, ApiAddress(url), mode=0o600)


def read(repository: Repository) -> str:
    """Where the control API listens, as this machine reaches it: ``http://HOST:PORT``.

    Raises:
        ServerError: None runs.
        UsageError: This process may not read it.
    """
    found = repository.read_value(_FILE, ApiAddress) if lock.is_held(lock_path(repository)) else None
    if found is None:
        raise ServerError(
            f"no control API runs on {repository.root}", remedy="Start one: policyctl api. Elsewhere: --api URL."
        )
    url = found.url
    for everywhere, here in _EVERYWHERE.items():
        url = url.replace(everywhere, here, 1)
    return url
