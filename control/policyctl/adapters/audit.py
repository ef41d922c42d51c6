"""The audit of the control API: one line for each call that would change something, refused ones too.

Moves are in the journal as well, under the same name; what the journal cannot
tell is who was refused, from where, and what was asked twice. The file is its
owner's alone and bounded: a full one is put aside as ``audit.1.jsonl``, in the
place of the one before.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

from policyctl.adapters import files
from policyctl.adapters.repository import Repository
from policyctl.plain_files import read_plain

MOST_BYTES: Final = 16 << 20
FOLDER: Final = "api"


class Audit:
    """The audit file of one repository, written by one process."""

    def __init__(self, repository: Repository, *, most_bytes: int = MOST_BYTES) -> None:
        self._folder = repository.control / FOLDER
        self._most_bytes = most_bytes
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The file."""
        return self._folder / "audit.jsonl"

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one line, and have it on disk on return.

        Raises:
            UsageError: The disk refuses.
        """
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            with files.storing(self.path):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if self.path.exists() and self.path.stat().st_size + len(line) > self._most_bytes:
                    self.path.replace(self.path.with_name("audit.1.jsonl"))
            files.append_durably(self.path, line, mode=0o600)

    def last(
        self, count: int, *, skip: int = 0, wanted: Callable[[Mapping[str, Any]], bool] = lambda _: True
    ) -> list[dict[str, Any]]:
        """The last lines that can be read, oldest first.

        Args:
            count: How many at most.
            skip: How many that are later are left out.
            wanted: Which lines count.
        """
        return list(islice((entry for entry in self._backwards() if wanted(entry)), skip, skip + count))[::-1]

    def _backwards(self) -> Iterator[dict[str, Any]]:
        """Every line that can be read, the last one first."""
        for path in (self.path, self.path.with_name("audit.1.jsonl")):
            try:
                lines = read_plain(path, most_bytes=2 * self._most_bytes).splitlines()
            except OSError:
                continue
            for line in reversed(lines):
                with suppress(ValueError):  # a crash may have cut one short
                    yield json.loads(line)
