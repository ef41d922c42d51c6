"""A long journal of a store is read with few requests, and what shortens the way is trusted with nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from policyctl.adapters import bucket as bucket_module
from policyctl.adapters import fleet_store
from policyctl.adapters.bucket import Bucket
from policyctl.adapters.fleet_store import FleetJournal
from policyctl.domain.journal import RecordKind
from policyctl.errors import IntegrityError, UsageError

SEGMENT = 8


class Store:
    """A store in memory that counts what it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory = MemoryStore()
        self.asked = Counter[str]()
        monkeypatch.setattr(fleet_store, "SEGMENT", SEGMENT)
        monkeypatch.setattr(bucket_module, "_opened", lambda _url, _patience_s, **_: self.memory)
        asking = Bucket._asking

        def counted(bucket: Bucket, doing: str):
            self.asked[doing.split("/", maxsplit=1)[0]] += 1
            return asking(bucket, doing)

        monkeypatch.setattr(Bucket, "_asking", counted)

    def journal(self, copy: Path | None = None) -> FleetJournal:
        return FleetJournal(Bucket("s3://policies"), "somebody", copy)

    def write(self, records: int) -> FleetJournal:
        writer = self.journal()
        writer.read()
        for number in range(records):
            writer.append(RecordKind.OUTCOME, {"move": f"m{number}", "result": "done"})
        return writer

    def put(self, key: str, content: bytes) -> None:
        obstore.put(self.memory, key, content)

    def get(self, key: str) -> bytes:
        return bytes(obstore.get(self.memory, key).bytes())


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


def test_a_long_journal_takes_a_request_a_segment(store: Store) -> None:
    """And one a record behind the last whole segment."""
    written = store.write(5 * SEGMENT + 3).records
    store.asked.clear()
    reader = store.journal()
    reader.read()
    assert reader.records == written
    assert store.asked == {"listing segments": 1, "reading segments": 5, "reading journal": 5 + 3, "listing journal": 1}
    store.asked.clear()
    reader.read()
    assert store.asked == {"reading journal": 1}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-40],
        lambda content: content.replace(b"m9", b"m0"),
        lambda content: b"",
        lambda content: content + content.splitlines(keepends=True)[-1],
        lambda content: content.splitlines(keepends=True)[-1],
    ],
)
def test_a_wrong_segment_costs_requests_and_nothing_else(store: Store, spoil) -> None:
    """What is read is what the records say."""
    written = store.write(3 * SEGMENT).records
    key = fleet_store._segment_key(SEGMENT)
    store.put(key, spoil(store.get(key)))
    reader = store.journal()
    reader.read()
    assert reader.records == written


def test_another_history_in_the_segments_is_not_believed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a whole chain in itself, but its last record is not the one that lies in the journal."""
    written = store.write(SEGMENT).records
    other = Store(monkeypatch)
    other.write(SEGMENT)
    forged = other.get(fleet_store._segment_key(0))
    monkeypatch.setattr(bucket_module, "_opened", lambda _url, _patience_s, **_: store.memory)
    store.put(fleet_store._segment_key(0), forged)
    reader = store.journal()
    reader.read()
    assert reader.records == written


def test_a_segment_that_a_crash_left_out_is_written_with_the_next(store: Store) -> None:
    """So is what an earlier version never wrote."""
    store.write(2 * SEGMENT)
    obstore.delete(store.memory, fleet_store._segment_key(0))
    writer = store.journal()
    writer.read()
    for number in range(SEGMENT):
        writer.append(RecordKind.OUTCOME, {"move": f"n{number}", "result": "done"})
    keys = sorted(each["path"] for page in obstore.list(store.memory, "segments") for each in page)
    assert keys == [fleet_store._segment_key(first) for first in (0, SEGMENT, 2 * SEGMENT)]


def test_segments_that_cannot_be_read_stop_nobody(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is too long, or that the rights of this reader leave out."""
    written = store.write(2 * SEGMENT).records
    store.put(fleet_store._segment_key(0), b"a" * ((16 << 20) + 1))
    reader = store.journal()
    reader.read()
    assert reader.records == written

    keys = Bucket.keys

    def refuse(bucket: Bucket, folder: str, **more: str) -> tuple[str, ...]:
        if folder == "segments":
            raise UsageError("listing segments is not allowed")
        return keys(bucket, folder, **more)

    monkeypatch.setattr(Bucket, "keys", refuse)
    reader = store.journal()
    reader.read()
    assert reader.records == written


def test_what_comes_before_a_wrong_segment_is_taken(store: Store) -> None:
    """So a wrong one costs the requests for what is behind it."""
    store.write(4 * SEGMENT)
    store.put(fleet_store._segment_key(3 * SEGMENT), b"wrong\n")
    store.asked.clear()
    reader = store.journal()
    reader.read()
    assert len(reader.records) == 4 * SEGMENT
    assert store.asked["reading journal"] == 4 + SEGMENT


def test_a_record_that_nobody_would_read_is_not_written(store: Store) -> None:
    """It would end the journal for everybody."""
    writer = store.write(1)
    with pytest.raises(UsageError, match="at most 1048576 are read"):
        writer.append(RecordKind.OUTCOME, {"move": "m", "result": "é" * (1 << 20)})
    assert len(store.write(1).records) == 2


@settings(max_examples=40, deadline=None)
@given(length=st.integers(0, 4 * SEGMENT), known=st.integers(0, 4 * SEGMENT))
def test_whatever_a_reader_has_read_before_it_comes_to_the_same(length: int, known: int) -> None:
    """Its copy may end within a segment."""
    with pytest.MonkeyPatch.context() as patch:
        store = Store(patch)
        written = store.write(length)
        reader = store.journal()
        reader._take(written._whole.splitlines(keepends=True)[:known], where="copy")
        reader.read()
        assert reader.records == written.records


def test_a_journal_whose_record_was_changed_is_refused_all_the_same(store: Store) -> None:
    """Behind the segments as well."""
    store.write(SEGMENT + 2)
    key = fleet_store._key(SEGMENT)
    store.put(key, store.get(key).replace(b"m8", b"m7"))
    with pytest.raises(IntegrityError):
        store.journal().read()
