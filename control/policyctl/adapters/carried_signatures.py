"""The files of a release's signatures: where they are, and how they travel with it.

One place knows the folder, so that whatever signs and whatever carries agree.
"""

from __future__ import annotations

from pathlib import Path

from policyctl.adapters import files
from policyctl.adapters.repository import Repository
from policyctl.domain.manifest import FileEntry
from policyctl.hashing import hash_file, read_plain
from policyctl.integrity import list_files


def folder_of(repository: Repository, model: str, release: str) -> Path:
    """Where the signatures of a release are."""
    return repository.control / "signatures" / model / release


def entries(repository: Repository, model: str, release: str) -> tuple[FileEntry, ...]:
    """Every file of a release's signatures; none where it is not signed.

    Raises:
        IntegrityError: A link or a device is among them.
    """
    folder = folder_of(repository, model, release)
    return tuple(hash_file(folder, path) for path in list_files(folder)) if folder.is_dir() else ()


def add(repository: Repository, model: str, release: str, path: str, source: Path) -> bool:
    """Put a signature that came with a release beside those that are there; whether it was missing.

    Raises:
        UsageError: The disk refuses.
        IntegrityError: `source` is no plain file.
    """
    target = folder_of(repository, model, release) / path
    if target.is_file():
        return False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.storage_error(target, error) from error
    repository.write(target, read_plain(source))
    return True
