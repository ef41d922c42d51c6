"""Schemas: what is written today is read back byte for byte, and an unknown schema is refused in words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.domain import journal, manifest
from policyctl.domain.journal import GENESIS, Record, RecordKind, parse
from policyctl.domain.manifest import FileEntry, Manifest, canonical_json, digest_of
from policyctl.domain.schema import require_schema
from policyctl.errors import IntegrityError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(st.text(max_size=8), values, max_size=4)


@st.composite
def journals(draw) -> tuple[Record, ...]:
    """Chained records."""
    records: list[Record] = []
    for body in draw(st.lists(bodies, max_size=6)):
        prev = records[-1].digest if records else GENESIS
        kind = draw(st.sampled_from(RecordKind))
        records.append(Record(len(records), prev, "2024-01-01T00:00:00+00:00", "a@b", kind, body))
    return tuple(records)


@settings(max_examples=100, deadline=None)
@given(journals())
def test_a_journal_is_read_and_written_again_byte_for_byte(records: tuple[Record, ...]) -> None:
    """Lines chain with each other, give the same values, and keep their text."""
    content = b"".join(r.to_line() for r in records)
    read = parse(content)
    assert read == records
    assert b"".join(r.to_line() for r in read) == content


def test_a_journal_line_keeps_its_text_for_ever() -> None:
    """The text of schema 2; its digest is what the next line carries."""
    line = (
        b'{"actor":"a@b","body":{"manifest_digest":"sha256:00","model":"m","release":"1.0.0","slot":1},'
        b'"kind":"published","prev":"' + GENESIS.encode() + b'","schema":2,"seq":0,'
        b'"time":"2024-01-01T00:00:00.000000+00:00"}\n'
    )
    (record,) = parse(line)
    assert record.body["release"] == "1.0.0"
    assert (record.to_line(), record.digest) == (line, digest_of(line))


def test_a_manifest_keeps_its_text_for_ever() -> None:
    """The text of schema 1; its digest is what journals pin."""
    digest = "sha256:" + "ab" * 32
    text = (
        f'{{"files":[{{"digest":"{digest}","path":"model.onnx","size_bytes":3}}],'
        '"model":"m","release":"1.0.0","schema":1}\n'
    ).encode()
    read = Manifest.from_bytes(text)
    assert read.files == (FileEntry("model.onnx", 3, digest),)
    assert read.digest == digest_of(text)


@pytest.mark.parametrize("ahead", [1, 7])
def test_what_a_newer_policyctl_wrote_is_refused_in_words(ahead: int) -> None:
    """Neither guessed at nor called an edit: the remedy is an update."""
    record = json.loads(Record(0, GENESIS, "t", "a@b", RecordKind.TUNED, {}).to_line())
    line = canonical_json({**record, "schema": journal.SCHEMA + ahead, "unheard": 1})
    with pytest.raises(IntegrityError, match=r"journal line 1.*unknown schema \d, this policyctl reads") as refusal:
        parse(line)
    assert "update" in refusal.value.remedy
    text = canonical_json({"schema": manifest.SCHEMA_VERSION + ahead, "parts": []})
    with pytest.raises(IntegrityError, match=r"manifest: unknown schema \d, this policyctl reads") as refusal:
        Manifest.from_bytes(text)
    assert "update" in refusal.value.remedy


@pytest.mark.parametrize("schema", [0, -1, True, "2", 2.0, None, [2], 1])
def test_what_is_no_known_schema_is_refused(schema: object) -> None:
    """Only the number that is written is read."""
    with pytest.raises(IntegrityError, match="thing: unknown schema"):
        require_schema("thing", schema, known=2)
