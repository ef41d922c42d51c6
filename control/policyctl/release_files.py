"""Which files the folder of a release holds, and what forbids anything else in it.

Whatever can write to a folder can put a link, a device or an endless file there.
So each entry is looked at, and none is opened.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from policyctl.errors import IntegrityError
from policyctl.plain_files import unreadable_release, walk

_DEPTH: Final = 32
LARGEST_FILE_BYTES: Final = 8 << 30
"""Most of one file of a release: its backend holds all of it in memory."""


def list_files(folder: Path) -> Iterator[str]:
    """POSIX paths of all files below `folder`, sorted; links are refused.

    Raises:
        IntegrityError: `folder` or anything below it is a link, or is neither a
            plain file nor a folder, or cannot be listed; a file is larger than
            8 GiB; or a folder is empty or nested more than 32 deep.
    """
    for path, error in walk_release(folder):
        if error is not None:
            raise error
        yield path


def walk_release(folder: Path) -> Iterator[tuple[str, IntegrityError | None]]:
    """Every file below `folder`, sorted, and everything else there with what forbids it."""
    if folder.is_symlink():
        yield "", IntegrityError(f"{folder} is a symbolic link", remedy="Put the files themselves there.")
        return
    errors: list[OSError] = []
    entries = list(walk(folder, on_error=errors.append))
    closed = {os.fsdecode(error.filename): error for error in errors}
    for path, error in closed.items():
        yield _below(folder, path), unreadable_release(Path(path), error, doing="listed")
    holders = {os.path.dirname(entry.path) for entry in entries} | closed.keys()  # noqa: PTH120 - a text for each file
    for entry in sorted(entries, key=lambda entry: entry.path):
        refused = _refused(entry, holders, depth=_below(folder, entry.path).count("/"))
        if refused is not None or not entry.is_dir(follow_symlinks=False):
            yield _below(folder, entry.path), refused


def _below(folder: Path, path: str) -> str:
    return path[len(str(folder)) + 1 :]


def _refused(entry: os.DirEntry[str], holders: Collection[str], *, depth: int) -> IntegrityError | None:
    if entry.is_symlink():
        return IntegrityError(f"{entry.path} is a symbolic link", remedy="Put the file itself there.")
    if entry.is_dir(follow_symlinks=False):
        if depth > _DEPTH:
            return IntegrityError(f"{entry.path}: folders nested more than {_DEPTH} deep")
        empty = entry.path not in holders
        return IntegrityError(f"{entry.path} is an empty folder, which no manifest lists") if empty else None
    if not entry.is_file(follow_symlinks=False):
        return IntegrityError(f"{entry.path} is neither a file nor a folder")
    with suppress(OSError):  # reading it says why
        size = entry.stat(follow_symlinks=False).st_size
        if size > LARGEST_FILE_BYTES:
            return IntegrityError(
                f"{entry.path} has {size} bytes, expected at most {LARGEST_FILE_BYTES} for a file of a release"
            )
    return None
