"""Publishing: what is refused, what is left when it fails, and what can never change again."""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from world import CONTRACT, World, write_export

from policyctl.adapters.journal import Journal
from policyctl.domain.journal import Head
from policyctl.errors import IntegrityError, UsageError
from policyctl.integrity import read_release
from policyctl.services.integrity.verify import verify
from policyctl.services.releases.publish import publish


@pytest.fixture
def export(tmp_path) -> Path:
    """What an export wrote."""
    return write_export(tmp_path / "export", 1)


def _publish(world, source, release="1.0.0", **kwargs):
    return publish(world.control, source, model="walker", release=release, **kwargs)


def _tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every path with mode and content; the lock's text apart, which is for people."""
    return {
        str(p.relative_to(root)): (p.lstat().st_mode, p.read_bytes() if p.is_file() else b"")
        for p in sorted(root.rglob("*"))
        if p.name != "lock"
    }


def _write(name: str, content: str | bytes):
    def put(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return put


WRONG_CONTRACT = json.dumps({**CONTRACT.to_json(), "action_kind": "sideways"})
OTHER_CONTRACT = json.dumps(CONTRACT.to_json()).replace('"shape": [3]', '"shape": [4]')
WRONG_EXPORTS = {
    "no contract": (lambda f: (f / "contract.json").unlink(), UsageError, r"lacks contract\.json"),
    "no golden set": (lambda f: (f / "golden.npz").unlink(), UsageError, r"lacks golden\.npz"),
    "no parity": (lambda f: (f / "parity.json").unlink(), UsageError, r"lacks parity\.json"),
    "no card": (lambda f: (f / "model_card.yaml").unlink(), UsageError, r"lacks model_card\.yaml"),
    "no artifact": (lambda f: (f / "model.onnx").unlink(), UsageError, "holds no artifact"),
    "half an artifact": (
        lambda f: [(f / "model.onnx").unlink(), (f / "model.xml").touch()],
        UsageError,
        "holds no artifact",
    ),
    "nothing": (lambda f: [p.unlink() for p in f.iterdir()], UsageError, r"lacks contract\.json, golden\.npz"),
    "contract is a folder": (
        lambda f: [(f / "contract.json").unlink(), (f / "contract.json").mkdir(), (f / "contract.json" / "x").touch()],
        UsageError,
        r"lacks contract\.json",
    ),
    "contract no JSON": (_write("contract.json", "{"), UsageError, r"contract\.json.*not JSON"),
    "contract no UTF-8": (_write("contract.json", b"\xff\xfe\xff"), UsageError, r"contract\.json"),
    "contract too deep": (_write("contract.json", "[" * 100_000), UsageError, r"contract\.json"),
    "contract a list": (_write("contract.json", "[]"), UsageError, "expected an object"),
    "contract wrong": (_write("contract.json", WRONG_CONTRACT), UsageError, "sideways"),
    "golden of another contract": (_write("contract.json", OTHER_CONTRACT), UsageError, "golden set"),
    "golden damaged": (_write("golden.npz", b"PK\x03\x04"), UsageError, "golden set"),
    "golden empty": (_write("golden.npz", b""), UsageError, "golden set"),
    "a manifest": (_write("manifest.json", "{}"), UsageError, r"manifest\.json.*written by publish"),
    "a hidden file": (_write(".env", "SECRET=1"), IntegrityError, r"\.env"),
    "a name with a blank": (_write("my model.onnx", ""), IntegrityError, "my model"),
    "a link": (lambda f: (f / "model.plan").symlink_to("model.onnx"), IntegrityError, "symbolic link"),
    "a link for a file": (
        lambda f: [(f / "model.onnx").rename(f.parent / "m"), (f / "model.onnx").symlink_to(f.parent / "m")],
        IntegrityError,
        "symbolic link",
    ),
    "a linked folder": (lambda f: (f / "extra").symlink_to("/etc"), IntegrityError, "symbolic link"),
    "an empty folder": (lambda f: (f / "extra").mkdir(), IntegrityError, "empty folder"),
    "a pipe": (lambda f: os.mkfifo(f / "model.plan"), IntegrityError, "neither a file nor a folder"),
}


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("name", WRONG_EXPORTS)
def test_a_wrong_export_is_refused_and_leaves_nothing(world, export: Path, name: str, dry_run: bool) -> None:
    """Each defect of a folder is named, and neither slot nor staging nor record is left."""
    spoil, kind, said = WRONG_EXPORTS[name]
    spoil(export)
    before = _tree(world.root)
    with pytest.raises(kind, match=said):
        _publish(world, export, dry_run=dry_run)
    assert _tree(world.root) == before


@pytest.mark.parametrize("source", ["nowhere", "export/model.onnx"])
def test_what_is_no_folder_is_refused(world, export: Path, source: str) -> None:
    """The message names the path and the remedy the command that writes such folders."""
    with pytest.raises(UsageError, match="is not a folder") as refusal:
        _publish(world, export.parent / source)
    assert "policyctl export" in refusal.value.remedy


def test_a_release_number_is_never_used_for_other_bytes(world, export: Path) -> None:
    """The message says who published it when, and which files differ."""
    _publish(world, export)
    before = _tree(world.root)
    (export / "extra.txt").touch()
    for source, said in (
        (export, r"extra\.txt is not in the manifest"),
        (write_export(world.folder / "other", 2), "golden"),
    ):
        with pytest.raises(UsageError, match=rf"walker 1\.0\.0 was published already \(slot 1, .*@.*{said}"):
            _publish(world, source)
    assert _tree(world.root) == before


def test_publishing_the_same_bytes_again_changes_nothing(world, export: Path) -> None:
    """The answer is that of the first time, dry run or not, and nothing is written."""
    first = _publish(world, export)
    before = _tree(world.root)
    assert _publish(world, export) == first
    assert _publish(world, export, dry_run=True) == replace(first, dry_run=True)
    assert _tree(world.root) == before
    assert "these very bytes" in world.said[-1]


def test_a_dry_run_tells_the_slot_and_changes_nothing(world, export: Path) -> None:
    """Slot, digest and size of a dry run are those of the publishing that follows."""
    before = _tree(world.root)
    would = _publish(world, export, dry_run=True)
    assert _tree(world.root) == before
    done = _publish(world, export)
    assert (would.slot, would.manifest_digest, would.size_bytes) == (done.slot, done.manifest_digest, done.size_bytes)
    assert (would.dry_run, done.dry_run) == (True, False)


def test_a_dry_run_makes_no_repository(tmp_path, export: Path) -> None:
    """Where there is no repository yet, a dry run leaves it so."""
    from policyctl.services.control import Control
    from policyctl.settings import load

    root = tmp_path / "absent"
    assert publish(Control.of(load(repository=root)), export, model="m", release="1.0.0", dry_run=True).slot == 1
    assert not root.exists()


def test_a_published_release_is_read_only_and_its_own(world, export: Path) -> None:
    """No file or folder of a slot is writable, and the slot shares no file with the export."""
    (export / "extra").mkdir()
    (export / "extra" / "notes.txt").write_text("kept")
    done = _publish(world, export)
    slot = world.root / "walker" / "1"
    for path in (slot, *slot.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o222 == 0, path
    for path in export.rglob("*"):
        path.is_file() and path.write_bytes(b"changed afterwards")
    assert read_release(slot, expected_digest=done.manifest_digest).manifest.release == "1.0.0"
    assert list((world.root / ".policyctl" / "staging").iterdir()) == []


def test_a_file_that_changes_while_it_is_copied_is_hashed_as_copied(world, export: Path, monkeypatch) -> None:
    """The manifest is of the bytes in the slot, not of those that were there before."""
    from policyctl.adapters import files

    copied = files.copy_durably

    def copy_and_change(reader: BinaryIO, target: Path, *, most_bytes: int) -> None:
        copied(reader, target, most_bytes=most_bytes)
        if target.name == "model.onnx":
            (export / "model.onnx").write_bytes(b"something else")

    monkeypatch.setattr(files, "copy_durably", copy_and_change)
    _publish(world, export)
    assert all(f.intact for f in verify(world.control))
    assert (world.root / "walker" / "1" / "model.onnx").read_bytes() == b"onnx of seed 1"


def _at_once(*commands: Callable[[], object]) -> list[int]:
    """Run each command in a separate process, begun together; 0 done, 3 published already, 1 anything else."""
    gate, opener = os.pipe()
    children = []
    for command in commands:
        child = os.fork()
        if child == 0:
            try:
                os.close(opener)
                os.read(gate, 1)
                command()
            except UsageError as error:
                os._exit(3 if "was published already" in error.problem else 1)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    os.close(opener)
    os.close(gate)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_publishers_at_once_get_a_slot_each(world) -> None:
    """Four processes publish at the same moment: four releases, four slots, one intact journal."""
    sources = [write_export(world.folder / f"e{n}", n) for n in range(4)]
    codes = _at_once(*(lambda n=n, s=s: _publish(world, s, f"1.{n}.0") for n, s in enumerate(sources)))
    assert codes == [0] * 4
    assert sorted(r.slot for r in world.state.of_model("walker")) == [1, 2, 3, 4]
    assert all(f.intact for f in verify(world.control))


def test_the_first_publish_of_all_beside_another_is_no_lost_journal(world, monkeypatch) -> None:
    """A journal and slot that come between the look for the journal and the look for slots are no loss."""
    real, first = Journal._trace, []

    def late(journal: Journal) -> str:
        if not first:
            first.append(journal)
            _publish(world, write_export(world.folder / "first", 1), "1.0.0")
        return real(journal)

    monkeypatch.setattr(Journal, "_trace", late)
    _publish(world, write_export(world.folder / "second", 2), "1.1.0")
    assert first
    assert [r.release for r in world.state.of_model("walker")] == ["1.0.0", "1.1.0"]


def test_the_same_bytes_published_at_once_are_one_release(world, export: Path) -> None:
    """If several publish the same at once, one does and all have the same answer; nobody leaves anything."""
    assert _at_once(*[lambda: _publish(world, export)] * 4) == [0] * 4
    assert sorted(p.name for p in (world.root / "walker").iterdir()) == ["1"]
    assert list((world.root / ".policyctl" / "staging").iterdir()) == []


def test_one_release_number_has_one_publisher(world) -> None:
    """If several try the same number at once with other bytes, one publishes and the others are refused."""
    sources = [write_export(world.folder / f"e{n}", n) for n in range(4)]
    assert sorted(_at_once(*(lambda s=s: _publish(world, s) for s in sources))) == [0, 3, 3, 3]
    assert sorted(p.name for p in (world.root / "walker").iterdir()) == ["1"]
    assert list((world.root / ".policyctl" / "staging").iterdir()) == []


@pytest.mark.parametrize("first", [True, False])
def test_a_journal_that_cannot_be_written_leaves_no_slot(world, export: Path, monkeypatch, first: bool) -> None:
    """If the last step fails, the slot that no record names is taken back."""
    from policyctl.adapters import files

    if not first:
        world.publish("0.9.0", 3)
    before = _tree(world.root)

    def refuse(path: Path, _line: bytes) -> None:
        raise files.storage_error(path, OSError(28, "No space left on device"))

    with monkeypatch.context() as patch, pytest.raises(UsageError, match="No space left"):
        patch.setattr(files, "append_durably", refuse)
        _publish(world, export)
    after = _tree(world.root)
    if first:  # that there is a journal was written down before there was a slot
        assert Head.from_bytes(after.pop(".policyctl/head")[1]) == Head()
    assert after == before
    assert _publish(world, export).slot == (1 if first else 2)


def test_an_unreadable_export_is_blamed_and_not_the_repository(monkeypatch) -> None:
    """Without the right to read a file, the message names that file."""
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name), monkeypatch)
        export = write_export(world.folder / "export", 1)
        for path in (world.folder, *world.folder.rglob("*")):
            path.chmod(0o777)
        for path in (export / n for n in ("model.onnx", "contract.json", "golden.npz")):
            path.chmod(0)
            assert as_nobody(lambda p=path: _refusal(world, export, f"{p} cannot be read: it belongs to "))
            path.chmod(0o644)


def _refusal(world, export: Path, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        _publish(world, export)


def as_nobody(check: Callable[[], None]) -> bool:
    """Whether `check` holds for a user without privileges."""
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            check()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
