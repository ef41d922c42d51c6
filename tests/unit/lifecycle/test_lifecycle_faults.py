"""A disk that fails: at every single write, once or for good, whatever it says. The repository is as it was.

A child process runs one command; its n-th change to the file system fails with
an error of the system. Then the parent looks at what is left.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lifecycle_exports import LARGE, not_intact, publish_large, spoil, tree
from world import World, copied, write_export

from policyctl.adapters import files
from policyctl.domain.retention import RetentionPolicy
from policyctl.errors import PolicyctlError
from policyctl.services.releases.gc import gc
from policyctl.services.releases.publish import publish
from policyctl.services.releases.repair import repair
from policyctl.services.releases.transfer import export_release, import_release
from policyctl.services.rollout.promote import promote

REFUSED, UNREACHED = 3, 0
_CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "not permitted": errno.EACCES, "I/O error": errno.EIO}
NOTHING = RetentionPolicy(rollbacks=1, days=0, newest=1)


def run_with_fault(world: World, point: int, error: int, command: Callable[[], object], *, for_good: bool) -> int:
    """Run `command` in a child whose change number `point` fails; its exit code, and whether the fault was met."""
    child = os.fork()
    if child == 0:
        met = [False]
        try:
            _arm(str(world.root), point, error, met, for_good=for_good)
            command()
        except PolicyctlError:
            os._exit(REFUSED)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(2 if met[0] else UNREACHED)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _arm(root: str, point: int, error: int, met: list[bool], *, for_good: bool) -> None:
    left = [point]

    def fail() -> None:
        left[0] -= 1
        if left[0] == 0 or (for_good and left[0] < 0):
            met[0] = True
            raise OSError(error, os.strerror(error))

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        changes = event in _CHANGES or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        # The lock is where a writer says who it is; a disk that refuses that is reported before anything begins.
        if changes and str(arguments[0]).startswith(root) and not str(arguments[0]).endswith("/lock"):
            fail()

    def half(descriptor: int, content: bytes) -> None:
        try:
            fail()
        except OSError:
            os.write(descriptor, content[: len(content) // 2])
            raise
        os.write(descriptor, content)

    sync = os.fsync

    def fsync(descriptor: int) -> None:
        fail()
        sync(descriptor)

    files.write_all = half
    os.fsync = fsync
    sys.addaudithook(audit)


def _without_scratch(root: Path) -> dict[str, tuple[int, bytes]]:
    """The repository without what only waits to be swept, resumed or looked at."""
    kept = (".policyctl/imports", ".policyctl/collected", ".policyctl/orphans", ".policyctl/staging")
    return {k: v for k, v in tree(root).items() if not k.startswith(kept)}


def _world(folder: Path, monkeypatch, *, memory: Path | None = None) -> World:
    world = World(folder, monkeypatch)
    world.server.memory = memory or world.server.memory
    for number in range(3):
        publish_large(world, f"1.{number}.0", number)
    for release in ("1.1.0", "1.2.0"):
        promote(world.control, model="walker", release=release, alias="production")
    return world


def _commands(folder: Path, world: World) -> dict[str, Callable[[], object]]:
    """What is run, by name; each prepared once."""
    source = write_export(folder / "source", 9)
    (source / "weights.bin").write_bytes(LARGE)
    return {
        "publish": lambda: publish(world.control, source, model="walker", release="2.0.0"),
        "publish a new model": lambda: publish(world.control, source, model="runner", release="1.0.0"),
        "import": lambda: import_release(world.control, str(folder.parent / "layout")),
        "gc": lambda: gc(world.control, policy=NOTHING, delete=True),
        "repair": lambda: repair(world.control),
    }


@pytest.fixture
def origin(tmp_path, monkeypatch) -> World:
    """A site whose release is imported."""
    made = World(tmp_path / "origin", monkeypatch)
    publish_large(made, "3.0.0", 7)
    export_release(made.control, model="walker", release="3.0.0", destination=str(tmp_path / "layout"))
    return made


LIKE_PUBLISH = ("publish a new model", "import", "repair")


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("publish", 1),
        *((name, 3) for name in LIKE_PUBLISH),
        *(pytest.param(name, 1, marks=pytest.mark.long) for name in LIKE_PUBLISH),
    ],
)
def test_a_failed_write_leaves_the_repository_as_it_was(origin, tmp_path, monkeypatch, name: str, step: int) -> None:
    """Whichever write fails, with whatever error: refused in words, nothing changed, and the next try succeeds.

    A publish fails at every write; what writes by the same steps fails at every third, and at every write among the
    long tests.
    """
    point, met = 0, 0
    kinds = list(ERRORS.values())
    template = _world(tmp_path / "template", monkeypatch)
    if name == "repair":
        spoil(template.root / "walker" / "1" / "contract.json")
    while True:
        point += step
        for_good = bool(met // 4 % 2)
        folder = tmp_path / str(point)
        world = copied(template, folder, monkeypatch)
        command = _commands(folder, world)[name]
        before = _without_scratch(world.root)
        code = run_with_fault(world, point, kinds[met % len(kinds)], command, for_good=for_good)
        if code == UNREACHED:
            break
        met += 1
        assert code in {REFUSED, 2}, f"point {point}: not refused in words"
        if code == REFUSED:
            _require_as_it_was(world.root, before, name, for_good=for_good)
        assert world.answered() == world.named() == "1.2.0"
        if code == REFUSED:
            _again(world, command, name)
        assert not_intact(world) == [], f"point {point}"
        files.remove_tree(folder)
    assert met > 15, met


def _require_as_it_was(root: Path, before: dict, name: str, *, for_good: bool) -> None:
    after = _without_scratch(root)
    if name == "repair":
        # What one step rebuilt may stand when the next fails; what was whole is whole.
        before = {k: v for k, v in before.items() if not k.startswith("walker/1")}
        assert {k: v for k, v in after.items() if k in before and "journal" not in k} == {
            k: v for k, v in before.items() if "journal" not in k
        }
        return
    if not for_good:
        assert after == before
        return
    # A disk that takes nothing more does not let a half-made folder be removed; no record names it.
    assert before.items() <= after.items()
    assert {k.split("/")[0] for k in after.keys() - before.keys()} <= {"walker", "runner"}


def _again(world: World, command: Callable[[], object], name: str) -> None:
    try:
        command()
    except PolicyctlError as error:
        assert "published already" in error.problem, name


def test_a_failed_write_of_gc_leaves_each_release_whole_or_collected(tmp_path, monkeypatch) -> None:
    """Nothing that is needed is touched; what the journal calls collected is removed by the next gc."""
    point = 0
    kinds = list(ERRORS.values())
    template = _world(tmp_path / "template", monkeypatch)
    while True:
        point += 1
        for_good = bool(point // 4 % 2)
        folder = tmp_path / str(point)
        world = copied(template, folder, monkeypatch)
        code = run_with_fault(
            world,
            point,
            kinds[point % len(kinds)],
            lambda w=world: gc(w.control, policy=NOTHING, delete=True),
            for_good=for_good,
        )
        if code == UNREACHED:
            break
        assert code in {REFUSED, 2}, f"point {point}"
        assert world.answered() == world.named() == "1.2.0"
        assert all("belongs to no release" in w for w in not_intact(world)), f"point {point}"
        gc(world.control, policy=NOTHING, delete=True)
        assert not_intact(world) == []
        assert world.state.releases["walker", "1.0.0"].collected
        files.remove_tree(folder)
    assert point > 10


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of half a MiB that can be made read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=768k", "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


COMMANDS = ["publish", "publish a new model", "import", "gc", "repair"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_file_system_refuses_in_words_and_is_still_read(origin, disk, tmp_path, monkeypatch, name) -> None:
    """A real one: every command that writes is refused, and looking goes on."""
    world = _world(disk, monkeypatch, memory=tmp_path / "memory.json")
    (tmp_path / "x").mkdir()
    command = _commands(tmp_path / "x", world)[name]
    before = tree(world.root)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(PolicyctlError, match="Read-only file system"):
        command()
    assert tree(world.root) == before
    assert not_intact(world) == []
    planned = gc(world.control, policy=NOTHING)
    assert [r.release for r in planned.collect] == ["1.0.0"]
    assert repair(world.control, dry_run=True).steps == ()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_file_system_refuses_in_words_and_room_brings_it_back(origin, disk, tmp_path, monkeypatch, name) -> None:
    """A real one without a byte left: as it was; and the same command works once there is room."""
    world = _world(disk, monkeypatch, memory=tmp_path / "memory.json")
    (tmp_path / "x").mkdir()
    if name == "repair":
        spoil(world.root / "walker" / "1" / "contract.json")
    command = _commands(tmp_path / "x", world)[name]
    before = _without_scratch(world.root)
    with (disk / "ballast").open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    with pytest.raises(PolicyctlError, match="No space left"):
        command()
    assert _without_scratch(world.root) == before
    (disk / "ballast").unlink()
    command()
    assert not_intact(world) == []
