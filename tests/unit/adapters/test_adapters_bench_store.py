"""Where results are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.adapters import bench_store
from policyctl.adapters.repository import Repository
from policyctl.errors import UsageError

MACHINE, ID = "0123456789ab", "fedcba987654"


def keep(repository: Repository, content: bytes = b"{}", **changes: str) -> Path:
    facts = {"fingerprint": MACHINE, "model": "walker", "stamp": "20260131T235959Z", "result_id": ID}
    return bench_store.keep(repository, content, **{**facts, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path)
    repository.create()
    return repository


def test_what_is_kept_is_found_again_in_the_order_of_time(store: Repository) -> None:
    """By machine and by model, with what its name says."""
    keep(store, b"late", stamp="20260201T000000Z", result_id="a" * 12)
    keep(store, b"early")
    keep(store, b"elsewhere", fingerprint="f" * 12)
    keep(store, b"another", model="hopper")
    found = list(bench_store.kept(store, fingerprint=MACHINE, model="walker"))
    assert [(k.id, k.read()) for k in found] == [(ID, b"early"), ("a" * 12, b"late")]
    assert len(list(bench_store.kept(store))) == 4


def test_a_result_is_never_written_twice(store: Repository) -> None:
    """The same id means the same content: what is there stays."""
    path = keep(store, b"first")
    assert keep(store, b"second") == path
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize(
    "name", ["notes.txt", "20260131T235959Z-short.json", "x-0123456789ab.json", ".hidden", "folder"]
)
def test_what_was_not_made_here_is_passed_over(store: Repository, name: str) -> None:
    """Notes, half a name, a folder."""
    path = keep(store)
    (path.parent / name).mkdir() if name == "folder" else (path.parent / name).write_text("x")
    (path.parents[2] / "stray").write_text("x")
    assert [k.path for k in bench_store.kept(store)] == [path]


@given(st.text(max_size=30))
def test_no_name_leads_out_of_the_store(name: str) -> None:
    """An unusable fingerprint, stamp, id or model is refused before anything is written."""
    repository = Repository(Path("/nonexistent/repository"))
    for changes in ({"fingerprint": name}, {"stamp": name}, {"result_id": name}, {"model": f"../{name}"}):
        with pytest.raises(UsageError):
            keep(repository, **changes)


def test_an_empty_repository_holds_nothing_and_a_missing_file_is_told(store: Repository, tmp_path: Path) -> None:
    """Not an error, and one with a remedy."""
    assert list(bench_store.kept(store)) == []
    with pytest.raises(UsageError, match="cannot be read"):
        bench_store.read_file(tmp_path / "none.json")
