"""Opening a file: anything but a plain file, or one that is too large, is refused before it is read."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from policyctl.plain_files import open_plain, read_json, read_plain


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    except OSError as error:
        pytest.skip(f"no device can be made here: {error.strerror}")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


OTHERS: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a device": _device,
    "a socket": _socket,
    "a folder": Path.mkdir,
    "a symbolic link": lambda path: path.symlink_to("plain"),
}


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    """A place for a file, next to a plain one; a socket's path is at most 108 bytes long, hence the folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_bytes(b"content")
    return tmp_path / "file"


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_APPEND | os.O_CREAT])
def test_what_is_no_plain_file_is_refused_by_its_kind(path: Path, kind: str, flags: int) -> None:
    """For reading and for writing, at once."""
    OTHERS[kind](path)
    with pytest.raises(OSError, match="plain file") as refused:
        open_plain(path, flags)
    assert refused.value.strerror == f"it is {kind}, expected a plain file"


def test_a_file_that_a_person_names_may_be_a_link_to_a_plain_one(path: Path) -> None:
    """And to nothing else."""
    path.symlink_to("plain")
    assert read_plain(path, most_bytes=7, follow_links=True) == b"content"
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="it is a device, expected a plain file"):
        read_plain(path, most_bytes=7, follow_links=True)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 100_000])
def test_a_file_is_read_whole_up_to_the_limit_and_not_beyond(path: Path, size: int) -> None:
    """Of exactly the size that is allowed it comes as it is; one byte more is refused, with both sizes."""
    path.write_bytes(os.urandom(size))
    assert read_plain(path, most_bytes=size) == path.read_bytes()
    path.write_bytes(bytes(size + 1))
    with pytest.raises(OSError, match=f"it has {size + 1} bytes, expected at most {size}"):
        read_plain(path, most_bytes=size)


def test_a_sparse_file_is_refused_before_it_is_read(path: Path) -> None:
    """A terabyte of holes costs nothing."""
    with path.open("wb") as file:
        file.truncate(1 << 40)
    began = time.process_time()
    with pytest.raises(OSError, match="expected at most 1048576"):
        read_json(path)
    assert time.process_time() - began < 1


def test_a_file_that_tells_no_size_is_bounded_all_the_same() -> None:
    """The kernel's own files have 0 bytes, and more come."""
    with pytest.raises(OSError, match="more than 10"):
        read_plain(Path("/proc/self/status"), most_bytes=10)
    assert read_plain(Path("/proc/self/status"), most_bytes=1 << 20).startswith(b"Name:")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_a_value_error_however_deep_it_is(path: Path, content: bytes) -> None:
    """One error for all who read notes."""
    path.write_bytes(content)
    with pytest.raises(ValueError):
        read_json(path)
