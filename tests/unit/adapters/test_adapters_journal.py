"""The journal on disk: who appends, what a crash leaves, what cannot be read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.adapters import journal as journal_module
from policyctl.adapters.journal import Journal
from policyctl.domain.fold import fold
from policyctl.domain.journal import GENESIS, Record, RecordKind
from policyctl.errors import IntegrityError, PolicyctlError, UsageError

BODY = {"model": "m", "release": "1.0.0", "slot": 1, "manifest_digest": GENESIS, "contract": {}}


def test_an_absent_journal_is_an_empty_one(repository) -> None:
    """Nothing was ever recorded there, and looking makes no file."""
    assert repository.journal.records() == ()
    assert not repository.journal.path.exists()


def test_records_are_chained_and_come_back(repository) -> None:
    """Each carries the digest of the one before, and any text survives."""
    texts = ['a "quoted" word', "two\nlines\r\n", "snow \u2603 \U0001f600", "", "\u2028\x85\x0b", "\ud800"]
    for reason in texts:
        repository.journal.append(RecordKind.PUBLISHED, {**BODY, "reason": reason})
    records = repository.journal.records()
    assert [r.body["reason"] for r in records] == texts
    assert [r.prev for r in records] == [GENESIS, *(r.digest for r in records[:-1])]
    assert repository.journal.path.read_bytes().count(b"\n") == len(texts)


def test_the_state_of_a_journal_that_grows_is_folded_once(repository, monkeypatch) -> None:
    """Neither a look nor a record of this writer, or of another one, has the earlier records folded again."""
    folded: list[int] = []

    def counted(records, *state):
        folded.append(len(records))
        return fold(records, *state)

    monkeypatch.setattr(journal_module, "fold", counted)
    journal, other = repository.journal, Journal(repository.journal.path)
    for number in range(3):
        journal.append(RecordKind.PUBLISHED, {**BODY, "release": f"1.{number}.0"})
        assert journal.state() is journal.state()
    other.append(RecordKind.PUBLISHED, {**BODY, "release": "2.0.0"})
    assert len(journal.state().releases) == 4
    assert folded == [1, 1, 1, 1]


def reading(path: Path) -> tuple[Record, ...] | str:
    try:
        return Journal(path).records()
    except PolicyctlError as error:
        return error.problem


@given(data=st.data())
def test_a_journal_that_was_read_before_is_read_as_if_for_the_first_time(data) -> None:
    """Whatever happened to it meanwhile: lines that came, went or changed, in front or at the end."""
    records: list[Record] = []
    for slot in range(data.draw(st.integers(2, 6))):
        prev = records[-1].digest if records else GENESIS
        time = "2026-01-01T00:00:00.000000+00:00"
        records.append(Record(slot, prev, time, "a@b", RecordKind.PUBLISHED, {**BODY, "slot": slot}))
    lines = [record.to_line() for record in records]
    longer, content = b"".join(lines), b"".join(lines[:-1])
    at = data.draw(st.integers(0, len(content) - 1))
    flipped = content[:at] + bytes((content[at] ^ data.draw(st.sampled_from((1, 2, 32))),)) + content[at + 1 :]
    shorter = b"".join(lines[: data.draw(st.integers(0, len(lines)))])
    turned = b"".join(data.draw(st.permutations(lines)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ".policyctl" / "journal.jsonl"
        path.parent.mkdir()
        for changed in (flipped, longer, shorter, turned, content):
            path.write_bytes(content)
            assert reading(path) == tuple(records[:-1])
            path.write_bytes(changed)
            now = reading(path)
            with pytest.MonkeyPatch.context() as first_time:
                first_time.setattr(journal_module, "_latest", journal_module._Latest())
                assert reading(path) == now
            assert (now == tuple(records)) is (changed == longer)


def test_a_torn_tail_is_not_read_and_not_lost(repository) -> None:
    """A reader ignores it, the next writer sets it aside, twice over if need be."""
    journal = repository.journal
    first = journal.append(RecordKind.PUBLISHED, BODY)
    for tail in (b"{", first.to_line()[:-1]):
        with journal.path.open("ab") as file:
            file.write(tail)
        assert journal.records()[-1] == first or len(journal.records()) > 1
        count = len(journal.records())
        journal.append(RecordKind.PUBLISHED, BODY)
        assert len(journal.records()) == count + 1
        assert journal.path.with_suffix(".torn").read_bytes() == tail


def test_nothing_is_appended_to_a_journal_that_was_edited(repository) -> None:
    """A broken chain is not carried on."""
    journal = repository.journal
    for _ in range(2):
        journal.append(RecordKind.PUBLISHED, BODY)
    edited = journal.path.read_bytes().replace(b'"slot":1', b'"slot":2', 1)
    journal.path.write_bytes(edited)
    with pytest.raises(IntegrityError, match="journal line 2"):
        journal.append(RecordKind.PUBLISHED, BODY)
    assert journal.path.read_bytes() == edited


def test_what_cannot_be_read_is_no_empty_journal(tmp_path) -> None:
    """A folder or a file in the way is refused in words: an unreadable journal must never pass for a fresh one."""
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        Journal(tmp_path / "journal.jsonl").records()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be read"):
        Journal(tmp_path / "file" / "journal.jsonl").records()


def test_a_value_that_is_no_json_is_not_appended(repository) -> None:
    """NaN would make a line that no strict reader takes: the journal stays as it was."""
    repository.journal.append(RecordKind.PUBLISHED, BODY)
    before = repository.journal.path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        repository.journal.append(RecordKind.PUBLISHED, {**BODY, "x": float("nan")})
    assert repository.journal.path.read_bytes() == before
