"""An OCI registry, spoken to by its distribution API: the source or the destination of releases.

Blobs are checked by digest on both ways: neither a registry nor anybody on the
way to it is trusted. What is there already is not sent again, and a download
that was cut short goes on where it ended. How it is spoken to, and who learns a
password, stands in `adapters.registry_wire`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from policyctl.adapters import files
from policyctl.adapters.files import Advance, unseen
from policyctl.adapters.registry_reference import SCHEME, Reference
from policyctl.adapters.registry_wire import Wire
from policyctl.domain.manifest import FileEntry, digest_of, is_digest
from policyctl.domain.oci import MEDIA_MANIFEST, MOST_BYTES, tag_of
from policyctl.errors import IntegrityError, UsageError
from policyctl.hashing import hash_file
from policyctl.plain_files import open_plain, open_reader, unreadable_release
from policyctl.settings import RegistrySettings


@dataclass(slots=True)
class Registry:
    """One repository in one registry.

    Attributes:
        where: Which.
        settings: Credentials, certificates, patience.
    """

    where: Reference
    settings: RegistrySettings
    _wire: Wire = field(init=False)

    def __post_init__(self) -> None:
        self._wire = Wire(self.where, self.settings)

    def __str__(self) -> str:
        return f"{SCHEME}{self.where.host}/{self.where.name}"

    def tag(self, _model: str, release: str) -> str:
        """How a release is named: as it was asked for, else by its number."""
        return self.where.reference or tag_of(release)

    def create(self) -> None:
        """Ask whether anybody is there.

        Raises:
            ServerError: Nobody answers, or something else than a registry does.
            UsageError: It wants other credentials.
        """
        self._call("GET", f"{self.where.base.partition('/v2/')[0]}/v2/", expected=(200,), doing="asking the registry")

    def manifest(self, reference: str) -> bytes:
        """The OCI manifest of that tag or digest, or of the one in the reference.

        Raises:
            UsageError: It does not exist, or the reference is empty.
            ServerError: The registry does not answer.
            IntegrityError: It is not what the digest says, or far too long.
        """
        wanted = reference or self.where.reference
        if not wanted:
            raise UsageError(f"{self} names no release", remedy=f"Add a tag: {self}:1.0.0")
        content, headers = self._call(
            "GET",
            f"{self.where.base}/manifests/{wanted}",
            headers={"Accept": MEDIA_MANIFEST},
            expected=(200,),
            doing=f"fetching {wanted}",
        )
        digest = wanted if is_digest(wanted) else headers.get("Docker-Content-Digest", "")
        if digest and digest_of(content) != digest:
            raise IntegrityError(f"{self}: the manifest of {wanted} is {digest_of(content)}, expected {digest}")
        return content

    def put_manifest(self, content: bytes, tag: str) -> None:
        """Store an OCI manifest under a tag; the blobs must be there.

        Raises:
            UsageError: Not allowed.
            ServerError: The registry refuses.
        """
        self._call(
            "PUT",
            f"{self.where.base}/manifests/{tag}",
            body=content,
            headers={"Content-Type": MEDIA_MANIFEST},
            expected=(201,),
            doing=f"naming {tag}",
        )

    def has(self, blob: FileEntry) -> bool:
        """Whether the registry says that it has the blob; it computed the digest itself when it took it."""
        url = f"{self.where.base}/blobs/{blob.digest}"
        with self._wire.open("HEAD", url, expected=(200, 404), doing=f"looking for {blob.path}") as answer:
            return answer.status == 200

    def put(self, blob: FileEntry, source: Path, advance: Advance = unseen) -> None:
        """Send a blob, streamed.

        Args:
            blob: Which.
            source: Its file.
            advance: Called as it is sent.

        Raises:
            UsageError: Not allowed.
            ServerError: The registry refuses, for example because the file has changed.
        """
        doing = f"sending {blob.path}"
        url = f"{self.where.base}/blobs/uploads/"
        with self._wire.open("POST", url, headers={"Content-Length": "0"}, expected=(202,), doing=doing) as begun:
            location = urljoin(url, begun.headers.get("Location", ""))
        parts = urlsplit(location)
        query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), ("digest", blob.digest)])
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size_bytes)}
        try:
            file = open_reader(source, most_bytes=blob.size_bytes)
        except OSError as error:
            raise unreadable_release(source, error) from error
        with file:
            self._call(
                "PUT",
                parts._replace(query=query).geturl(),
                body=_Reader(file, advance),
                headers=headers,
                size_bytes=blob.size_bytes,
                expected=(201,),
                doing=doing,
            )

    def fetch(self, blob: FileEntry, target: Path, advance: Advance = unseen) -> None:
        """Download a blob to `target`, from where an earlier try ended; on disk on return.

        Args:
            blob: Which.
            target: The file.
            advance: Called as it arrives.

        Raises:
            UsageError: The disk refuses, or the registry has no such blob.
            ServerError: The registry does not answer.
            IntegrityError: What came is not the blob.
        """
        part = target.with_name(target.name + ".part")
        resumed = part.exists()
        with files.storing(target):
            self._receive(blob, part, advance)
            found = hash_file(part.parent, part.name)
            if resumed and found.digest != blob.digest:
                part.unlink()
                self._receive(blob, part, advance)
                found = hash_file(part.parent, part.name)
            if (found.size_bytes, found.digest) != (blob.size_bytes, blob.digest):
                part.unlink()
                raise IntegrityError(
                    f"{self}: {blob.path} came as {found.digest} ({found.size_bytes} bytes),"
                    f" expected {blob.digest} ({blob.size_bytes} bytes)"
                )
            part.chmod(0o444)
            part.replace(target)
            files.sync_folder(target.parent)

    def _receive(self, blob: FileEntry, part: Path, advance: Advance) -> None:
        begin = part.stat().st_size if part.exists() else 0
        if begin > blob.size_bytes:
            part.unlink()
            begin = 0
        if begin >= blob.size_bytes > 0:
            return
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        url, doing = f"{self.where.base}/blobs/{blob.digest}", f"fetching {blob.path}"
        size_bytes = blob.size_bytes - begin
        with self._wire.open(
            "GET", url, headers=headers, size_bytes=size_bytes, expected=(200, 206), doing=doing
        ) as answer:
            done = begin if answer.status == 206 else 0
            flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if answer.status == 206 else os.O_TRUNC)
            with os.fdopen(open_plain(part, flags), "wb") as file:
                for chunk in answer.chunks():
                    file.write(chunk[: blob.size_bytes - done + 1])  # one byte too many is enough to be refused
                    done += len(chunk)
                    advance(done)
                    if done > blob.size_bytes:
                        break
                file.flush()
                os.fsync(file.fileno())

    def _call(self, method: str, url: str, *, doing: str, **more: Any) -> tuple[bytes, Mapping[str, str]]:
        with self._wire.open(method, url, doing=doing, **more) as answer:
            return answer.read(MOST_BYTES), answer.headers


class _Reader:
    """A file that says how much of it has been read."""

    def __init__(self, file: BinaryIO, advance: Advance) -> None:
        self._file, self._advance = file, advance

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._advance(self._file.tell())
        return content

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int, whence: int = 0) -> int:
        return self._file.seek(position, whence)
