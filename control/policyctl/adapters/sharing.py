"""Store identical files once: a hard link to the file of an earlier release, by digest.

Slots are read-only, so a file may have several names. What that costs is that
they rot together: one wrong byte is wrong in every release that shares the
file, and `verify` reports each of them. So a file is shared only after it was
read and found right, and small files, whose sharing saves nothing, are not.

The slots are the only store: the last name that goes takes the bytes with
it. Where a link cannot be made (another file system, too many links), the copy
simply stays.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from policyctl.adapters import files
from policyctl.adapters.repository import Repository
from policyctl.domain.manifest import FileEntry, Manifest
from policyctl.domain.state import PublishedRelease, State
from policyctl.errors import IntegrityError
from policyctl.hashing import hash_file
from policyctl.integrity import read_manifest

Place = tuple[Path, str]
"""A folder, and a path in it."""


def share(repository: Repository, state: State, staged: Path, manifest: Manifest, *, from_bytes: int | None) -> int:
    """Replace files of a staged release by links to identical published ones.

    Args:
        repository: Whose releases may share.
        state: What the journal says.
        staged: A release that is about to be published.
        manifest: Of `staged`; every file of it is right.
        from_bytes: The smallest file that is worth it; None for none.

    Returns:
        How many bytes are not stored again.
    """
    wanted = [f for f in manifest.files if from_bytes is not None and f.size_bytes >= from_bytes]
    if not wanted:
        return 0
    places = where(repository, state.releases.values(), {f.digest for f in wanted})
    return sum(f.size_bytes for f in wanted if any(_link(place, f, staged / f.path) for place in places[f.digest]))


def where(repository: Repository, releases: Iterable[PublishedRelease], digests: set[str]) -> Mapping[str, list[Place]]:
    """Where published files of these digests should lie, by the releases' manifests."""
    found: dict[str, list[Place]] = defaultdict(list)
    for release in releases:
        for entry, folder in _entries(repository, release):
            if entry.digest in digests:
                found[entry.digest].append((folder, entry.path))
    return found


def _entries(repository: Repository, release: PublishedRelease) -> Iterator[tuple[FileEntry, Path]]:
    if release.collected:
        return
    folder = repository.slot(release.model, release.slot)
    with suppress(IntegrityError):  # what is not intact is nobody's source
        manifest, _ = read_manifest(folder, release.manifest_digest)
        yield from ((entry, folder) for entry in manifest.files)


def is_intact(place: Place, wanted: FileEntry) -> bool:
    """Whether a file really has the size and digest that it should."""
    try:
        found = hash_file(*place, wanted.size_bytes)
    except IntegrityError:
        return False
    return (found.size_bytes, found.digest) == (wanted.size_bytes, wanted.digest)


def _link(place: Place, wanted: FileEntry, target: Path) -> bool:
    source = place[0] / place[1]
    temporary = target.with_name(files.scratch_name())
    try:
        before = os.lstat(source)
        if stat.S_IMODE(before.st_mode) & 0o222 or not is_intact(place, wanted):
            return False
        os.link(source, temporary, follow_symlinks=False)
        try:
            if os.lstat(temporary).st_ino != before.st_ino:  # it was replaced while it was read
                return False
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:
        return False
    return True
