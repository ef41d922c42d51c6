"""Checking without bytes: the same verdict as the reader that hands them out, on all cores, in constant memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_integrity_read_release import ATTACKS

from policyctl import hashing
from policyctl.domain.manifest import digest_of
from policyctl.errors import IntegrityError
from policyctl.hashing import hash_all, hash_file
from policyctl.integrity import build_manifest, check_releases, read_release


def _pinned(folder: Path) -> str:
    return digest_of((folder / "manifest.json").read_bytes())


def _check(folder: Path, digest: str | None = None):
    (found,) = check_releases([(folder, digest)])
    return found


def test_a_whole_release_is_intact_file_by_file(release: Path) -> None:
    """Each file's expectation and finding are equal, and nothing is wrong."""
    found = _check(release, _pinned(release))
    assert (found.intact, found.manifest_digest) == (True, _pinned(release))
    assert [f.path for f in found.files] == ["a.bin", "empty", "sub/b.bin"]
    assert all(f.expected == f.found and not f.problem for f in found.files)


@pytest.mark.parametrize("name", [n for n in ATTACKS if n != "folders without end"])
def test_it_refuses_exactly_what_the_reader_refuses(release: Path, name: str) -> None:
    """Whatever was tampered with: one notion of intact, and nothing is ever an exception here."""
    attack, _ = ATTACKS[name]
    pinned = _pinned(release)
    attack(release)
    found = _check(release, pinned)
    assert not found.intact
    with pytest.raises(IntegrityError):
        read_release(release, expected_digest=pinned)


def test_everything_that_is_wrong_is_told_at_once(release: Path) -> None:
    """A link does not hide a changed file behind it, nor a missing one."""
    pinned = _pinned(release)
    (release / "a.bin").write_bytes(b"xy")
    (release / "empty").unlink()
    (release / "link").symlink_to("a.bin")
    found = _check(release, pinned)
    problems = {f.path: f.problem for f in found.files if f.problem}
    assert set(problems) == {"a.bin", "empty", "link"}
    assert "symbolic link" in str(found.problem)
    assert "is missing" in problems["empty"]


def test_without_its_manifest_nothing_of_a_release_is_judged(release: Path) -> None:
    """What is there is still listed; it is not read, for nothing says how large it may be."""
    pinned = _pinned(release)
    (release / "manifest.json").write_bytes(b"{}")
    found = _check(release, pinned)
    assert (found.intact, found.manifest) == (False, None)
    assert [f.path for f in found.files] == ["a.bin", "empty", "sub/b.bin"]
    assert all("cannot be judged without the manifest" in f.problem and f.found is None for f in found.files)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.binary(max_size=70), min_size=1, max_size=6), st.integers(1, 64), st.integers(0, 200))
def test_every_way_of_hashing_gives_one_digest(tmp_path, monkeypatch, contents, chunk: int, worth: int) -> None:
    """In threads or not, in parts of any size, once per inode or once per name: the digest is that of the bytes."""
    monkeypatch.setattr(hashing, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(hashing, "_WORTH_THREADS_BYTES", worth)
    for path in tmp_path.iterdir():
        path.unlink()
    for number, content in enumerate(contents):
        (tmp_path / f"f{number}").write_bytes(content)
    os.link(tmp_path / "f0", tmp_path / "again")
    items = [(tmp_path, path.name, None) for path in sorted(tmp_path.iterdir())]
    expected = [digest_of((tmp_path / path).read_bytes()) for _, path, _ in items]
    entries = hash_all(items)
    assert [e.digest for e in entries] == expected
    assert [e.path for e in entries] == [path for _, path, _ in items]


def test_a_file_is_read_once_for_all_its_names(release: Path, monkeypatch) -> None:
    """An alias's hard links cost nothing when the slot is checked too."""
    os.link(release / "a.bin", release / "z.bin")
    hashed = []
    monkeypatch.setattr(
        hashing, "hash_file", lambda folder, path, size: hashed.append(path) or hash_file(folder, path, size)
    )
    _check(release)
    assert sorted(hashed) == ["a.bin", "empty", "sub/b.bin"]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1000])
def test_whoever_reads_slowly_sees_every_part(tmp_path: Path, size: int, monkeypatch) -> None:
    """The parts add up to the file, past the cache or not."""
    monkeypatch.setattr(hashing, "_CHUNK_BYTES", 256)
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    parts: list[int] = []
    found = hash_file(tmp_path, "f", on_chunk=parts.append, past_cache=True)
    assert (sum(parts), found.digest) == (size, digest_of(content))
    assert max(parts, default=0) <= 256


def test_a_release_larger_than_memory_allows_is_checked(tmp_path: Path) -> None:
    """A process that may take 96 MiB more checks half a gigabyte (sparse files, so that the disk need not hold it)."""
    folder = tmp_path / "release"
    folder.mkdir()
    for name in ("a", "b"):
        with (folder / name).open("wb") as file:
            file.truncate(256 << 20)
    (folder / "manifest.json").write_bytes(build_manifest(folder, model="m", release="1.0.0").to_bytes())
    code = """
import resource, sys
from pathlib import Path
import psutil
from policyctl.integrity import check_releases
limit = psutil.Process().memory_info().vms + (96 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(0 if check_releases([(Path(sys.argv[1]), None)])[0].intact else 1)
"""
    subprocess.run([sys.executable, "-c", code, folder], check=True)
