"""Reading a release: whatever differs from the manifest is refused, and nothing else."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from policyctl.domain.manifest import digest_of
from policyctl.errors import IntegrityError
from policyctl.hashing import hash_file
from policyctl.integrity import build_manifest, read_release
from policyctl.release_files import list_files

FILES = ("a.bin", "empty", "sub/b.bin")


def _pinned(folder: Path) -> str:
    return digest_of((folder / "manifest.json").read_bytes())


def test_a_whole_release_is_read_with_the_bytes_that_were_asked_for(release: Path) -> None:
    """The manifest, its digest, and the kept contents come back."""
    found = read_release(release, keep=("a.bin", "sub/b.bin"), expected_digest=_pinned(release))
    assert found.contents == {"a.bin": b"ab", "sub/b.bin": b"cd"}
    assert tuple(f.path for f in found.manifest.files) == FILES
    assert found.manifest_digest == found.manifest.digest == _pinned(release)


def test_no_flipped_bit_of_any_file_goes_unseen(release: Path) -> None:
    """Every bit of every file is bound by its digest, and a bit of every byte of the manifest by the pinned one."""
    pinned = _pinned(release)
    count = 0
    for path in ("a.bin", "sub/b.bin", "manifest.json"):
        whole = (release / path).read_bytes()
        for index in range(len(whole)):
            for bit in (index % 8,) if path == "manifest.json" else range(8):
                changed = bytearray(whole)
                changed[index] ^= 1 << bit
                (release / path).write_bytes(bytes(changed))
                with pytest.raises(IntegrityError):
                    read_release(release, keep=("a.bin",), expected_digest=pinned)
                count += 1
        (release / path).write_bytes(whole)
    assert count > 300
    assert read_release(release, expected_digest=pinned)


def test_another_whole_release_in_its_place_is_refused(release: Path) -> None:
    """A manifest that fits its files is still not the pinned one."""
    pinned = _pinned(release)
    (release / "a.bin").write_bytes(b"xy")
    (release / "manifest.json").write_bytes(build_manifest(release, model="m", release="1.0.0").to_bytes())
    assert read_release(release)
    with pytest.raises(IntegrityError, match=f"expected {pinned}"):
        read_release(release, expected_digest=pinned)


def _link(target: Path, *, folder: bool = False):
    def put(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(target, target_is_directory=folder)

    return put


def _bind(path: Path) -> None:
    path.unlink()
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is at most 108 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def _fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _elsewhere(release: Path) -> Path:
    """An identical copy of the release."""
    copy = release.parent / "copy"
    shutil.copytree(release, copy)
    return copy


ATTACKS = {
    "truncated": (lambda r: (r / "a.bin").write_bytes(b"a"), r"a\.bin has 1 bytes, the manifest says 2"),
    "emptied": (lambda r: (r / "a.bin").write_bytes(b""), "0 bytes"),
    "lengthened": (lambda r: (r / "a.bin").write_bytes(b"ab\0"), "3 bytes"),
    "an empty file filled": (lambda r: (r / "empty").write_bytes(b"x"), "empty has 1 bytes"),
    "changed": (lambda r: (r / "a.bin").write_bytes(b"ba"), r"a\.bin is sha256:"),
    "removed": (lambda r: (r / "a.bin").unlink(), r"a\.bin is missing"),
    "folder removed": (lambda r: shutil.rmtree(r / "sub"), r"sub/b\.bin is missing"),
    "moved": (lambda r: (r / "sub" / "b.bin").rename(r / "sub" / "c.bin"), "missing"),
    "added": (lambda r: (r / "new").write_bytes(b""), "new is not in the manifest"),
    "added hidden": (lambda r: (r / ".new").write_bytes(b""), r"\.new"),
    "added deep": (lambda r: (r / "sub" / "new").write_bytes(b""), "sub/new is not in the manifest"),
    "added in a new folder": (lambda r: [(r / "d").mkdir(), (r / "d" / "x").touch()], "d/x is not in the manifest"),
    "added folder": (lambda r: (r / "d").mkdir(), "empty folder"),
    "added hidden folder": (lambda r: (r / ".git").mkdir(), "empty folder"),
    "added nested folder": (lambda r: (r / "sub" / "d").mkdir(), "empty folder"),
    "second manifest": (lambda r: shutil.copy(r / "manifest.json", r / "sub"), r"sub/manifest\.json"),
    "added name that is not UTF-8": (lambda r: (r / os.fsdecode(b"\xff")).touch(), "not allowed"),
    "added name with a line feed": (lambda r: (r / "a\nb").touch(), "not allowed"),
    "file is a link": (lambda r: _link(_elsewhere(r) / "a.bin")(r / "a.bin"), "symbolic link"),
    "file is a link within": (lambda r: _link(Path("sub/b.bin"))(r / "a.bin"), "symbolic link"),
    "file is a dangling link": (lambda r: _link(Path("nowhere"))(r / "a.bin"), "symbolic link"),
    "manifest is a link": (lambda r: _link(_elsewhere(r) / "manifest.json")(r / "manifest.json"), "symbolic link"),
    "folder is a link": (lambda r: _link(_elsewhere(r) / "sub", folder=True)(r / "sub"), "symbolic link"),
    "added link": (lambda r: (r / "new").symlink_to("a.bin"), "symbolic link"),
    "the release is a link": (lambda r: _link(_elsewhere(r), folder=True)(r), "symbolic link"),
    "file is a folder": (lambda r: [(r / "a.bin").unlink(), (r / "a.bin").mkdir()], "empty folder"),
    "manifest is a folder": (lambda r: [(r / "manifest.json").unlink(), (r / "manifest.json").mkdir()], "plain file"),
    "file is a pipe": (lambda r: _fifo(r / "a.bin"), "neither a file nor a folder"),
    "manifest is a pipe": (lambda r: _fifo(r / "manifest.json"), "it is a FIFO, expected a plain file"),
    "added pipe": (lambda r: _fifo(r / "pipe"), "neither a file nor a folder"),
    "file is a socket": (lambda r: _bind(r / "a.bin"), "neither a file nor a folder"),
    "manifest is a socket": (lambda r: _bind(r / "manifest.json"), "it is a socket"),
    "manifest removed": (lambda r: (r / "manifest.json").unlink(), "cannot be read"),
    "everything removed": (shutil.rmtree, "cannot be read"),
    "a file where the release was": (lambda r: [shutil.rmtree(r), r.touch()], "cannot be read"),
    "folders without end": (lambda r: subprocess.run(["mkdir", "-p", "/".join("d" * 1500)], cwd=r, check=True), "deep"),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("keep", [(), FILES])
def test_a_release_that_was_tampered_with_is_refused(release: Path, name: str, keep: tuple[str, ...]) -> None:
    """Each way to change, add, remove or replace something is an integrity error that names it, and never hangs."""
    attack, said = ATTACKS[name]
    pinned = _pinned(release)
    attack(release)
    try:
        with pytest.raises(IntegrityError, match=said):
            read_release(release, keep=keep, expected_digest=pinned)
    finally:
        if (release / "d").is_dir():
            subprocess.run(["rm", "-rf", release / "d"], check=True)  # deeper than shutil goes


def test_a_hard_link_to_the_same_bytes_is_the_release(release: Path) -> None:
    """Aliases hold hard links: what counts is content, not which name it has elsewhere."""
    (release.parent / "other").hardlink_to(release / "a.bin")
    assert read_release(release, expected_digest=_pinned(release))


def test_what_is_handed_out_is_what_was_hashed(release: Path, monkeypatch) -> None:
    """A file that is replaced while the release is read is either refused or not seen at all."""
    from policyctl import integrity

    swapped = []
    read = integrity.read_plain

    def read_and_swap(path: Path, *, most_bytes: int) -> bytes:
        content = read(path, most_bytes=most_bytes)
        if path.name == "a.bin":
            path.write_bytes(b"XX")
            swapped.append(path)
        return content

    monkeypatch.setattr(integrity, "read_plain", read_and_swap)
    found = read_release(release, keep=("a.bin",))
    assert swapped
    assert (release / "a.bin").read_bytes() == b"XX"
    (entry,) = [f for f in found.manifest.files if f.path == "a.bin"]
    assert digest_of(found.contents["a.bin"]) == entry.digest


def test_a_folder_swapped_for_a_link_between_listing_and_opening_is_refused_or_has_the_same_bytes(
    release: Path, monkeypatch
) -> None:
    """Bytes from outside never pass for the release's own."""
    from policyctl import hashing

    outside = release.parent / "outside"
    outside.mkdir()
    (outside / "b.bin").write_bytes(b"XX")
    hashed = hashing.hash_file

    def swap_and_hash(folder: Path, path: str, size_bytes: int | None = None):
        if path == "sub/b.bin" and not (folder / "sub").is_symlink():
            (folder / "sub").rename(folder.parent / "gone")
            (folder / "sub").symlink_to(outside)
        return hashed(folder, path, size_bytes)

    monkeypatch.setattr(hashing, "hash_file", swap_and_hash)
    with pytest.raises(IntegrityError, match=r"sub/b\.bin"):
        read_release(release)


@pytest.mark.parametrize("keep", [("nothing",), ("manifest.json",), ("../a.bin",), ("/etc/passwd",)])
def test_only_listed_files_are_handed_out(release: Path, keep: tuple[str, ...]) -> None:
    """Asking for a path that the manifest does not list is refused, wherever it leads."""
    with pytest.raises(IntegrityError, match="not part of this release"):
        read_release(release, keep=keep)


def test_a_read_error_is_an_integrity_error() -> None:
    """A disk that fails in the middle of a file is reported like a file that cannot be opened."""
    with pytest.raises(IntegrityError, match="cannot be read"):
        hash_file(Path("/proc/self"), "mem")


def test_a_listing_is_sorted_and_complete(release: Path) -> None:
    """Every file is listed once, in an order that no file system decides."""
    assert list(list_files(release)) == ["a.bin", "empty", "manifest.json", "sub/b.bin"]
    assert build_manifest(release, model="m", release="1.0.0").to_bytes() == (release / "manifest.json").read_bytes()


@pytest.mark.parametrize("name", ["A.bin", "MANIFEST.JSON", "Manifest.json", "Sub/c.bin"])
def test_names_that_differ_in_case_only_make_no_manifest(release: Path, name: str) -> None:
    """A release that another file system could not hold is never published; the manifest's own name counts too."""
    (release / name).parent.mkdir(exist_ok=True)
    (release / name).write_bytes(b"")
    if len({path.name.casefold() for path in release.iterdir()}) == len(list(release.iterdir())):
        pytest.skip("this file system ignores case")
    with pytest.raises(IntegrityError, match="collides"):
        build_manifest(release, model="m", release="1.0.0")


@pytest.mark.parametrize("name", ["caf\u00e9.bin", "cafe\u0301.bin", "\ufb01le"])
def test_a_name_that_has_several_forms_makes_no_manifest(release: Path, name: str) -> None:
    """Two forms of one name are one file on some file systems, so neither is published."""
    (release / name).write_bytes(b"")
    with pytest.raises(IntegrityError, match="path"):
        build_manifest(release, model="m", release="1.0.0")
