"""Repair rebuilds from the journal, the manifests and intact copies, and says what it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from crash_states import crash_states
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lifecycle_exports import not_intact, publish_large, spoil, tree
from world import World, copied, left

from policyctl.domain.retention import RetentionPolicy
from policyctl.errors import IntegrityError, UsageError
from policyctl.services.releases.gc import gc
from policyctl.services.releases.repair import repair
from policyctl.services.releases.transfer import export_release
from policyctl.services.rollout.promote import promote


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> World:
    """1.0.0 in production and staging, 1.1.0 published; both share a large file. Tests copy it."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(tmp_path_factory.mktemp("whole"), patch)
        publish_large(world, "1.0.0", 1)
        publish_large(world, "1.1.0", 2)
        for alias in ("production", "staging"):
            promote(world.control, model="walker", release="1.0.0", alias=alias)
    return world


@pytest.fixture
def served(whole: World, tmp_path, monkeypatch) -> World:
    """The same, to be changed."""
    return copied(whole, tmp_path, monkeypatch)


def _own(path: Path) -> None:
    """Give a file that is a hard link a separate inode."""
    content = path.read_bytes()
    path.parent.chmod(0o755)
    path.unlink()
    path.write_bytes(content)


def _writable(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


W = "walker"
REBUILT: dict[str, Callable[[Path], object]] = {
    "a configuration edited": lambda r: (r / W / "config.pbtxt").write_text("name: 'evil'"),
    "a configuration lost": lambda r: (r / "walker.staging" / "config.pbtxt").unlink(),
    "a configuration that is a link": lambda r: [
        (r / W / "config.pbtxt").rename(r / "moved"),
        (r / W / "config.pbtxt").symlink_to(r / "moved"),
    ],
    "an alias's folder lost": lambda r: [_writable(r / "walker.staging"), shutil.rmtree(r / "walker.staging")],
    "an alias's copy changed": lambda r: [
        _own(r / "walker.staging" / "1" / "model.onnx"),
        spoil(r / "walker.staging" / "1" / "model.onnx"),
    ],
    "a slot's file changed where an alias has a copy": lambda r: [
        _own(r / W / "1" / "model.onnx"),
        spoil(r / W / "1" / "model.onnx"),
    ],
    "a slot lost where an alias has a copy": lambda r: [_writable(r / W / "1"), shutil.rmtree(r / W / "1")],
    "a slot that is a link": lambda r: [
        (r / W / "1").rename(r / "elsewhere"),
        (r / W / "1").symlink_to(r / "elsewhere"),
    ],
    "a manifest edited": lambda r: spoil(r / W / "2" / "manifest.json"),
    "a manifest lost": lambda r: [_writable(r / W / "2"), (r / W / "2" / "manifest.json").unlink()],
    "a file added": lambda r: [_writable(r / W / "2"), (r / W / "2" / "new").write_bytes(b"x")],
    "a folder added": lambda r: [_writable(r / W / "2"), (r / W / "2" / "new").mkdir()],
    "a file that another release has": lambda r: [
        _writable(r / W / "2"),
        (r / W / "2" / "sub" / "weights.bin").unlink(),
    ],
    "a small file that another release has": lambda r: spoil(r / W / "2" / "contract.json"),
    "a slot that no record names": lambda r: shutil.copytree(r / W / "1", r / W / "9"),
}


@pytest.mark.parametrize("name", REBUILT)
def test_what_can_be_rebuilt_is(served: World, name: str) -> None:
    """A dry run says so and changes nothing; then all is intact, it is in the journal, and nothing more is to do."""
    REBUILT[name](served.root)
    for stray in ("moved", "elsewhere"):
        if (served.root / stray).exists():
            (served.root / stray).rename(served.folder / stray)
    before = tree(served.root)
    assert not_intact(served)
    would = repair(served.control, dry_run=True)
    assert tree(served.root) == before
    assert would.steps
    assert all(s.possible for s in would.steps)
    done = repair(served.control)
    assert {s.what for s in done.steps} >= {s.what for s in would.steps}
    assert (not_intact(served), done.left) == ([], ())
    records = [r for r in served.control.repository.journal.records() if r.kind == "repaired"]
    assert [r.body["what"] for r in records] == [s.what for s in done.steps]
    assert repair(served.control).steps == ()
    assert served.answered() == served.named() == "1.0.0"


IMPOSSIBLE: dict[str, tuple[Callable[[World], object], str]] = {
    "an artifact without a copy": (lambda w: spoil(w.root / W / "2" / "model.onnx"), r"no intact copy of model\.onnx"),
    "a slot without a copy": (
        lambda w: [_writable(w.root / W / "2"), shutil.rmtree(w.root / W / "2")],
        "is nowhere",
    ),
    "evidence": (
        lambda w: next((w.control.repository.control / "evidence" / W / "1.0.0").iterdir()).unlink(),
        "policyctl validate walker 1.0.0",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_rebuilt_is_said_with_what_to_do(served: World, name: str) -> None:
    """And everything else is rebuilt all the same; nothing is lost by trying."""
    damage, said = IMPOSSIBLE[name]
    damage(served)
    (served.root / W / "config.pbtxt").write_text("edited")
    done = repair(served.control)
    (step,) = [s for s in done.steps if not s.possible]
    assert said.replace("\\", "") in step.words
    assert len(done.left) == 1
    assert "config.pbtxt" not in done.left[0].what
    assert not [
        r for r in served.control.repository.journal.records() if r.kind == "repaired" and r.body["what"] == step.what
    ]


@pytest.mark.parametrize("where", ["the export", "a backup", "an OCI layout"])
@pytest.mark.parametrize("damage", ["one file", "the whole slot", "file and manifest"])
def test_a_source_that_is_named_gives_what_is_missing(served: World, tmp_path: Path, where: str, damage: str) -> None:
    """The folder that was published, a copy of the repository, or an exported artifact: by digest, not by name."""
    source = {
        "the export": served.folder / "export-walker-1.1.0",
        "a backup": tmp_path / "backup",
        "an OCI layout": tmp_path / "layout",
    }[where]
    if where == "a backup":
        shutil.copytree(served.root, source)
    if where == "an OCI layout":
        export_release(served.control, model="walker", release="1.1.0", destination=str(source))
    slot = served.root / W / "2"
    if damage == "the whole slot":
        _writable(slot)
        shutil.rmtree(slot)
    else:
        spoil(slot / "model.onnx")
        if damage == "file and manifest":
            spoil(slot / "manifest.json")
    assert not all(s.possible for s in repair(served.control, dry_run=True).steps)
    assert repair(served.control, sources=[str(source)]).left == ()
    assert not_intact(served) == []


def test_a_copy_is_found_in_a_folder_that_is_nested_without_end(served: World) -> None:
    """What lies too deep to be named is left out, and the rest is looked through."""
    path, source = served.root / W / "1" / "sub" / "weights.bin", served.folder / "deep"
    good = path.read_bytes()
    spoil(path)
    source.mkdir()
    (source / "anything").write_bytes(good)
    there = Path.cwd()
    try:
        os.chdir(source)
        for _ in range(2500):
            os.mkdir("d")  # noqa: PTH102
            os.chdir("d")
    finally:
        os.chdir(there)
    assert repair(served.control, sources=[str(source)]).left == ()
    assert not_intact(served) == []
    subprocess.run(["rm", "-rf", source], check=True)


def test_a_file_that_all_releases_share_is_mended_in_all(served: World) -> None:
    """One rotten inode behind two releases and an alias: each gets an intact one, stored once again."""
    path = served.root / W / "1" / "sub" / "weights.bin"
    good = path.read_bytes()
    spoil(path)
    (served.folder / "copy").mkdir()
    (served.folder / "copy" / "anything").write_bytes(good)
    assert len(not_intact(served)) == 3
    assert repair(served.control, sources=[str(served.folder / "copy")]).left == ()
    inodes = {p.stat().st_ino for p in served.root.glob("walker*/[0-9]/sub/weights.bin")}
    assert len(inodes) == 1
    assert path.stat().st_mode & 0o222 == 0


def test_a_damaged_slot_is_set_aside_and_not_destroyed(served: World) -> None:
    """A person can look what happened to it."""
    spoil(served.root / W / "1" / "contract.json", b"tampered")
    repair(served.control)
    (aside,) = (served.control.repository.control / "orphans").iterdir()
    assert (aside / "contract.json").read_bytes() == b"tampered"


def test_what_gc_left_is_finished(served: World) -> None:
    """The slot of a release that the journal calls collected goes."""
    publish_large(served, "1.2.0", 3)
    copy = served.folder / "copy"
    shutil.copytree(served.root / W / "2", copy)
    gc(served.control, policy=RetentionPolicy(1, 0, 1), delete=True)
    copy.rename(served.root / W / "2")
    assert not_intact(served)
    repair(served.control)
    assert not_intact(served) == []


def test_a_broken_journal_ends_every_repair(served: World) -> None:
    """Nothing can be decided without it, and the error says how to get it back."""
    path = served.control.repository.journal.path
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    with pytest.raises(IntegrityError, match="journal line 1") as refusal:
        repair(served.control)
    assert "copy" in refusal.value.remedy


def test_strangers_are_left_alone_and_named(served: World) -> None:
    """What belongs to nothing may be somebody's."""
    (served.root / "notes").mkdir()
    done = repair(served.control)
    assert (done.steps, [f.what for f in done.left]) == ((), ["notes"])
    assert (served.root / "notes").is_dir()


def test_a_source_that_is_not_there_is_refused(served: World) -> None:
    """Before anything is done."""
    with pytest.raises(UsageError, match="is not a folder"):
        repair(served.control, sources=["nowhere"])


def test_a_move_that_is_open_is_not_meddled_with(served: World) -> None:
    """Its alias is settled by the process that finishes the move."""
    server = served.server
    server.before_call = lambda name: (_ for _ in ()).throw(KeyboardInterrupt) if name == "load walker" else None
    with pytest.raises(KeyboardInterrupt):
        promote(served.control, model="walker", release="1.1.0", alias="production")
    server.before_call = lambda _name: None
    assert served.state.unfinished
    (served.root / W / "config.pbtxt").write_text("edited")
    done = repair(served.control)
    (step,) = [s for s in done.steps if s.what == "walker"]
    assert (step.possible, "is not finished" in step.words) == (False, True)
    assert (served.root / W / "config.pbtxt").read_text() == "edited"


def test_a_repair_killed_anywhere_is_finished_by_the_next(tmp_path, monkeypatch) -> None:
    """At every crash point what is served stays, and another repair makes all intact."""
    template = World(tmp_path / "template", monkeypatch)
    publish_large(template, "1.0.0", 1)
    publish_large(template, "1.1.0", 2)
    promote(template.control, model="walker", release="1.0.0", alias="staging")
    spoil(template.root / W / "2" / "contract.json")
    (template.root / "walker.staging" / "config.pbtxt").unlink()
    states = crash_states(template, tmp_path / "states", lambda: repair(template.control))
    for state in states:
        world = left(state, monkeypatch)
        assert world.answered("walker.staging") == "1.0.0"
        assert repair(world.control).left == (), state
        assert not_intact(world) == [], state
    assert len(states) > 10
    assert not_intact(template) == []


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(sorted(REBUILT)), min_size=2, max_size=4, unique=True))
@example(names=["a slot that no record names", "an alias's copy changed", "a slot lost where an alias has a copy"])
@example(names=["a slot that no record names", "an alias's copy changed", "a slot that is a link"])
@example(names=["a slot that is a link", "a slot that no record names", "an alias's copy changed"])
def test_several_damages_at_once_are_rebuilt_or_said(whole, tmp_path_factory, monkeypatch, names: list[str]) -> None:
    """Whatever comes together: what repair calls possible is intact afterwards, and nothing is left unsaid."""
    world = copied(whole, tmp_path_factory.mktemp("world"), monkeypatch)
    for name in names:
        try:
            REBUILT[name](world.root)
        except OSError:
            continue  # another damage took it away already
    for stray in ("moved", "elsewhere"):
        if (world.root / stray).exists():
            (world.root / stray).rename(world.folder / stray)
    done = repair(world.control)
    assert [f.what for f in done.left] == not_intact(world) == [] or not all(s.possible for s in done.steps)
    again = repair(world.control)
    assert all(not s.possible for s in again.steps)
