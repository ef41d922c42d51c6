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

Reading is strict: an unknown word, a time without a zone, or a key that is not
what its fingerprint says is refused, because whoever may sign hangs on it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from policyctl.adapters import files
from policyctl.domain.names import check_signer_name
from policyctl.domain.trust import Revocation, Trusted, TrustKind, TrustStore
from policyctl.errors import PolicyctlError, UsageError

_STRICT = ConfigDict(extra="forbid", frozen=True)
_FINGERPRINT = r"^(sha256:[0-9a-f]{64})?$"


class _Revoked(BaseModel):
    model_config = _STRICT

    declared: AwareDatetime
    since: AwareDatetime | None = None
    reason: str = Field(min_length=1)


class _Entry(BaseModel):
    model_config = _STRICT

    name: str
    kind: TrustKind
    fingerprint: str = Field("", pattern=_FINGERPRINT)
    pem: str = ""
    identity: str = ""
    issuer: str = ""
    not_before: AwareDatetime | None = None
    not_after: AwareDatetime | None = None
    revoked: _Revoked | None = None
    replaces: str = ""

    @model_validator(mode="after")
    def _whole(self) -> _Entry:
        try:
            check_signer_name(self.name)
        except UsageError as error:
            raise ValueError(error.problem) from None
        needs = {
            TrustKind.KEY: {"fingerprint", "pem"},
            TrustKind.CERTIFICATE: {"fingerprint", "pem"},
            TrustKind.IDENTITY: {"identity", "issuer"},
            TrustKind.NONE: {"fingerprint", "revoked"},
        }[self.kind]
        has = {name for name in ("fingerprint", "pem", "identity", "issuer", "revoked") if getattr(self, name)}
        if not needs <= has or has - needs - {"revoked"}:
            raise ValueError(f"kind {self.kind} has exactly {', '.join(sorted(needs))}")
        return self


class _File(BaseModel):
    model_config = _STRICT

    version: Literal[1] = Field(alias="schema")
    keys: tuple[_Entry, ...] = ()


def read(path: Path) -> TrustStore:
    """The trust store at `path`; empty where there is none.

    Raises:
        UsageError: It cannot be read, or is not a trust store; names the entry.
    """
    try:
        data = yaml.safe_load(path.read_bytes())
        if data is None:
            raise ValueError("it is empty")
        return _to_store(_File.model_validate(data))
    except FileNotFoundError:
        return TrustStore()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})", remedy="Check its permissions.") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UsageError(f"{path}: {problems}", remedy="Correct the file, or restore it from a copy.") from error
    except PolicyctlError as error:
        raise UsageError(f"{path}: {error.problem}", remedy=error.remedy) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a trust store ({error})", remedy="Restore the file from a copy.") from error


@contextmanager
def editing(path: Path) -> Iterator[TrustStore]:
    """The trust store while nobody else edits it; make changes with `write` inside the block.

    Raises:
        UsageError: It cannot be read, or its folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise files.storage_error(path, error) from error
    try:
        # The folder's lock: a lock on the file would be on the one that the next write replaces.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield read(path)
    finally:
        os.close(descriptor)


def write(path: Path, store: TrustStore) -> None:
    """Replace the trust store as a whole.

    Raises:
        UsageError: The disk refuses; it is as it was.
    """
    document: dict[str, Any] = {"schema": 1, "keys": [_from_trusted(entry) for entry in store]}
    _File.model_validate(document)
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    files.write_atomically(path, text.encode())


class _Dumper(yaml.SafeDumper):
    """Writes PEM text as the lines that it is."""


def _lines(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _lines)


def _to_store(file: _File) -> TrustStore:
    return TrustStore(
        tuple(
            Trusted(
                **entry.model_dump(exclude={"revoked"}),
                revoked=None if entry.revoked is None else Revocation(**entry.revoked.model_dump()),
            )
            for entry in file.keys
        )
    )


def _from_trusted(entry: Trusted) -> dict[str, Any]:
    revoked = entry.revoked
    found = _Entry(
        name=entry.name,
        kind=entry.kind,
        fingerprint=entry.fingerprint,
        pem=entry.pem,
        identity=entry.identity,
        issuer=entry.issuer,
        not_before=entry.not_before,
        not_after=entry.not_after,
        revoked=None
        if revoked is None
        else _Revoked(declared=revoked.declared, since=revoked.since, reason=revoked.reason),
        replaces=entry.replaces,
    )
    return found.model_dump(mode="json", exclude_defaults=True)
