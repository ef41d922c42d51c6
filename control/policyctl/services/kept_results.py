"""Kept results of benchmarks: ``.policyctl/bench/<fingerprint>/<model>/<stamp>-<id>.json``.

A file a result, written whole and never changed. Other names are ignored,
because people keep notes next to results.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from policyctl.adapters import files
from policyctl.adapters.repository import Repository
from policyctl.domain.names import check_model_name
from policyctl.errors import UsageError
from policyctl.measuring.result import BenchResult
from policyctl.plain_files import DOCUMENT_BYTES, read_plain, unreadable

FOLDER: Final = "bench"
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{12}")
_NAME: Final = re.compile(r"\d{8}T\d{6}Z-([0-9a-f]{12})\.json")


@dataclass(frozen=True, slots=True)
class Kept:
    """Where one result is kept, and what its name and its folders say of it."""

    path: Path
    fingerprint: str
    model: str
    id: str

    def read(self) -> tuple[bytes, BenchResult]:
        """What it holds.

        Raises:
            UsageError: It cannot be read, was changed, or has another result's name or folder.
        """
        content, result = read(self.path)
        if (result.id, result.fingerprint, result.model) != (self.id, self.fingerprint, self.model):
            raise UsageError(f"{self.path} holds another result than its name says: {result.id}")
        return content, result


def read(path: Path) -> tuple[bytes, BenchResult]:
    """The content of a result's file, and the result.

    Raises:
        UsageError: It cannot be read, or holds something else.
    """
    try:
        content = read_plain(path, most_bytes=DOCUMENT_BYTES, follow_links=True)
    except OSError as error:
        raise unreadable(path, error, remedy="Name a result's file or id.") from error
    return content, BenchResult.from_bytes(content)


def keep(repository: Repository, result: BenchResult) -> Path:
    """Keep one result; one that is there already stays as it is.

    Raises:
        UsageError: The disk refuses, or its model or machine has a name that would not be found again.
    """
    check_model_name(result.model)
    if _FINGERPRINT.fullmatch(result.fingerprint) is None:
        raise UsageError(f"a result of machine {result.fingerprint!r} cannot be kept, expected 12 hexadecimal digits")
    stamp = datetime.fromisoformat(result.time).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = repository.control / FOLDER / result.fingerprint / result.model / f"{stamp}-{result.id}.json"
    if not path.exists():
        repository.write(path, result.to_bytes())
    return path


def kept(repository: Repository, *, fingerprint: str | None = None, model: str | None = None) -> Iterator[Kept]:
    """Everything that is kept, of one machine or model or of all; oldest first on each machine."""
    for machine in _folders(repository.control / FOLDER):
        if _FINGERPRINT.fullmatch(machine.name) is None or fingerprint not in {None, machine.name}:
            continue
        for folder in _folders(machine):
            if model not in {None, folder.name}:
                continue
            for path in files.entries(folder):
                if (match := _NAME.fullmatch(path.name)) is not None and path.is_file():
                    yield Kept(path, machine.name, folder.name, match[1])


def _folders(folder: Path) -> list[Path]:
    return [path for path in files.entries(folder) if path.is_dir()]
