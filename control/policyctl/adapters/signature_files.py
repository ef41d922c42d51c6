"""Signatures on disk: one bundle a file, outside the slots, which nothing is added to.

::

    .policyctl/signatures/<model>/<release>/<name>.sig

A check by OpenSSF's own command line names the slot and such a file.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from policyctl.adapters import files
from policyctl.adapters.repository import Repository
from policyctl.plain_files import refuse_if_denied, walk

FOLDER = "signatures"
SUFFIX = ".sig"


def signature_file(repository: Repository, model: str, release: str, name: str) -> Path:
    """Where the signature `name` of a release is kept."""
    return repository.control / FOLDER / model / release / f"{name}{SUFFIX}"


def list_signature_files(repository: Repository, model: str, release: str) -> tuple[Path, ...]:
    """Every file in the folder of a release's signatures, recorded or not, by name."""
    folder = repository.control / FOLDER / model / release
    return files.entries(folder)


def list_all(repository: Repository) -> tuple[Path, ...]:
    """Everything below the folder of signatures that is not a folder."""
    found = walk(repository.control / FOLDER, on_error=refuse_if_denied)
    return tuple(sorted(Path(entry.path) for entry in found if not entry.is_dir(follow_symlinks=False)))


def name_aside(repository: Repository, path: Path) -> str:
    """A fresh name for a file that no record names (a crash while signing), for `Repository.set_aside`."""
    parts = path.relative_to(repository.control / FOLDER).parts
    return f"{'-'.join(parts)}-{secrets.token_hex(4)}"
