"""Where results are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_results import MACHINE, result_of
from hypothesis import given
from hypothesis import strategies as st

from policyctl.adapters.repository import Repository
from policyctl.errors import UsageError
from policyctl.services.kept_results import keep, kept, read


@pytest.fixture
def store(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path)
    repository.create()
    return repository


def test_what_is_kept_is_found_again_in_the_order_of_time(store: Repository) -> None:
    """By machine and by model, with what its name says."""
    late, early = result_of(time="2026-02-01T00:00:00+00:00"), result_of()
    for each in (late, early, result_of(fingerprint="f" * 12), result_of(model="hopper")):
        keep(store, each)
    found = list(kept(store, fingerprint=MACHINE, model="walker"))
    assert [each.read()[1] for each in found] == [early, late]
    assert [each.id for each in found] == [early.id, late.id]
    assert len(list(kept(store))) == 4


def test_a_result_is_never_written_twice(store: Repository) -> None:
    """The same id means the same content: what is there stays."""
    path = keep(store, result_of())
    path.write_bytes(b"first")
    assert keep(store, result_of()) == path
    assert path.read_bytes() == b"first"


def test_a_result_under_the_name_of_another_is_refused(store: Repository) -> None:
    """A copied file names its own id."""
    path = keep(store, result_of())
    path.write_bytes(result_of(600.0).to_bytes())
    with pytest.raises(UsageError, match="another result than its name says"):
        next(kept(store)).read()


@pytest.mark.parametrize(
    "name", ["notes.txt", "20260131T235959Z-short.json", "x-0123456789ab.json", ".hidden", "folder"]
)
def test_what_was_not_made_here_is_passed_over(store: Repository, name: str) -> None:
    """Notes, half a name, a folder."""
    path = keep(store, result_of())
    (path.parent / name).mkdir() if name == "folder" else (path.parent / name).write_text("x")
    (path.parents[2] / "stray").write_text("x")
    assert [k.path for k in kept(store)] == [path]


@given(st.text(max_size=30))
def test_no_name_leads_out_of_the_store(name: str) -> None:
    """An unusable fingerprint or model is refused before anything is written."""
    repository = Repository(Path("/nonexistent/repository"))
    for changes in ({"fingerprint": name}, {"model": f"../{name}"}):
        with pytest.raises(UsageError):
            keep(repository, result_of(**changes))


def test_an_empty_repository_holds_nothing_and_a_missing_file_is_told(store: Repository, tmp_path: Path) -> None:
    """Not an error, and one with a remedy."""
    assert list(kept(store)) == []
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path / "none.json")
