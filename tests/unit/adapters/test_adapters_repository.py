"""The repository: what it refuses, and what its folders are worth."""

from __future__ import annotations

import pytest

from policyctl.adapters.repository import Repository
from policyctl.errors import UsageError
from policyctl.services.integrity.verify import verify
from policyctl.services.rollout.promote import promote


def test_a_file_is_no_repository(tmp_path) -> None:
    """A path that names a file is refused in words, to look at and to write to."""
    (tmp_path / "file").touch()
    repository = Repository(tmp_path / "file")
    with pytest.raises(UsageError, match="holds no published policy"):
        repository.require()
    with pytest.raises(UsageError, match="cannot be written"):
        repository.create()


def test_a_path_that_cannot_be_is_refused(tmp_path) -> None:
    """A name that is too long and a link to itself are usage errors."""
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / ("x" * 300), tmp_path / "loop" / "r", tmp_path / "loop"):
        with pytest.raises(UsageError):
            Repository(path).require()


def test_a_slot_is_never_written_twice(repository) -> None:
    """A slot that is there, also an unknown one, stays."""
    repository.slot("m", 1).mkdir(parents=True)
    (repository.slot("m", 1) / "x").touch()
    with repository.staging() as folder, pytest.raises(UsageError, match="never written twice"):
        (folder / "slot").mkdir()
        repository.commit_slot(folder / "slot", "m", 1)
    assert (repository.slot("m", 1) / "x").exists()


def test_a_file_that_cannot_be_kept_is_a_refusal(repository) -> None:
    """The refusal names the file that stands where its folder should be."""
    (repository.control / "evidence" / "m").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        repository.write(repository.control / "evidence" / "m" / "1.0.0" / "g.json", b"{}")


def test_a_value_is_read_back_and_nothing_else_is(repository) -> None:
    """What another program wrote there, or a crash left, reads as if nothing was there."""
    repository.write_value("value.json", {"one": 1})
    assert repository.read_value("value.json", dict[str, int]) == {"one": 1}
    assert repository.read_value("value.json", dict[str, str]) is None
    assert repository.read_value("missing.json", dict[str, int]) is None
    for content in (b"", b"{", b"[" * 100_000, b"\xff"):
        repository.write(repository.control / "value.json", content)
        assert repository.read_value("value.json", dict[str, int]) is None


def test_pruning_what_is_gone_does_nothing(repository) -> None:
    """Every effect can be repeated: an alias's folder that somebody removed is pruned already."""
    repository.prune("m.staging", 1)
    repository.withdraw("m.staging")
    repository.withdraw("m")


STRANGERS = {
    "a slot of an alias": ("walker.staging/9/model.onnx", "walker.staging/9"),
    "a file of an alias": ("walker.staging/notes", "walker.staging/notes"),
    "an alias that nothing names": ("walker.canary/config.pbtxt", "walker.canary"),
    "a slot of the model": ("walker/9/model.onnx", "walker/9"),
    "a file of the model": ("walker/model.py", "walker/model.py"),
    "another model": ("runner/1/model.onnx", "runner"),
    "an alias of another model": ("runner.staging/config.pbtxt", "runner.staging"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_verify_finds_what_belongs_to_nothing(world, name: str) -> None:
    """A Triton on this folder could serve it, so it is reported."""
    path, named = STRANGERS[name]
    world.publish("1.0.0", 1)
    for alias in ("production", "staging"):
        promote(world.control, model="walker", release="1.0.0", alias=alias)
    assert all(f.intact for f in verify(world.control))
    (world.root / path).parent.mkdir(parents=True, exist_ok=True)
    (world.root / path).touch()
    bad = [f.what for f in verify(world.control) if not f.intact]
    assert bad == [named]


DAMAGES = {
    "a slot": ("walker/1", "walker 1.0.0 (slot 1)"),
    "an alias's folder": ("walker.staging", "walker.staging/config.pbtxt"),
    "an alias's configuration": ("walker.staging/config.pbtxt", "walker.staging/config.pbtxt"),
    "production's configuration": ("walker/config.pbtxt", "walker/config.pbtxt"),
    "an alias's links": ("walker.staging/1", "walker.staging slot 1"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_verify_finds_what_is_missing(world, name: str) -> None:
    """Each part that the journal promises is held against it."""
    from policyctl.adapters.files import remove_tree

    path, named = DAMAGES[name]
    world.publish("1.0.0", 1)
    for alias in ("production", "staging"):
        promote(world.control, model="walker", release="1.0.0", alias=alias)
    remove_tree(world.root / path)
    assert named in [f.what for f in verify(world.control) if not f.intact]


def test_a_changed_file_is_found_in_the_slot_and_in_every_alias_of_it(world) -> None:
    """Hard links share their bytes, so each name of a damaged file is reported."""
    world.publish("1.0.0", 1)
    promote(world.control, model="walker", release="1.0.0", alias="staging")
    path = world.root / "walker" / "1" / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    bad = [f.what for f in verify(world.control) if not f.intact]
    assert bad == ["walker 1.0.0 (slot 1)", "walker.staging slot 1"]
