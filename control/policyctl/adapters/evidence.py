"""Evidence on disk: what a gate saw, kept beside the journal that names its digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from policyctl.adapters import files
from policyctl.adapters.repository import Repository
from policyctl.domain.manifest import digest_of
from policyctl.domain.verdict import GateResult


def write(repository: Repository, result: GateResult, *, model: str, release: str, stamp: str) -> tuple[Path, str]:
    """Keep one gate's result.

    Args:
        repository: Where to keep it.
        result: What the gate said and saw.
        model: Of which model.
        release: Of which release.
        stamp: Makes the file's name unique and sortable.

    Returns:
        The file, and the digest of its content.

    Raises:
        UsageError: The disk refuses.
    """
    body: dict[str, Any] = {"model": model, "release": release, "time": stamp, **result.to_json()}
    content = json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"
    path = repository.control / "evidence" / model / release / f"{stamp.replace(':', '')}-{result.gate}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.storage_error(path, error) from error
    repository.write(path, content)
    return path, digest_of(content)


def digest(repository: Repository, name: str) -> str | None:
    """Of one gate's evidence as it is now.

    Args:
        repository: Where it is kept.
        name: The file, as the journal names it.

    Returns:
        None where there is no such plain file.
    """
    content = read(repository, name)
    return None if content is None else digest_of(content)


def read(repository: Repository, name: str) -> bytes | None:
    """One piece of evidence as it is now.

    Args:
        repository: Where it is kept.
        name: The file, as the journal names it.

    Returns:
        None where there is no such plain file.
    """
    path = repository.control / name
    try:
        return None if path.is_symlink() else path.read_bytes()
    except OSError:
        return None
