"""A folder in OCI's image layout, as the source or the destination of releases.

``oci-layout``, ``index.json`` and ``blobs/sha256/<digest>``. A blob's place
follows from its digest alone, so nothing that is written inside an artifact can
name a path here. ``index.json`` is replaced last and as a whole: an export that
was cut short has added blobs that nothing names, and the next one uses them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from policyctl.adapters import files
from policyctl.adapters.sharing import is_intact
from policyctl.domain.manifest import FileEntry, canonical_json, digest_of, is_digest
from policyctl.domain.oci import ARTIFACT, MEDIA_INDEX, MEDIA_MANIFEST, REF_NAME
from policyctl.errors import IntegrityError, UsageError
from policyctl.hashing import hash_file
from policyctl.integrity import read_file
from policyctl.plain_files import open_reader

_MARK: Final = "oci-layout"
_INDEX: Final = "index.json"
_VERSION: Final = {"imageLayoutVersion": "1.0.0"}


class Layout:
    """One folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def tag(self, model: str, release: str) -> str:
        """How a release is named: a folder may hold those of several models."""
        return f"{model}:{release}"

    def create(self) -> None:
        """Make the folder; nothing happens where it is one already.

        Raises:
            UsageError: Something else is there, or the disk refuses.
        """
        with files.storing(self.folder):
            if self.folder.exists() and not (self.folder / _MARK).is_file() and any(self.folder.iterdir()):
                raise UsageError(
                    f"{self.folder} holds something else",
                    remedy="Name a new folder, or one that an export made.",
                )
            (self.folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            if not (self.folder / _INDEX).is_file():
                self._write_index([])
            if not (self.folder / _MARK).is_file():
                files.write_atomically(self.folder / _MARK, canonical_json(_VERSION))

    def manifest(self, reference: str) -> bytes:
        """The OCI manifest of that tag or digest; of the only one where `reference` is empty.

        Raises:
            UsageError: It does not exist, or there are several and the reference is empty.
            IntegrityError: The folder is not a layout, or the blob is not what its name says.
        """
        found = self._index()
        wanted = [e for e in found if reference in {"", e.get("digest"), self._tag(e)}]
        if len(wanted) != 1:
            tags = ", ".join(sorted(self._tag(e) or str(e.get("digest")) for e in found)) or "none"
            raise UsageError(
                f"{self.folder} holds {len(wanted)} releases by the name {reference!r}"
                if reference
                else f"{self.folder} holds {len(found)} releases",
                remedy=f"It holds: {tags}. Name one: {self.folder}@MODEL:RELEASE",
            )
        digest = str(wanted[0].get("digest"))
        if not is_digest(digest):
            raise IntegrityError(f"{self.folder / _INDEX}: {digest!r} is not a digest")
        content = read_file(self._blob(digest))
        if digest_of(content) != digest:
            raise IntegrityError(f"{self._blob(digest)} is {digest_of(content)}")
        return content

    def put_manifest(self, content: bytes, tag: str) -> None:
        """Store an OCI manifest and name it; whatever had that name loses it.

        Raises:
            UsageError: The disk refuses.
            IntegrityError: The index cannot be read.
        """
        digest = digest_of(content)
        files.write_atomically(self._blob(digest), content)
        others = [e for e in self._index() if self._tag(e) != tag and e.get("digest") != digest]
        mine = {
            "mediaType": MEDIA_MANIFEST,
            "artifactType": ARTIFACT,
            "digest": digest,
            "size": len(content),
            "annotations": {REF_NAME: tag},
        }
        self._write_index([*others, mine])

    def has(self, blob: FileEntry) -> bool:
        """Whether the blob is here, and right."""
        path = self._blob(blob.digest)
        return is_intact((path.parent, path.name), blob)

    def put(self, blob: FileEntry, source: Path, _advance: object = None) -> None:
        """Store a blob.

        Raises:
            UsageError: The disk refuses.
            IntegrityError: `source` is not the blob.
        """
        target = self._blob(blob.digest)
        temporary = target.with_name(files.scratch_name())
        with files.storing(target):
            try:
                with open_reader(source, most_bytes=blob.size_bytes) as reader:
                    files.copy_durably(reader, temporary, most_bytes=blob.size_bytes)
                _require(temporary, blob)
                temporary.replace(target)
                files.sync_folder(target.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def fetch(self, blob: FileEntry, target: Path, _advance: object = None) -> None:
        """Copy a blob to a fresh file, on disk on return.

        Raises:
            UsageError: The disk refuses.
            IntegrityError: It is missing, no plain file, or not what its name says.
        """
        source = self._blob(blob.digest)
        found = _stat(source)
        if found != blob.size_bytes:
            raise IntegrityError(f"{source} ({blob.path}) has {found} bytes, expected {blob.size_bytes}")
        with files.storing(target):
            target.unlink(missing_ok=True)
            with open_reader(source, most_bytes=blob.size_bytes) as reader:
                files.copy_durably(reader, target, most_bytes=blob.size_bytes)
        _require(target, blob, said=f"{source} ({blob.path})")

    def _blob(self, digest: str) -> Path:
        if not is_digest(digest):
            raise IntegrityError(f"{self.folder}: {digest!r} is not a digest")
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def _tag(self, entry: dict[str, Any]) -> str:
        notes = entry.get("annotations")
        return str(notes.get(REF_NAME, "")) if isinstance(notes, dict) else ""

    def _index(self) -> list[dict[str, Any]]:
        if not (self.folder / _MARK).is_file():
            raise UsageError(
                f"{self.folder} is not an OCI image layout (it has no {_MARK})",
                remedy="Name a folder that policyctl release export wrote, or oci://HOST/NAME:TAG.",
            )
        try:
            found = json.loads(read_file(self.folder / _INDEX))["manifests"]
            if not isinstance(found, list) or not all(isinstance(e, dict) for e in found):
                raise TypeError("manifests is not a list of objects")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise IntegrityError(f"{self.folder / _INDEX}: cannot be read ({error})") from error
        return found

    def _write_index(self, manifests: list[dict[str, Any]]) -> None:
        document = {"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": manifests}
        files.write_atomically(self.folder / _INDEX, canonical_json(document))


def _require(path: Path, blob: FileEntry, *, said: str = "") -> None:
    found = hash_file(path.parent, path.name, blob.size_bytes)
    if (found.size_bytes, found.digest) != (blob.size_bytes, blob.digest):
        raise IntegrityError(f"{said or blob.path} is {found.digest}, expected {blob.digest}")


def _stat(path: Path) -> int | None:
    try:
        return os.lstat(path).st_size
    except OSError:
        return None
