"""Releases in a bucket: blobs by their digest, and each release's OCI manifest by its number.

The same artifact as in a folder or a registry (`domain.oci`). What is under a
digest is checked when it is fetched, so a bucket is trusted with nothing. A
number keeps its release: a manifest is replaced only by one of the same files,
which has other signatures.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from semver import Version

from policyctl.adapters import files
from policyctl.adapters.bucket import Bucket
from policyctl.adapters.files import Advance, unseen
from policyctl.domain.manifest import FileEntry, digest_of, is_digest
from policyctl.domain.names import check_model_name, check_release
from policyctl.domain.oci import MOST_BYTES, read_artifact
from policyctl.errors import IntegrityError, UsageError
from policyctl.hashing import hash_file
from policyctl.plain_files import DOCUMENT_BYTES, open_reader, unreadable_release

_RELEASES: Final = "releases"
_AGAIN: Final = "Remove that object, and put the release there again with policyctl release export."


@dataclass(frozen=True, slots=True)
class BucketReleases:
    """The releases of one bucket."""

    bucket: Bucket

    def __str__(self) -> str:
        return self.bucket.url

    def tag(self, model: str, release: str) -> str:
        """How a release is named: a bucket holds those of all models."""
        return f"{model}:{release}"

    def create(self) -> None:
        """Nothing has to be made in a bucket."""

    def releases(self, model: str) -> tuple[str, ...]:
        """The numbers of the releases of `model`.

        Raises:
            PolicyctlError: As `Bucket.get`.
        """
        names = (key.rpartition("/")[2] for key in self.bucket.keys(f"{_RELEASES}/{model}"))
        return tuple(name for name in names if Version.is_valid(name))

    def manifest(self, reference: str) -> bytes:
        """The OCI manifest of that ``MODEL:RELEASE`` or digest.

        Raises:
            UsageError: It does not exist, or the reference is empty.
            IntegrityError: It is not what the digest says.
            PolicyctlError: As `Bucket.get`.
        """
        if not reference:
            raise UsageError(f"{self} names no release", remedy=f"Name one: {self}@MODEL:RELEASE")
        key = _blob(reference) if is_digest(reference) else _key(reference)
        content = self.bucket.get(key, most_bytes=MOST_BYTES)
        if content is None:
            raise UsageError(
                f"{self} holds no release {reference}",
                remedy=f"Put it there: policyctl release export MODEL RELEASE {self}",
            )
        if is_digest(reference) and digest_of(content) != reference:
            raise IntegrityError(f"{self}/{key} is {digest_of(content)}")
        return content

    def put_manifest(self, content: bytes, tag: str) -> None:
        """Store an OCI manifest under its digest and its number; the blobs must be there.

        Raises:
            UsageError: The number names other files.
            PolicyctlError: As `Bucket.get`.
        """
        self.bucket.put(_blob(digest_of(content)), content)
        if self.bucket.create(_key(tag), content):
            return
        there = read_artifact(self.manifest(tag)).config.digest
        if there != read_artifact(content).config.digest:
            raise UsageError(
                f"{self} holds {tag} with other files ({there})",
                remedy="A release number is never used again. The release that is there was not changed.",
            )
        self.bucket.put(_key(tag), content)

    def read(self, blob: FileEntry) -> bytes:
        """A small blob.

        Raises:
            IntegrityError: It is missing, or not what its name says.
            PolicyctlError: As `Bucket.get`.
        """
        content = self.bucket.get(_blob(blob.digest), most_bytes=min(blob.size_bytes, DOCUMENT_BYTES))
        if content is None or digest_of(content) != blob.digest:
            raise IntegrityError(
                f"{self}/{_blob(blob.digest)} ({blob.path}) is {'missing' if content is None else 'something else'}",
                remedy=_AGAIN,
            )
        return content

    def has(self, blob: FileEntry) -> bool:
        """Whether something of that size lies under the digest; who fetches it computes the digest."""
        return self.bucket.size(_blob(blob.digest)) == blob.size_bytes

    def put(self, blob: FileEntry, source: Path, advance: Advance = unseen) -> None:
        """Store a blob.

        Raises:
            IntegrityError: `source` is not the blob.
            PolicyctlError: As `Bucket.get`.
        """
        if hash_file(source.parent, source.name, blob.size_bytes).digest != blob.digest:
            raise IntegrityError(f"{source} is not {blob.digest}")
        try:
            file = open_reader(source, most_bytes=blob.size_bytes)
        except OSError as error:
            raise unreadable_release(source, error) from error
        with file:
            self.bucket.put(_blob(blob.digest), file)
        advance(blob.size_bytes)

    def fetch(self, blob: FileEntry, target: Path, advance: Advance = unseen) -> None:
        """Copy a blob to a fresh file, on disk on return.

        Raises:
            UsageError: The disk refuses, or the bucket has no such blob.
            IntegrityError: What came is not the blob.
            PolicyctlError: As `Bucket.get`.
        """
        key, part = _blob(blob.digest), target.with_name(target.name + ".part")
        with files.storing(target):
            part.unlink(missing_ok=True)
            with part.open("xb") as writer:
                came = self.bucket.stream(key, writer, most_bytes=blob.size_bytes, advance=advance)
                writer.flush()
                os.fsync(writer.fileno())
            found = hash_file(part.parent, part.name)
            if came is None or (found.size_bytes, found.digest) != (blob.size_bytes, blob.digest):
                part.unlink()
                said = "nothing lies there" if came is None else f"it is {found.digest} ({found.size_bytes} bytes)"
                raise IntegrityError(
                    f"{self}/{key} ({blob.path}): {said}, expected {blob.digest} ({blob.size_bytes} bytes)",
                    remedy=_AGAIN,
                )
            part.chmod(0o444)
            part.replace(target)
            files.sync_folder(target.parent)


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _key(tag: str) -> str:
    """The key of ``MODEL:RELEASE``.

    Raises:
        UsageError: It is something else.
    """
    model, colon, release = tag.partition(":")
    if not colon:
        raise UsageError(f"{tag!r} names no release", remedy="Name one: MODEL:RELEASE, for example walker:1.0.0")
    return f"{_RELEASES}/{check_model_name(model)}/{check_release(release)}"
