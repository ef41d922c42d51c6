"""The tokens of the control API on disk: one file, for its owner alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from policyctl.adapters import lock
from policyctl.adapters.repository import Repository
from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.tokens import SCHEMA, Token
from policyctl.errors import IntegrityError, UsageError
from policyctl.plain_files import DOCUMENT_BYTES, denied, read_json, refuse_if_denied

_REMEDY = "Restore the file, or remove it and create the tokens again: policyctl token create"


class TokenFile:
    """The tokens of one repository; an unchanged file is not read again."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._seen: tuple[tuple[int, int, int], tuple[Token, ...]] | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self._repository.control / "tokens.json"

    def read(self) -> tuple[Token, ...]:
        """Every token, in the order of creation; none where there is no file.

        Raises:
            IntegrityError: The file cannot be understood, or others than its
                owner may read it. Nobody is let in by such a file.
            UsageError: This process may not read it.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return ()
        except OSError as error:
            refuse_if_denied(error)
            raise IntegrityError(f"{self.path}: cannot be read ({error.strerror})", remedy=_REMEDY) from error
        if found.st_mode & 0o077:
            raise IntegrityError(
                f"{self.path} can be used by others than its owner (mode {found.st_mode & 0o777:o})",
                remedy=f"chmod 600 {self.path}, and see whether anybody added a token: policyctl token list",
            )
        identity = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._seen is None or self._seen[0] != identity:
            self._seen = (identity, self._parse())
        return self._seen[1]

    def _parse(self) -> tuple[Token, ...]:
        try:
            data = read_json(self.path, most_bytes=DOCUMENT_BYTES)
            if data["schema"] != SCHEMA:
                raise ValueError(f"its schema is {data['schema']!r}, and {SCHEMA} is known")
            return from_json(tuple[Token, ...], data["tokens"], what="the tokens")
        except PermissionError as error:
            raise denied(error) from error
        except (OSError, ValueError, TypeError, KeyError, UsageError) as error:
            raise IntegrityError(f"{self.path} holds no tokens ({error})", remedy=_REMEDY) from error

    @contextmanager
    def editing(self) -> Iterator[list[Token]]:
        """Change the list in the block; it is written as a whole where the block ends without an error.

        Raises:
            BusyError: Somebody else is changing it.
            IntegrityError: As `read`.
            UsageError: The disk refuses.
        """
        with lock.hold(self.path.with_suffix(".lock"), doing="tokens", wait_s=5.0):
            tokens = list(self.read())
            yield tokens
            content = {"schema": SCHEMA, "tokens": to_json(tokens)}
            self._repository.write(self.path, json.dumps(content, indent=1).encode() + b"\n", mode=0o600)
