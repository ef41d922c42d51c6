"""Read a release from disk and hold every byte against its manifest.

The one reader of releases: `verify`, promotion, server start and the backends
inside Triton all call it, so there is one notion of intact. It follows no
link, opens each file once, and hands out exactly the bytes that it hashed, so
nothing that changes on disk afterwards can be served.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from policyctl.domain.artifacts import MANIFEST_FILE
from policyctl.domain.manifest import FileEntry, Manifest, digest_of
from policyctl.errors import IntegrityError

_CHUNK_BYTES = 1 << 20
_DEPTH = 32


@dataclass(frozen=True, slots=True)
class VerifiedRelease:
    """A release that was whole when it was read.

    Attributes:
        manifest: What it consists of.
        manifest_digest: Digest of the manifest's own bytes.
        contents: The bytes of the files that were asked for, by path.
    """

    manifest: Manifest
    manifest_digest: str
    contents: dict[str, bytes]


def read_release(folder: Path, *, keep: Collection[str] = (), expected_digest: str | None = None) -> VerifiedRelease:
    """Read and check every file of the release in `folder`.

    Args:
        folder: A slot of the repository, or an alias's copy of one.
        keep: Paths whose bytes the caller wants; they are read once.
        expected_digest: What the manifest itself must hash to; None where
            nothing pins it (a release that is just being published).

    Raises:
        IntegrityError: The manifest is missing, not the pinned one or not
            canonical, or any file is missing, added, changed or not plain.
    """
    manifest_bytes = _read_plain(folder / MANIFEST_FILE)
    digest = digest_of(manifest_bytes)
    if expected_digest is not None and digest != expected_digest:
        raise IntegrityError(
            f"{folder}: {MANIFEST_FILE} is {digest}, expected {expected_digest}",
            remedy="The manifest was changed after publishing. Restore the folder, or publish a new release.",
        )
    manifest = Manifest.from_bytes(manifest_bytes)
    contents: dict[str, bytes] = {}
    found: list[FileEntry] = []
    listed = {entry.path for entry in manifest.files}
    for path in list_files(folder):
        if path == MANIFEST_FILE:
            continue
        if path in keep and path in listed:
            contents[path] = _read_plain(folder / path)
            found.append(FileEntry(path, len(contents[path]), digest_of(contents[path])))
        else:
            found.append(hash_file(folder, path))
    if problems := manifest.differences(found):
        raise IntegrityError(
            f"{folder}: {'; '.join(problems)}",
            remedy="Restore the files from where they were published, or roll back to another release.",
        )
    if missing := set(keep) - contents.keys():
        raise IntegrityError(f"{folder}: {', '.join(sorted(missing))} is not part of this release")
    return VerifiedRelease(manifest, digest, contents)


def build_manifest(folder: Path, *, model: str, release: str) -> Manifest:
    """The manifest of every file in `folder` (a manifest itself left out).

    Raises:
        IntegrityError: A link, a device, a name that a manifest cannot hold,
            two names that differ in case only, or an empty folder.
    """
    entries = (hash_file(folder, path) for path in list_files(folder) if path != MANIFEST_FILE)
    return Manifest(model=model, release=release, files=tuple(sorted(entries)))


def hash_file(folder: Path, path: str) -> FileEntry:
    """Size and digest of one file, in constant memory.

    Raises:
        IntegrityError: It is not a plain file, or cannot be read.
    """
    hasher, size = hashlib.sha256(), 0
    for chunk in _chunks(folder / path):
        hasher.update(chunk)
        size += len(chunk)
    return FileEntry(path, size, "sha256:" + hasher.hexdigest())


def list_files(folder: Path) -> Iterator[str]:
    """POSIX paths of all files below `folder`, sorted; links are refused.

    Raises:
        IntegrityError: `folder` or anything below it is a link, or is neither a
            plain file nor a folder, or cannot be listed; or a folder is empty
            or nested more than 32 deep.
    """
    if folder.is_symlink():
        raise IntegrityError(f"{folder} is a symbolic link", remedy="Put the files themselves there.")
    yield from _walk(folder, "")


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise IntegrityError(f"{folder}: cannot be listed ({error.strerror})") from error
    if not entries and prefix:
        raise IntegrityError(f"{folder} is an empty folder, which no manifest lists")
    if prefix.count("/") > _DEPTH:
        raise IntegrityError(f"{folder}: folders nested more than {_DEPTH} deep")
    for entry in entries:
        if entry.is_symlink():
            raise IntegrityError(f"{folder / entry.name} is a symbolic link", remedy="Put the file itself there.")
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, f"{prefix}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):
            yield prefix + entry.name
        else:
            raise IntegrityError(f"{folder / entry.name} is neither a file nor a folder")


def _open_plain(path: Path) -> int:
    try:
        # O_NONBLOCK: opening a FIFO that was put in a file's place must not hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise IntegrityError(f"{path} is a symbolic link", remedy="Put the file itself there.") from error
        raise IntegrityError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IntegrityError(f"{path} is not a plain file")
    return descriptor


def _read_plain(path: Path) -> bytes:
    return b"".join(_chunks(path))


def _chunks(path: Path) -> Iterator[bytes]:
    with os.fdopen(_open_plain(path), "rb") as file:
        try:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
        except OSError as error:
            raise IntegrityError(f"{path}: cannot be read ({error.strerror})") from error
