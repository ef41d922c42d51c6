"""Open a plain file, and read no more of it than it can rightly hold.

Whatever can write to a folder can put something else in a file's place. A FIFO
keeps its reader waiting for ever, a device never ends, a link leads elsewhere,
and a sparse file claims more bytes than memory has. So every file is opened
here: its kind is looked at before it is opened, its size before it is read, and
a read ends at a limit that the caller states.

Every refusal is an `OSError` whose `strerror` says what is there and what was
expected. So a caller handles it as it handles a missing permission.

A file that may not be read is another thing than a file that is not there. Who
goes on without a file says so by `refuse_if_denied`.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from policyctl.errors import IntegrityError, UnreadableError, UsageError

NOTE_BYTES: Final = 1 << 20
"""Most of a file that holds a few values, as a lock or an endpoint does."""
DOCUMENT_BYTES: Final = 64 << 20
"""Most of a file that grows with what it describes, as a contract, a golden set or a report does."""

_KINDS: Final = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_LEAST_READ: Final = 4096
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def scheme_of(text: str) -> str:
    """What a URL begins with, as ``ftp://``; empty for the path of a file or folder, which `Path` makes of anything."""
    found = _SCHEME.match(text)
    return found[0] if found else ""


def open_plain(path: Path, flags: int = os.O_RDONLY, mode: int = 0o644, *, follow_links: bool = False) -> int:
    """Open a plain file; never waits.

    Args:
        path: The file.
        flags: As `os.open` takes them; with ``O_CREAT`` the file may be missing.
        mode: Permissions of a file that is made.
        follow_links: Whether the file may be a link to a plain file. True for
            files that a person names, False for files of the repository.

    Returns:
        A descriptor, closed on exec.

    Raises:
        OSError: It is missing, is not a plain file, or may not be opened.
    """
    try:
        try:
            _require_plain(path, os.stat(path, follow_symlinks=follow_links).st_mode)  # noqa: PTH116 - to open can act
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
        descriptor = os.open(path, flags | _FLAGS | (0 if follow_links else os.O_NOFOLLOW), mode)
    except PermissionError as error:
        raise PermissionError(error.errno, f"{error.strerror}: {_whose(path.absolute())}", str(path)) from error
    try:
        _require_plain(path, os.fstat(descriptor).st_mode)  # it may be another one by now
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_reader(path: Path, *, most_bytes: int, follow_links: bool = False) -> BufferedReader:
    """A plain file as a stream; it may grow beyond `most_bytes` while it is read.

    Args:
        path: The file.
        most_bytes: The most that it can rightly hold; a larger one is refused.
        follow_links: As `open_plain`.

    Raises:
        OSError: As `open_plain`; or it is larger than `most_bytes`.
    """
    stream = os.fdopen(open_plain(path, follow_links=follow_links), "rb")
    size = os.fstat(stream.fileno()).st_size
    if size > most_bytes:
        stream.close()
        raise _too_large(path, f"{size}", most_bytes)
    return stream


def open_named(path: Path, *, most_bytes: int) -> BufferedReader:
    """A plain file that a person names, as a stream; links are followed.

    Raises:
        UsageError: It cannot be read, is a folder, device or FIFO, or is larger than `most_bytes`.
    """
    try:
        return open_reader(path, most_bytes=most_bytes, follow_links=True)
    except OSError as error:
        raise unreadable(path, error, remedy="Name a file, not a folder, device or pipe.") from error


def read_plain(path: Path, *, most_bytes: int, follow_links: bool = False) -> bytes:
    """All of a plain file.

    Args:
        path: The file.
        most_bytes: The most that it can rightly hold; a larger one is not read.
        follow_links: As `open_plain`.

    Raises:
        OSError: As `open_plain`; or it is larger than `most_bytes`.
    """
    with open_reader(path, most_bytes=most_bytes, follow_links=follow_links) as stream:
        size = os.fstat(stream.fileno()).st_size
        parts, left = [], most_bytes + 1
        # One byte more than there should be: a small file and its end in one read.
        while left and (part := os.read(stream.fileno(), min(left, max(size + 1, _LEAST_READ)))):
            parts.append(part)
            left -= len(part)
        if not left:
            raise _too_large(path, f"more than {most_bytes}", most_bytes)
        return b"".join(parts)


def read_json(path: Path, *, most_bytes: int = NOTE_BYTES, follow_links: bool = False) -> Any:
    """The JSON value in a plain file.

    Raises:
        OSError: As `read_plain`.
        ValueError: It is not JSON.
    """
    try:
        return json.loads(read_plain(path, most_bytes=most_bytes, follow_links=follow_links))
    except RecursionError as error:
        raise ValueError("its JSON is nested too deep") from error


def refuse_if_denied(error: OSError) -> None:
    """Let every error pass but a missing permission.

    Raises:
        UsageError: As `denied`.
    """
    if isinstance(error, PermissionError):
        raise denied(error) from error


def denied(error: PermissionError, to_write: Path | None = None) -> UsageError:
    """What to say where this process may not use something: what it is, whose, who asks, and what to do.

    Args:
        error: As the system gave it; it names what could not be read.
        to_write: What was to be written; None where something was to be read.
    """
    path = (to_write or Path(os.fsdecode(error.filename or "."))).absolute()
    closed, owner = _closed(path)
    mine = owner == _asker()
    reason = f"{os.strerror(error.errno or errno.EACCES)}; " if mine else ""
    let = "Let" if mine else f"Run the command as {owner}, or let"
    return UsageError(
        f"{path} cannot be {'written' if to_write else 'read'}: {reason}{_whose(path)}",
        remedy=f"{let} {_asker()} {'write' if to_write else 'read'} it: chmod, chgrp or setfacl {closed}.",
    )


def unreadable(path: Path, error: OSError, *, remedy: str) -> UsageError:
    """What to say where `path` cannot be read; `remedy` is for every reason but a missing permission."""
    if isinstance(error, PermissionError):
        return denied(error)
    return UsageError(f"{path}: cannot be read ({error.strerror})", remedy=remedy)


def unreadable_release(path: Path, error: OSError, *, doing: str = "read") -> IntegrityError:
    """What to say where `path`, which belongs to a release, cannot be read."""
    if isinstance(error, PermissionError):
        refused = denied(error)
        return UnreadableError(refused.problem, remedy=refused.remedy)
    return IntegrityError(f"{path}: cannot be {doing} ({error.strerror})")


def _whose(path: Path) -> str:
    """Whose `path` is, or the folder that keeps this process from it; and who asks."""
    closed, owner = _closed(path)
    what = "it" if closed == path else str(closed)
    return f"{what} belongs to {owner} (mode {stat.S_IMODE(closed.stat().st_mode):03o}), and {_asker()} asks"


def _asker() -> str:
    return f"user {_name(os.geteuid())}"


def _closed(path: Path) -> tuple[Path, str]:
    """What keeps this process out, and its owner: a folder that it may not search, else the file or its folder."""
    folders = (folder for folder in reversed(path.parents) if folder.exists() and not os.access(folder, os.X_OK))
    closed = next(folders, None) or next(place for place in (path, *path.parents) if place.exists())
    return closed, f"user {_name(closed.stat().st_uid)}"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def walk(folder: Path, *, on_error: Callable[[OSError], None] | None = None) -> Iterator[os.DirEntry[str]]:
    """Everything below a folder, however deep: a folder comes before what it holds, and links are not followed.

    Args:
        folder: Where to begin.
        on_error: Gets the error of a folder that cannot be listed; the walk goes on without what that folder holds.
            None raises the error.

    Raises:
        OSError: A folder cannot be listed, as one whose path is longer than the system allows.
    """
    left = [os.fspath(folder)]  # a list, for who can write there can nest deeper than Python can call
    while left:
        try:
            with os.scandir(left.pop()) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        yield from entries
        left += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def _require_plain(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, expected a plain file", str(path))


def _too_large(path: Path, size: str, most_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"it has {size} bytes, expected at most {most_bytes}", str(path))
