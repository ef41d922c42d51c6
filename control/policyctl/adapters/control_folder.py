"""The control plane's folder of a repository: small files written whole and read back, and the writer lock.

::

    model_repository/.policyctl/      journal.jsonl, lock, evidence/, signatures/, staging/, server.json
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from policyctl.adapters import files, lock
from policyctl.adapters.journal import Journal
from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.manifest import digest_of
from policyctl.errors import UsageError
from policyctl.plain_files import DOCUMENT_BYTES, NOTE_BYTES, read_plain, refuse_if_denied, unreadable

CONTROL: Final = ".policyctl"
_ID: Final = re.compile(r"[0-9a-f]{32}")
_ID_FILE: Final = "id"
T = TypeVar("T")


class ControlFolder:
    """The control plane's folder in one model repository.

    Args:
        root: The folder.
        actor: In whose name the journal is written and the lock held; empty for
            the user of this process.
    """

    def __init__(self, root: Path, *, actor: str = "") -> None:
        try:
            self.root = root.resolve()
        except (OSError, RuntimeError) as error:  # a link to itself is a RuntimeError
            raise UsageError(f"{root} cannot be a repository ({error})", remedy="Name a folder.") from error
        self.control = self.root / CONTROL
        self.journal = Journal(self.control / "journal.jsonl", actor=actor)
        self._actor = actor
        self._held: lock.Held | None = None

    @property
    def id(self) -> str:
        """Names this repository, and every copy of it; empty before it was made.

        Raises:
            UsageError: This process may not read it.
        """
        content = (self.read(_ID_FILE, most_bytes=NOTE_BYTES) or b"").decode(errors="replace")
        return content if _ID.fullmatch(content) else ""

    @property
    def lock_path(self) -> Path:
        """The writer lock's file."""
        return self.control / "lock"

    @property
    def scratch(self) -> Path:
        """Where unfinished files are, on the repository's own file system."""
        return self.control / "staging"

    def write(self, path: Path, content: bytes, *, mode: int = 0o644) -> None:
        """Replace a file of the repository as a whole; its folder is made if need be.

        Raises:
            UsageError: The disk refuses; the file is as it was.
        """
        with files.storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, content, mode=mode, scratch=self.scratch)

    def read(self, name: str, *, most_bytes: int = DOCUMENT_BYTES) -> bytes | None:
        """A file of the control plane's folder as it is now.

        Args:
            name: Its path in that folder, as the journal names it.
            most_bytes: The most that it can rightly hold.

        Returns:
            None where there is no such plain file.

        Raises:
            UsageError: This process may not read it.
        """
        try:
            return read_plain(self.control / name, most_bytes=most_bytes)
        except OSError as error:
            refuse_if_denied(error)
            return None

    def digest(self, name: str) -> str | None:
        """The digest of what `read` gives."""
        content = self.read(name)
        return None if content is None else digest_of(content)

    def write_value(self, name: str, value: object, *, mode: int = 0o644) -> None:
        """Write a plain value to the file `name` of the control plane's folder, as JSON.

        Raises:
            UsageError: The disk refuses; the file is as it was.
        """
        self.write(self.control / name, json.dumps(to_json(value)).encode(), mode=mode)

    def read_value(self, name: str, kind: type[T]) -> T | None:
        """The value that `write_value` wrote; None where there is no such file, or it holds something else.

        Raises:
            UsageError: This process may not read it.
        """
        content = self.read(name)
        with suppress(ValueError, UsageError, RecursionError):
            return None if content is None else from_json(kind, json.loads(content), what=name)
        return None

    def create(self) -> None:
        """Make the folders; nothing happens where they are.

        Raises:
            UsageError: They cannot be made.
        """
        with files.storing(self.root):
            for folder in (self.scratch, self.control / "evidence"):
                folder.mkdir(parents=True, exist_ok=True)
            files.sweep(self.scratch)
        # A full disk keeps nobody from serving a repository that has no id yet.
        with suppress(OSError):
            if not (self.control / _ID_FILE).exists():
                files.write_once(self.control / _ID_FILE, secrets.token_hex(16).encode(), scratch=self.scratch)

    def require(self) -> None:
        """Refuse where there is no repository yet.

        Raises:
            UsageError: Nothing was ever published there.
            IntegrityError: Something was, and the journal was lost.
        """
        try:
            recorded = self.journal.path.stat().st_size > 0
        except (FileNotFoundError, NotADirectoryError):
            recorded = False
        except OSError as error:
            raise unreadable(self.root, error, remedy="Check the path.") from error
        if not recorded:
            self.journal.require_not_lost()
            raise UsageError(
                f"{self.root} holds no published policy",
                remedy="Publish one (policyctl publish DIR --model NAME --release 1.0.0),"
                " or name another repository with --repository.",
            )

    @contextmanager
    def writer(self, doing: str, *, wait_s: float = 0.0, stop: str = "") -> Iterator[None]:
        """Hold the writer lock, and note the head of the journal at its end; the arguments are those of `lock.hold`."""
        with lock.hold(self.lock_path, doing=doing, wait_s=wait_s, actor=self._actor, stop=stop) as held:
            self._held = held
            try:
                yield
            finally:
                self.journal.note_head()
                self._held = None

    def writer_aside(self, *, wait_s: float = 30.0) -> AbstractContextManager[None]:
        """Let others write while the block runs; the caller holds the writer lock, before it and after it.

        For what takes long and writes nothing: a rollback, or the supervisor's
        repair of an alias, must never wait until something has been measured.

        Raises:
            BusyError: Another writer did not finish within `wait_s` of the block's end.
        """
        if self._held is None:
            raise RuntimeError("the writer lock is not held")
        return self._held.aside(wait_s=wait_s)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A fresh folder on the repository's file system, removed afterwards."""
        with files.storing(self.scratch):
            self.scratch.mkdir(parents=True, exist_ok=True)
            with files.scratch_folder(self.scratch) as folder:
                yield folder
