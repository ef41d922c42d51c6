"""The trust store on disk: a YAML file that people can read, edit and review.

::

    schema: 1
    keys:
    - name: alice
      kind: key
      fingerprint: sha256:...
      pem: |
        -----BEGIN PUBLIC KEY-----
        ...
      not_before: '2026-01-01T00:00:00Z'

Reading is strict, because this file decides who may sign. It refuses an unknown
word, a time without a zone, and a key that is not what its fingerprint says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from policyctl.adapters import files, lock
from policyctl.domain.json_values import OMIT_DEFAULT, from_json, to_json
from policyctl.domain.names import check_signer_name
from policyctl.domain.trust import Trusted, TrustKind, TrustStore
from policyctl.errors import PolicyctlError, UsageError
from policyctl.plain_files import DOCUMENT_BYTES, read_plain, unreadable

_EDIT_WAIT_S: Final = 30.0
_SCHEMA: Final = 1
_FINGERPRINT: Final = re.compile(r"(sha256:[0-9a-f]{64})?")
_TIMES: Final = frozenset({"not_before", "not_after", "declared", "since"})
_NEEDS: Final = {
    TrustKind.KEY: {"fingerprint", "pem"},
    TrustKind.CERTIFICATE: {"fingerprint", "pem"},
    TrustKind.IDENTITY: {"identity", "issuer"},
    TrustKind.NONE: {"fingerprint", "revoked"},
}


@dataclass(frozen=True, slots=True)
class _File:
    """What the file holds."""

    schema: int
    keys: tuple[Trusted, ...] = field(default=(), metadata=OMIT_DEFAULT)


def read(path: Path) -> TrustStore:
    """The trust store at `path`; empty where the file is missing.

    Raises:
        UsageError: It cannot be read, or is not a trust store; names the entry.
    """
    try:
        content = read_plain(path, most_bytes=DOCUMENT_BYTES, follow_links=True)
        # Here, because commands in a repository without trust store need no reader of YAML.
        from policyctl.documents import yaml_text

        document = yaml_text.parse(content, what="the trust store")
        if document.complaints:
            raise UsageError("; ".join(problem.words for problem in document.complaints), remedy="Correct the file.")
        file = from_json(_File, document.data, what="the trust store")
        if file.schema != _SCHEMA:
            raise UsageError(f"schema {file.schema} is unknown, expected {_SCHEMA}")
        return TrustStore(tuple(_checked(entry) for entry in file.keys))
    except FileNotFoundError:
        return TrustStore()
    except OSError as error:
        raise unreadable(path, error, remedy="Restore the file from a copy.") from error
    except PolicyctlError as error:
        remedy = error.remedy or "Correct the file, or restore it from a copy."
        raise UsageError(f"{path}: {error.problem}", remedy=remedy) from error


@contextmanager
def editing(path: Path) -> Iterator[TrustStore]:
    """The trust store while nobody else edits it; make changes with `write` inside the block.

    Raises:
        UsageError: It cannot be read, or its folder cannot be made.
        BusyError: Somebody else edits it.
    """
    with files.storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # The folder's lock: a lock on the file would be on the one that the next write replaces.
        lock.acquire(descriptor, path, _EDIT_WAIT_S)
        yield read(path)
    finally:
        os.close(descriptor)


def write(path: Path, store: TrustStore) -> None:
    """Replace the trust store as a whole.

    Raises:
        UsageError: The disk refuses; it is as it was.
    """
    from policyctl.documents import yaml_text

    keys = [_written(to_json(_checked(entry))) for entry in store]
    files.write_atomically(path, yaml_text.dump({"schema": _SCHEMA, "keys": keys}).encode())


def _checked(entry: Trusted) -> Trusted:
    """Return an entry that holds what its kind needs, and nothing else.

    Raises:
        UsageError: It does not.
    """
    check_signer_name(entry.name)
    has = {name for name in ("fingerprint", "pem", "identity", "issuer", "revoked") if getattr(entry, name)}
    needs = _NEEDS[entry.kind]
    if not needs <= has or has - needs - {"revoked"}:
        raise UsageError(f"{entry.name}: kind {entry.kind} has exactly {', '.join(sorted(needs))}")
    if _FINGERPRINT.fullmatch(entry.fingerprint) is None:
        raise UsageError(f"{entry.name}: the fingerprint {entry.fingerprint!r} is not sha256:<64 hex digits>")
    if entry.revoked is not None and not entry.revoked.reason:
        raise UsageError(f"{entry.name}: it is revoked without a reason")
    return entry


def _written(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry as people read it: its times end in Z."""
    return {
        name: _written(each) if isinstance(each, dict) else each.replace("+00:00", "Z") if name in _TIMES else each
        for name, each in entry.items()
    }
