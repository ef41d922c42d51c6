"""A bucket of an object store: bytes under keys, some of them created only where nothing is there yet.

``s3://``, ``gs://`` and ``az://`` are spoken to by the library obstore, which
finds credentials where the tools of each cloud keep them. ``file://`` is a
folder with the same meaning, for tests and for trying out: nothing is flushed
to its disk before a call returns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

from policyctl.adapters.files import Advance
from policyctl.domain.choices import STORE_SCHEMES, holds_secrets
from policyctl.errors import IntegrityError, ServerError, UnsupportedError, UsageError, first_line
from policyctl.plain_files import scheme_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_CONNECT_S: Final = 5
_ANSWER_S: Final = 30
_RETRIES: Final = 3
_RETRY_S: Final = 10
_WITHOUT_CERTIFICATES: Final = "No CA certificates"
"""The library looks for them whatever the address is, and its first line says only that it could not be built."""
_PART_BYTES: Final = 4 << 20
"""Of a large object in one request: within `_ANSWER_S` where 140 KB come in a second."""


def is_bucket(text: str) -> bool:
    """Whether `text` names a bucket."""
    return scheme_of(text) in STORE_SCHEMES


@dataclass(slots=True)
class Bucket:
    """One bucket, or what lies below one prefix of it.

    Attributes:
        url: ``s3://NAME/PREFIX``, or another of `STORE_SCHEMES`.
        patience_s: For one request, which is not repeated then; None for that of most callers, with some tries more.
        creates: Whether the folder of ``file://`` is made where it is missing; who only looks makes none.
    """

    url: str
    patience_s: float | None = None
    creates: bool = True
    _store: ObjectStore = field(init=False)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        self._store = _opened(self.url, self.patience_s, creates=self.creates)

    def get(self, key: str, *, most_bytes: int) -> bytes | None:
        """What lies under `key`; None for nothing.

        Raises:
            IntegrityError: It is longer than anything that belongs there.
            ServerError: The store does not answer.
            UsageError: It wants other credentials.
        """
        import obstore

        try:
            with self._asking(f"reading {key}"):
                found = obstore.get(self._store, key)
                if found.meta["size"] <= most_bytes:
                    return bytes(found.bytes())
        except FileNotFoundError:
            return None
        raise IntegrityError(
            f"{self.url}/{key} has {found.meta['size']} bytes, at most {most_bytes} are read",
            remedy="See who wrote it. Remove it, or restore the store from a copy.",
        )

    def create(self, key: str, content: bytes) -> bool:
        """Store `content` under a key that nothing has.

        A store may carry out a request whose answer is lost, and is asked again
        then. So what is there already is compared.

        Returns:
            Whether `content` is what lies there now; False where something else does.

        Raises:
            PolicyctlError: As `get`.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            with self._asking(f"creating {key}"):
                obstore.put(self._store, key, content, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return self.size(key) == len(content) and self.get(key, most_bytes=len(content)) == content
        return True

    def put(self, key: str, content: bytes | BinaryIO) -> None:
        """Store bytes, or what an open file holds, under `key`, whatever lies there now.

        Raises:
            PolicyctlError: As `get`.
        """
        import obstore

        with self._asking(f"writing {key}"):
            obstore.put(self._store, key, content)

    def size(self, key: str) -> int | None:
        """How many bytes lie under `key`; None for nothing.

        Raises:
            PolicyctlError: As `get`.
        """
        import obstore

        try:
            with self._asking(f"looking for {key}"):
                return int(obstore.head(self._store, key)["size"])
        except FileNotFoundError:
            return None

    def stream(self, key: str, writer: BinaryIO, *, most_bytes: int, advance: Advance) -> int | None:
        """Write what lies under `key` to a file, but no more than `most_bytes` and a part.

        Returns:
            How many bytes came; None where nothing lies there.

        Raises:
            PolicyctlError: As `get`.
            OSError: The disk refuses.
        """
        import obstore

        if (size := self.size(key)) is None:
            return None
        # In parts, for the limit of time is that of one request.
        for start in range(0, min(size, most_bytes + 1), _PART_BYTES):
            with self._asking(f"reading {key}"):
                part = obstore.get_range(self._store, key, start=start, end=min(start + _PART_BYTES, size))
            writer.write(part)
            advance(start + len(part))
        return size

    def keys(self, folder: str, *, after: str = "") -> tuple[str, ...]:
        """The keys below `folder`, in order; only those behind `after` where that is given.

        Raises:
            PolicyctlError: As `get`.
        """
        import obstore

        with self._asking(f"listing {folder}"):
            pages = obstore.list(self._store, folder, offset=after or None)
            return tuple(sorted(each["path"] for page in pages for each in page))

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        """Raise the library's errors as ours; what is missing, or there already, is an answer."""
        from obstore import exceptions

        try:
            yield
        except (FileNotFoundError, exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise UsageError(
                f"{self.url}: {doing} is not allowed: {first_line(error)}",
                remedy="Check the credentials, and what the bucket permits them.",
            ) from error
        except exceptions.BaseError as error:
            raise ServerError(
                f"{self.url}: {doing} failed: {first_line(error)}",
                remedy="Check the address, the network and the credentials of the store.",
            ) from error


def _opened(url: str, patience_s: float | None, *, creates: bool) -> ObjectStore:
    """The library's view of a bucket; nothing is asked yet.

    Raises:
        UsageError: The URL names no bucket.
        UnsupportedError: The library is not installed.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import LocalStore, from_url
    except ImportError as error:
        raise UnsupportedError(
            "obstore is not installed, which speaks to object stores", remedy="pip install 'policyctl[store]'"
        ) from error
    if not is_bucket(url):
        raise UsageError(f"{url!r} names no store", remedy=f"Begin it with one of: {', '.join(STORE_SCHEMES)}.")
    if holds_secrets(url):
        raise UsageError(
            "the address of a store holds a user, a query or a fragment", remedy="Give credentials by the environment."
        )
    parts = urlsplit(url)
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        if parts.netloc or not folder.is_absolute():
            raise UsageError(f"{url} names no folder of this machine", remedy="For example: file:///srv/policies")
        if not creates and not folder.is_dir():
            raise UsageError(
                f"{folder} does not exist", remedy="Check the address. A node, or a promotion, makes the folder."
            )
        try:
            return LocalStore(folder, mkdir=creates)
        except OSError as error:
            raise UsageError(f"{folder} cannot be used: {first_line(error)}") from error
    if not parts.netloc:
        raise UsageError(f"{url!r} names no bucket", remedy=f"For example: {parts.scheme}://policies")
    more: dict[str, Any] = {
        "client_options": {
            "connect_timeout": f"{min(_CONNECT_S, patience_s or _ANSWER_S)}s",
            "timeout": f"{patience_s or _ANSWER_S}s",
            # The library would not look at the variable any more, because of the options above.
            "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true",
        },
        "retry_config": {
            "max_retries": 0 if patience_s else _RETRIES,
            "retry_timeout": timedelta(seconds=patience_s or _RETRY_S),
        },
    }
    try:
        return from_url(url, **more)
    except (BaseError, ValueError) as error:
        if _WITHOUT_CERTIFICATES in str(error):
            raise UnsupportedError(
                f"{url} cannot be used: this machine has no certificates of authorities to trust",
                remedy="Install them (Debian: apt install ca-certificates), or name a file of them: SSL_CERT_FILE.",
            ) from error
        raise UsageError(f"{url} cannot be used: {first_line(error)}") from error
