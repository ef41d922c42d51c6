"""A repository gets a fresh name with its first folder, and keeps it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from policyctl.adapters.repository import Repository
from policyctl.adapters.triton_calls import server_name


def test_an_id_is_given_once_and_copied_with_the_repository(tmp_path) -> None:
    """Making the folders again gives no other name, and a copy has the same."""
    first, other = Repository(tmp_path / "first"), Repository(tmp_path / "other")
    assert first.id == ""
    for each in (first, other, first):
        each.create()
    assert len(first.id) == 32 and first.id != other.id
    subprocess.run(["cp", "-a", first.root, tmp_path / "copy"], check=True)
    given = first.id
    Repository(tmp_path / "copy").create()
    assert Repository(tmp_path / "copy").id == first.id == given
    assert [p.name for p in first.scratch.iterdir()] == []


def test_of_two_who_give_an_id_at_once_both_have_the_first(tmp_path, monkeypatch) -> None:
    """The second finds it there, whole."""
    one, two = Repository(tmp_path), Repository(tmp_path)
    exists, looked = Path.exists, []

    def late(path: Path, **kwargs: bool) -> bool:
        found = exists(path, **kwargs)
        if path.name == "id" and not looked:
            looked.append(path)
            two.create()
        return found

    monkeypatch.setattr(Path, "exists", late)
    one.create()
    assert looked
    assert one.id == two.id != ""


@pytest.mark.parametrize("content", [b"", b"\xff", b"x" * 32, b"0" * 33, b"../../etc"])
def test_what_is_no_id_names_nothing(tmp_path, content) -> None:
    """A server then says nothing of its repository."""
    repository = Repository(tmp_path)
    repository.create()
    (repository.control / "id").write_bytes(content)
    assert repository.id == ""
    assert server_name(repository.id) == ""
