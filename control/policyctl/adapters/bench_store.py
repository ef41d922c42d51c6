"""Kept results of benchmarks: ``.policyctl/bench/<fingerprint>/<model>/<stamp>-<id>.json``.

A file a result, written whole and never changed. This module knows where they
are and not what they say: bytes in, bytes out. It ignores other names, because
people keep notes next to results.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyctl.adapters.repository import Repository
from policyctl.domain.names import check_model_name
from policyctl.errors import UsageError
from policyctl.plain_files import DOCUMENT_BYTES, read_plain, unreadable

FOLDER: Final = "bench"
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{12}")
_NAME: Final = re.compile(r"\d{8}T\d{6}Z-([0-9a-f]{12})\.json")


@dataclass(frozen=True, slots=True)
class Kept:
    """Where one result is kept.

    Attributes:
        path: The file.
        fingerprint: Of the machine, from the folder's name.
        model: From the folder's name.
        id: From the file's name.
    """

    path: Path
    fingerprint: str
    model: str
    id: str

    def read(self) -> bytes:
        """What it holds.

        Raises:
            UsageError: It cannot be read, or is larger than any result.
        """
        return read_file(self.path)


def read_file(path: Path) -> bytes:
    """The content of one file that may be a result.

    Raises:
        UsageError: It is not a file, cannot be read, or is larger than any result.
    """
    try:
        return read_plain(path, most_bytes=DOCUMENT_BYTES, follow_links=True)
    except OSError as error:
        raise unreadable(path, error, remedy="Name a result's file or id.") from error


def keep(repository: Repository, content: bytes, *, fingerprint: str, model: str, stamp: str, result_id: str) -> Path:
    """Keep one result; one that is there already stays as it is.

    Args:
        repository: Where.
        content: All of it.
        fingerprint: Of the machine.
        model: Of which model.
        stamp: Its time as ``20260131T235959Z``, so that names sort by it.
        result_id: Its id.

    Returns:
        The file.

    Raises:
        UsageError: The disk refuses, or a name would not be found again.
    """
    name = f"{stamp}-{result_id}.json"
    check_model_name(model)
    if _NAME.fullmatch(name) is None or _FINGERPRINT.fullmatch(fingerprint) is None:
        raise UsageError(f"a result cannot be kept as {fingerprint}/{model}/{name}")
    path = repository.control / FOLDER / fingerprint / model / name
    if not path.exists():
        repository.write(path, content)
    return path


def kept(repository: Repository, *, fingerprint: str | None = None, model: str | None = None) -> Iterator[Kept]:
    """Everything that is kept, oldest first on each machine.

    Args:
        repository: Where.
        fingerprint: Only of this machine.
        model: Only of this model.
    """
    for machine in _folders(repository.control / FOLDER):
        if _FINGERPRINT.fullmatch(machine.name) is None or fingerprint not in {None, machine.name}:
            continue
        for folder in _folders(machine):
            if model not in {None, folder.name}:
                continue
            for path in sorted(folder.iterdir()):
                if (match := _NAME.fullmatch(path.name)) is not None and path.is_file():
                    yield Kept(path, machine.name, folder.name, match[1])


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
