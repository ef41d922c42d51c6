"""Read a release from disk and hold every byte against its manifest.

The one reader of releases: `verify`, promotion, server start, the scrub and the
backends inside Triton all call it, so there is one notion of intact. It follows
no link and opens each file once. `read_release` hands out exactly the bytes that
it hashed, so nothing that changes on disk afterwards can be served;
`check_releases` hands out no bytes and takes constant memory, however large the
files are.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from policyctl.domain.artifacts import MANIFEST_FILE
from policyctl.domain.manifest import FileEntry, Manifest, difference, digest_of
from policyctl.errors import IntegrityError
from policyctl.hashing import hash_all, hash_file, read_plain

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


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One path of a release, as it should be and as it is.

    Attributes:
        path: Relative to the release.
        expected: What the manifest says; None where it does not list the path.
        found: What is there; None where nothing is, or nothing that can be read.
        problem: What is wrong, naming the path; empty where it is as published.
    """

    path: str
    expected: FileEntry | None
    found: FileEntry | None
    problem: str


@dataclass(frozen=True, slots=True)
class CheckedRelease:
    """A release as it lies on disk, whole or not.

    Attributes:
        folder: Where.
        manifest: What it should consist of; None where that cannot be told.
        manifest_digest: Of the manifest's bytes as they are; None where there are none.
        files: Every path that is there or should be, sorted.
        problem: Of the manifest, or else the first of `files`; None where it is whole.
    """

    folder: Path
    manifest: Manifest | None
    manifest_digest: str | None
    files: tuple[FileCheck, ...]
    problem: IntegrityError | None

    @property
    def intact(self) -> bool:
        """Whether it is as published."""
        return self.problem is None


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
    manifest, digest = read_manifest(folder, expected_digest)
    listed = {entry.path for entry in manifest.files}
    contents: dict[str, bytes] = {}
    found: list[FileEntry] = []
    streamed: list[str] = []
    for path in list_files(folder):
        if path in keep and path in listed:
            contents[path] = read_plain(folder / path)
            found.append(FileEntry(path, len(contents[path]), digest_of(contents[path])))
        elif path != MANIFEST_FILE:
            streamed.append(path)
    for entry in hash_all([(folder, path) for path in streamed]):
        if isinstance(entry, IntegrityError):
            raise entry
        found.append(entry)
    if problems := manifest.differences(found):
        raise _changed(folder, problems)
    if missing := set(keep) - contents.keys():
        raise IntegrityError(f"{folder}: {', '.join(sorted(missing))} is not part of this release")
    return VerifiedRelease(manifest, digest, contents)


def check_releases(wanted: Sequence[tuple[Path, str | None]]) -> tuple[CheckedRelease, ...]:
    """Hold releases against their manifests, every file, and tell all that is wrong.

    Nothing about a release is an exception here, and no bytes are kept.

    Args:
        wanted: Folders, each with what its manifest must hash to (None where nothing pins it).
    """
    surveys = [_survey(folder) for folder, _ in wanted]
    items = [(folder, path) for (folder, _), (paths, _) in zip(wanted, surveys, strict=True) for path in paths]
    hashed = dict(zip(items, hash_all(items, once_per_inode=True), strict=True))
    found = []
    for (folder, digest), (paths, errors) in zip(wanted, surveys, strict=True):
        entries = {path: hashed[folder, path] for path in paths}
        found.append(_judge(folder, digest, {**errors, **entries}))
    return tuple(found)


def _survey(folder: Path) -> tuple[list[str], dict[str, FileEntry | IntegrityError]]:
    """The paths that can be hashed, and what is wrong with the others."""
    paths: list[str] = []
    errors: dict[str, FileEntry | IntegrityError] = {}
    for path, error in _walk_root(folder):
        if error is not None:
            errors[path] = error
        elif path != MANIFEST_FILE:
            paths.append(path)
    return paths, errors


def _judge(folder: Path, digest: str | None, found: dict[str, FileEntry | IntegrityError]) -> CheckedRelease:
    problem: IntegrityError | None = None
    manifest, own_digest = None, None
    try:
        own_digest = digest_of(read_plain(folder / MANIFEST_FILE))
        manifest, own_digest = read_manifest(folder, digest)
    except IntegrityError as error:
        problem = error
    want = {} if manifest is None else {entry.path: entry for entry in manifest.files}
    files, changed = [], []
    for path in sorted(want.keys() | found.keys()):
        seen = found.get(path)
        if isinstance(seen, IntegrityError):
            files.append(FileCheck(path, want.get(path), None, seen.problem))
            problem = problem or seen
        elif manifest is None:
            files.append(FileCheck(path, None, seen, f"{path} cannot be judged without the manifest"))
        else:
            words = difference(path, want.get(path), seen)
            files.append(FileCheck(path, want.get(path), seen, words))
            changed += [words] if words else []
    return CheckedRelease(
        folder, manifest, own_digest, tuple(files), problem or (_changed(folder, changed) if changed else None)
    )


def read_manifest(folder: Path, expected_digest: str | None) -> tuple[Manifest, str]:
    """The manifest of the release in `folder`, and the digest of its text.

    Args:
        folder: A slot of the repository, or an alias's copy of one.
        expected_digest: What it must hash to; None where nothing pins it.

    Raises:
        IntegrityError: It is missing, not the pinned one or not canonical.
    """
    content = read_plain(folder / MANIFEST_FILE)
    digest = digest_of(content)
    if expected_digest is not None and digest != expected_digest:
        raise IntegrityError(
            f"{folder}: {MANIFEST_FILE} is {digest}, expected {expected_digest}",
            remedy="The manifest was changed after publishing. Restore the folder, or publish a new release.",
        )
    return Manifest.from_bytes(content), digest


def _changed(folder: Path, problems: Sequence[str]) -> IntegrityError:
    return IntegrityError(
        f"{folder}: {'; '.join(problems)}",
        remedy="Restore the files from where they were published, or roll back to another release.",
    )


def build_manifest(folder: Path, *, model: str, release: str) -> Manifest:
    """The manifest of every file in `folder` (a manifest itself left out).

    Raises:
        IntegrityError: A link, a device, a name that a manifest cannot hold,
            two names that differ in case only, or an empty folder.
    """
    entries = (hash_file(folder, path) for path in list_files(folder) if path != MANIFEST_FILE)
    return Manifest(model=model, release=release, files=tuple(sorted(entries)))


def list_files(folder: Path) -> Iterator[str]:
    """POSIX paths of all files below `folder`, sorted; links are refused.

    Raises:
        IntegrityError: `folder` or anything below it is a link, or is neither a
            plain file nor a folder, or cannot be listed; or a folder is empty
            or nested more than 32 deep.
    """
    for path, error in _walk_root(folder):
        if error is not None:
            raise error
        yield path


_Seen = tuple[str, IntegrityError | None]


def _walk_root(folder: Path) -> Iterator[_Seen]:
    if folder.is_symlink():
        yield "", IntegrityError(f"{folder} is a symbolic link", remedy="Put the files themselves there.")
    else:
        yield from _walk(folder, "")


def _walk(folder: Path, prefix: str) -> Iterator[_Seen]:
    """Every path below `folder`, each with what forbids it."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        yield prefix, IntegrityError(f"{folder}: cannot be listed ({error.strerror})")
        return
    if not entries and prefix:
        yield prefix, IntegrityError(f"{folder} is an empty folder, which no manifest lists")
    if prefix.count("/") > _DEPTH:
        yield prefix, IntegrityError(f"{folder}: folders nested more than {_DEPTH} deep")
        return
    for entry in entries:
        path = prefix + entry.name
        if entry.is_symlink():
            yield path, IntegrityError(f"{folder / entry.name} is a symbolic link", remedy="Put the file itself there.")
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, f"{path}/")
        elif entry.is_file(follow_symlinks=False):
            yield path, None
        else:
            yield path, IntegrityError(f"{folder / entry.name} is neither a file nor a folder")
