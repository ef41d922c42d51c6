"""Operations of the control API on disk: a file each, so that they outlive its process."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from policyctl.adapters import files
from policyctl.adapters.audit import FOLDER
from policyctl.adapters.repository import Repository
from policyctl.domain.operations import Operation


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
        try:
            self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise files.storage_error(self._folder, error) from error
        self._repository.write(
            self._path(operation.id), json.dumps(operation.to_json(), indent=1).encode() + b"\n", mode=0o600
        )

    def read_all(self) -> list[Operation]:
        """Every operation that can be read, by the time of its acceptance."""
        found = []
        for path in self._folder.glob("*.json") if self._folder.is_dir() else ():
            with suppress(OSError, ValueError, RecursionError):  # a damaged one is nobody's answer
                operation = Operation.from_json(json.loads(path.read_text()))
                if path.stem == operation.id:
                    found.append(operation)
        return sorted(found, key=lambda operation: (operation.accepted, operation.id))

    def remove(self, operation: str) -> None:
        """Forget it."""
        with suppress(OSError):
            self._path(operation).unlink(missing_ok=True)
