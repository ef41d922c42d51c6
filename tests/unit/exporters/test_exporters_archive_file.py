"""An archive comes from others: whatever is wrong with it is refused in words, within bounds."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from policyctl.errors import UsageError
from policyctl_exporters import archive_file, export_policy
from policyctl_exporters.archive_file import open_archive

MEGABYTE = 1 << 20
Write = Callable[[zipfile.ZipFile], None]


def _rewritten(archive: Path, target: Path, *, without: str = "", add: Write = lambda _: None) -> Path:
    """The archive less one member, with what `add` writes."""
    with zipfile.ZipFile(archive) as given, zipfile.ZipFile(target, "w") as changed, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name in given.namelist():
            if name != without:
                changed.writestr(name, given.read(name))
        add(changed)
    return target


def _deep(depth: int) -> str:
    return '{"gamma": ' + "[" * depth + "]" * depth + "}"


def _compressed(name: str, size: int) -> Write:
    def add(archive: zipfile.ZipFile) -> None:
        member = zipfile.ZipInfo(name)
        member.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(member, "w", force_zip64=True) as writer:
            for _ in range(size // MEGABYTE):
                writer.write(bytes(MEGABYTE))

    return add


def _nested_bomb(archive: zipfile.ZipFile) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as weights:
        _compressed("archive/data/0", 64 * MEGABYTE)(weights)
    archive.writestr("policy.pth", inner.getvalue())


@pytest.mark.parametrize(
    ("without", "add", "reason"),
    [
        ("data", lambda z: z.writestr("data", _deep(200_000)), "its data is nested too deeply"),
        ("data", lambda z: z.writestr("data", "[]"), "its data is not a JSON object"),
        ("data", lambda z: z.writestr("data", "{"), "Expecting property name"),
        ("data", lambda z: z.writestr("data", b"\xff\xfe\x00"), "decode"),
        ("data", lambda _: None, "no item named 'data'"),
        ("policy.pth", lambda _: None, "no item named 'policy.pth'"),
        ("", lambda z: z.writestr("data", "{}"), "it has 2 members of the name 'data'"),
        ("", lambda z: z.writestr("../../evil", "x"), "names a place outside the archive"),
        ("", lambda z: z.writestr("/etc/evil", "x"), "names a place outside the archive"),
        ("", lambda z: z.writestr("a\\b", "x"), "names a place outside the archive"),
        ("", lambda z: [z.writestr(f"x{i}", "") for i in range(1200)], "at most 1000 are read"),
        ("data", _compressed("data", 40 * MEGABYTE), "its member 'data' unpacks to more than"),
        ("system_info.txt", _compressed("system_info.txt", MEGABYTE), "unpacks to more than"),
        ("policy.pth", _compressed("policy.pth", 40 * MEGABYTE), "its member 'policy.pth' unpacks to more than"),
        ("policy.pth", _nested_bomb, "policy.pth unpacks to"),
    ],
)
def test_a_forged_archive_is_refused_in_words(
    without: str, add: Write, reason: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deep JSON, bombs, doubled members and members with paths each say what they are, and nothing is written."""
    monkeypatch.setattr(archive_file, "_MOST_WEIGHT_BYTES", 32 * MEGABYTE)
    source = _rewritten(archive, tmp_path / "forged.zip", without=without, add=add)
    with pytest.raises(UsageError, match=r"forged\.zip is not an archive of Stable-Baselines3") as refusal:
        export_policy(source, tmp_path / "out", trust_pickle=True)
    assert reason in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_a_member_that_lies_about_its_size_is_read_up_to_the_limit(archive: Path, tmp_path: Path) -> None:
    """The limit holds for the bytes that come out, whatever the header claims."""
    source = _rewritten(archive, tmp_path / "forged.zip", without="data", add=_compressed("data", 40 * MEGABYTE))
    content = source.read_bytes()
    true, claimed = (40 * MEGABYTE).to_bytes(4, "little"), (100).to_bytes(4, "little")
    source.write_bytes(content.replace(true, claimed))
    with pytest.raises(UsageError, match=r"forged\.zip is not an archive"), open_archive(source):
        pass


@pytest.mark.parametrize(("offset", "value"), [(6, 1), (8, 99)], ids=["encrypted", "unknown-compression"])
def test_a_member_that_cannot_be_unpacked_is_refused_in_words(offset: int, value: int, tmp_path: Path) -> None:
    """Encryption and unknown compression are no defects of this program."""
    with zipfile.ZipFile(tmp_path / "forged.zip", "w") as plain:
        plain.writestr("data", "{}")
    content = bytearray((tmp_path / "forged.zip").read_bytes())
    for signature, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        at = content.find(signature)
        content[at + offset + shift] = value
    (tmp_path / "forged.zip").write_bytes(content)
    with pytest.raises(UsageError, match=r"forged\.zip is not an archive"), open_archive(tmp_path / "forged.zip"):
        pass


def test_any_changed_byte_gives_a_policy_or_a_refusal(archive: Path, tmp_path: Path) -> None:
    """A damaged archive is read or refused, and nothing else comes of it."""
    content = archive.read_bytes()
    path = tmp_path / "damaged.zip"
    for at in range(0, len(content), max(1, len(content) // 400)):
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        try:
            with open_archive(path) as opened:
                opened.weights()
        except UsageError as refusal:
            assert "damaged.zip" in str(refusal)


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "absent"])
def test_what_is_no_plain_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    """A FIFO, a folder or a device in an archive's place neither hangs nor fills the memory."""
    path = tmp_path / "model.zip"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    code = (
        "import sys, pathlib; from policyctl_exporters.archive_file import open_archive;"
        " open_archive(pathlib.Path(sys.argv[1])).__enter__()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True, timeout=300
    )
    assert "UsageError" in done.stderr


def test_settings_that_are_no_mapping_are_refused(archive: Path, tmp_path: Path) -> None:
    """`policy_kwargs` of another kind is named."""

    def add(changed: zipfile.ZipFile) -> None:
        with zipfile.ZipFile(archive) as given:
            changed.writestr("data", json.dumps({**json.loads(given.read("data")), "policy_kwargs": [1]}))

    source = _rewritten(archive, tmp_path / "forged.zip", without="data", add=add)
    with pytest.raises(UsageError, match="policy_kwargs holds list"):
        export_policy(source, tmp_path / "out", trust_pickle=True)
