"""Operations of the control API on disk: a file each, so that they outlive its process."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from policyctl.adapters import files
from policyctl.adapters.audit import FOLDER
from policyctl.adapters.repository import Repository
from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.operations import Operation
from policyctl.errors import PolicyctlError
from policyctl.plain_files import DOCUMENT_BYTES, read_json


class OperationStore:
    """The folder of operations of one repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._folder = repository.control / FOLDER / "operations"

    def _path(self, operation: str) -> Path:
        return self._folder / f"{operation}.json"

    def write(self, operation: Operation) -> None:
        """Keep it, and have it on disk on return.

        Raises:
            UsageError: The disk refuses.
        """
        with files.storing(self._folder):
            self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
        self._repository.write(
            self._path(operation.id), json.dumps(to_json(operation), indent=1).encode() + b"\n", mode=0o600
        )

    def read_all(self) -> list[Operation]:
        """Every operation that can be read, by the time of its acceptance."""
        operations = []
        for path in self._folder.glob("*.json") if self._folder.is_dir() else ():
            with suppress(OSError, ValueError, RecursionError, PolicyctlError):  # a damaged one is nobody's answer
                operation = from_json(Operation, read_json(path, most_bytes=DOCUMENT_BYTES), what=path.name)
                if path.stem == operation.id:
                    operations.append(operation)
        return sorted(operations, key=lambda operation: (operation.accepted, operation.id))

    def remove(self, operation: str) -> None:
        """Forget it."""
        with suppress(OSError):
            self._path(operation).unlink(missing_ok=True)
