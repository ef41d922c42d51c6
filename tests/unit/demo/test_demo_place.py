"""What `policyctl demo` may remove, and what it asks for before it writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from policyctl.adapters.repository import Repository
from policyctl.demo.job import Demo
from policyctl.demo.place import RELEASES, Place
from policyctl.domain.journal import GENESIS, RecordKind
from policyctl.errors import PolicyctlError, UnsupportedError, UsageError


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """In an empty folder."""
    return Place(tmp_path / "model_repository", tmp_path / "build" / "demo")


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_what_a_demo_left_is_removed_whole(place: Place, tmp_path: Path) -> None:
    """Releases are read-only, their folders too; the folder is as empty as before."""
    place.begin()
    assert all(place.archive(release).stat().st_size > 10_000 for release in RELEASES)
    slot = place.repository / "cartpole.slots" / "1"
    slot.mkdir(parents=True)
    (slot / "model.onnx").write_bytes(b"weights")
    for path in (slot / "model.onnx", slot, slot.parent):
        path.chmod(0o500)
    place.export("1.0.0").mkdir()
    place.log.touch()
    assert place.clear() == (place.repository, place.build)
    assert everything(tmp_path) == []
    assert place.clear() == ()


def test_a_repository_of_somebody_else_is_left_alone(place: Place, tmp_path: Path) -> None:
    """A model of Triton's, or only tokens: without the demo's mark nothing is removed."""
    for name in ("yolo", ".policyctl"):
        folder = place.repository / name
        folder.mkdir(parents=True)
        (folder / "kept").touch()
        before = everything(tmp_path)
        with pytest.raises(UsageError, match=f"holds {name}, which no demo made") as caught:
            place.clear()
        assert "--repository" in caught.value.remedy
        assert everything(tmp_path) == before
        (folder / "kept").unlink()
        folder.rmdir()


@pytest.mark.parametrize(("model", "release"), [("walker", "1.0.0"), ("cartpole", "2.0.0")])
def test_a_release_that_somebody_published_into_a_demo_s_repository_stays(
    place: Place, tmp_path: Path, model: str, release: str
) -> None:
    """Of another model or of the demo's own: the demo refuses to remove it, and names it."""
    place.begin()
    body = {"model": model, "release": release, "slot": 1, "manifest_digest": GENESIS, "contract": {}}
    Repository(place.repository).journal.append(RecordKind.PUBLISHED, body)
    (place.repository / model).mkdir()
    before = everything(tmp_path)
    with pytest.raises(UsageError, match=f"holds {model}.*, which no demo made"):
        place.clear()
    assert everything(tmp_path) == before


def test_what_a_running_server_serves_is_not_removed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by another demo nor by --remove."""
    place.begin()
    (place.repository / ".policyctl" / "server.json").touch()
    before = everything(tmp_path)
    monkeypatch.setattr(Demo, "_command", lambda *_, **__: {"server_live": True})
    for work in (Demo(place, print).remove, Demo(place, print).run):
        with pytest.raises(PolicyctlError, match="a server is running"):
            work()
    assert everything(tmp_path) == before


def test_exports_of_somebody_else_are_left_alone(place: Place, tmp_path: Path) -> None:
    """Also next to a repository that a demo filled: nothing of either is removed."""
    place.begin()
    (place.build / "walker").mkdir()
    before = everything(tmp_path)
    with pytest.raises(UsageError, match="holds walker"):
        place.clear()
    assert everything(tmp_path) == before


def test_files_of_a_repository_stay(place: Place) -> None:
    """The checkout's model_repository has a README."""
    place.repository.mkdir()
    (place.repository / "README.md").touch()
    place.clear()
    place.begin()
    place.clear()
    assert [path.name for path in place.repository.iterdir()] == ["README.md"]


def test_a_demo_without_its_extras_names_them_and_writes_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence names what is missing, and one command installs it."""
    found = importlib.util.find_spec
    missing = {"torch", "stable_baselines3"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    with pytest.raises(UnsupportedError, match="torch, stable_baselines3, not installed") as caught:
        Demo(place, lambda _: None).run()
    assert caught.value.remedy == "pip install 'policyctl[serve,sb3]'"
    assert everything(tmp_path) == []
