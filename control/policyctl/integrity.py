"""Read a release from disk and hold every byte against its manifest.

The one reader of releases in Python: `verify`, promotion, server start, the scrub
and the Python-based backends inside Triton call it. The native backend has its
own in C++, which tests hold against this one. It follows
no link and opens each file once. It compares sizes with the manifest before it
reads, so a sparse file costs neither time nor memory. `read_release` hands out
exactly the bytes that it hashed, so nothing that changes on disk afterwards can be served;
`check_releases` hands out no bytes and takes constant memory, however large the
files are.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyctl.domain.artifacts import MANIFEST_FILE
from policyctl.domain.manifest import FileEntry, Manifest, check_path, difference, digest_of, size_difference
from policyctl.errors import IntegrityError, UnreadableError
from policyctl.hashing import hash_all, hash_file
from policyctl.plain_files import DOCUMENT_BYTES, read_plain, unreadable_release
from policyctl.release_files import list_files, walk_release

_MANIFEST_BYTES: Final = 16 << 20
"""As the native backend's reader has it."""


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
        found: What was read; None where nothing was: it is missing, of another size, or cannot be read.
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
        manifest: What it should consist of; None where that is unknown.
        manifest_digest: Of the manifest's bytes as they are; None where the file is missing.
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
    survey = _survey(folder, expected_digest)
    manifest, digest = _intact(survey, {})  # what can be seen before a file is read
    listed = survey.listed
    if missing := set(keep) - listed.keys():
        raise IntegrityError(f"{folder}: {', '.join(sorted(missing))} is not part of this release")
    contents = {path: read_file(folder / path, most_bytes=listed[path].size_bytes) for path in sorted(keep)}
    rest = [path for path in survey.to_read if path not in contents]
    hashed = dict(zip(rest, hash_all([(folder, path, listed[path].size_bytes) for path in rest]), strict=True))
    for path, content in contents.items():
        hashed[path] = FileEntry(path, len(content), digest_of(content))
    _intact(survey, hashed)
    return VerifiedRelease(manifest, digest, contents)


def _intact(survey: _Survey, hashed: Mapping[str, FileEntry | IntegrityError]) -> tuple[Manifest, str]:
    judged = _judge(survey, hashed)
    if judged.problem is not None:
        raise judged.problem
    assert judged.manifest is not None and judged.manifest_digest is not None  # noqa: S101 - else there is a problem
    return judged.manifest, judged.manifest_digest


def _outside_problem(folder: Path, path: str, entry: FileEntry | None) -> str:
    try:
        if entry is None:
            return difference(check_path(path), None, None)
        size = os.lstat(folder / path).st_size
    except IntegrityError as error:
        return error.problem
    except OSError:
        return ""  # reading it says why
    return "" if size == entry.size_bytes else size_difference(path, entry.size_bytes, size)


def read_file(path: Path, *, most_bytes: int = DOCUMENT_BYTES) -> bytes:
    """All of one file of a release.

    Args:
        path: The file.
        most_bytes: The most that it can rightly hold.

    Raises:
        IntegrityError: It is missing, is not a plain file, is too large, or cannot be read.
    """
    try:
        return read_plain(path, most_bytes=most_bytes)
    except OSError as error:
        raise unreadable_release(path, error) from error


def check_releases(wanted: Sequence[tuple[Path, str | None]]) -> tuple[CheckedRelease, ...]:
    """Hold releases against their manifests, every file, and name all that is wrong; no bytes are kept.

    Args:
        wanted: Folders, each with what its manifest must hash to (None where nothing pins it).

    Raises:
        UnreadableError: This process may not read a file, so nothing can be said of it.
    """
    surveys = [_survey(folder, digest) for folder, digest in wanted]
    items = [(survey.folder, path, survey.listed[path].size_bytes) for survey in surveys for path in survey.to_read]
    hashed = dict(zip(items, hash_all(items), strict=True))
    return tuple(
        _judge(survey, {path: hashed[survey.folder, path, survey.listed[path].size_bytes] for path in survey.to_read})
        for survey in surveys
    )


@dataclass(frozen=True, slots=True)
class _Survey:
    """A release before its files are read.

    Attributes:
        folder: Where.
        manifest: What it should consist of; None where that is unknown.
        manifest_digest: Of the manifest's bytes as they are; None where the file is missing.
        problem: Why there is no manifest.
        to_read: Listed files of the right size.
        wrong: What is wrong with each of the others, and with listed files that are missing.
        listed: What the manifest lists, by path.
    """

    folder: Path
    manifest: Manifest | None
    manifest_digest: str | None
    problem: IntegrityError | None
    to_read: tuple[str, ...]
    wrong: Mapping[str, IntegrityError]
    listed: Mapping[str, FileEntry]


def _survey(folder: Path, expected_digest: str | None) -> _Survey:
    problem: IntegrityError | None = None
    manifest, digest = None, None
    try:
        content = read_file(folder / MANIFEST_FILE, most_bytes=_MANIFEST_BYTES)
        digest = digest_of(content)
        manifest = _parsed(folder, content, digest, expected_digest)
    except IntegrityError as refused:
        problem = refused
    listed = {} if manifest is None else {entry.path: entry for entry in manifest.files}
    to_read, wrong = list[str](), dict[str, IntegrityError]()
    for path, error in walk_release(folder):
        if error is not None:
            wrong[path] = error
        elif path == MANIFEST_FILE:
            continue
        elif manifest is None:
            wrong[path] = IntegrityError(f"{path} cannot be judged without the manifest")
        elif problem_of_path := _outside_problem(folder, path, listed.get(path)):
            wrong[path] = IntegrityError(problem_of_path)
        else:
            to_read.append(path)
    for path in listed.keys() - wrong.keys() - set(to_read):
        wrong[path] = IntegrityError(difference(path, listed[path], None))
    return _Survey(folder, manifest, digest, problem, tuple(to_read), wrong, listed)


def _judge(survey: _Survey, hashed: Mapping[str, FileEntry | IntegrityError]) -> CheckedRelease:
    files = []
    for error in (survey.problem, *survey.wrong.values(), *hashed.values()):
        if isinstance(error, UnreadableError):
            raise error
    for path, read in sorted({**hashed, **survey.wrong}.items()):
        expected = survey.listed.get(path)
        if isinstance(read, IntegrityError):
            files.append(FileCheck(path, expected, None, read.problem))
        else:
            files.append(FileCheck(path, expected, read, difference(path, expected, read)))
    problems = [file.problem for file in files if file.problem]
    problem = survey.problem or (_changed(survey.folder, problems) if problems else None)
    return CheckedRelease(survey.folder, survey.manifest, survey.manifest_digest, tuple(files), problem)


def read_manifest(folder: Path, expected_digest: str | None) -> tuple[Manifest, str]:
    """The manifest of the release in `folder`, and the digest of its text.

    Args:
        folder: A slot of the repository, or an alias's copy of one.
        expected_digest: What it must hash to; None where nothing pins it.

    Raises:
        IntegrityError: It is missing, not the pinned one or not canonical.
    """
    content = read_file(folder / MANIFEST_FILE, most_bytes=_MANIFEST_BYTES)
    digest = digest_of(content)
    return _parsed(folder, content, digest, expected_digest), digest


def _parsed(folder: Path, content: bytes, digest: str, expected_digest: str | None) -> Manifest:
    if expected_digest is not None and digest != expected_digest:
        raise IntegrityError(
            f"{folder}: {MANIFEST_FILE} is {digest}, expected {expected_digest}",
            remedy="The manifest was changed after publishing. Restore the folder, or publish a new release.",
        )
    return Manifest.from_bytes(content)


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
