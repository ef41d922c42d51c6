"""Signatures on disk: one bundle a file, outside the slots, which nothing is added to.

::

    .policyctl/signatures/<model>/<release>/<name>.sig

Whoever checks with OpenSSF's own command line names the slot and such a file.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from policyctl.adapters import files
from policyctl.adapters.repository import Repository

FOLDER = "signatures"
SUFFIX = ".sig"


def signature_file(repository: Repository, model: str, release: str, name: str) -> Path:
    """Where the signature `name` of a release is kept."""
    return repository.control / FOLDER / model / release / f"{name}{SUFFIX}"


def list_signature_files(repository: Repository, model: str, release: str) -> tuple[Path, ...]:
    """Every file in the folder of a release's signatures, recorded or not, by name."""
    folder = repository.control / FOLDER / model / release
    return tuple(sorted(folder.iterdir())) if folder.is_dir() else ()


def list_all(repository: Repository) -> tuple[Path, ...]:
    """Everything below the folder of signatures that is not a folder."""
    root = repository.control / FOLDER
    return tuple(sorted(p for p in root.rglob("*") if p.is_symlink() or not p.is_dir()))


def read(repository: Repository, name: str) -> bytes | None:
    """One bundle as it is now.

    Args:
        repository: Where it is kept.
        name: The file, as the journal names it.

    Returns:
        None where there is no such plain file that can be read.
    """
    path = repository.control / name
    try:
        return None if path.is_symlink() or not path.is_file() else path.read_bytes()
    except OSError:
        return None


def write(repository: Repository, path: Path, content: bytes) -> None:
    """Keep a bundle, durably, as a whole, read-only.

    Raises:
        UsageError: The disk refuses; what was there before is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.storage_error(path, error) from error
    repository.write(path, content, mode=0o444)


def set_aside(repository: Repository, path: Path) -> Path:
    """Move a file that no record names (a crash while signing) out of the way, keeping it.

    Raises:
        UsageError: The disk refuses.
    """
    parts = path.relative_to(repository.control / FOLDER).parts
    target = repository.control / "orphans" / f"{'-'.join(parts)}-{secrets.token_hex(4)}"
    try:
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    except OSError as error:
        raise files.storage_error(path, error) from error
    return target
