"""Schemas: what was written earlier is read for ever, what is newer is refused, and nothing is lost on the way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.domain import journal, manifest
from policyctl.domain.journal import GENESIS, Record, RecordKind, parse
from policyctl.domain.manifest import FileEntry, Manifest, canonical_json, digest_of
from policyctl.domain.schema import Lineage, Step
from policyctl.errors import IntegrityError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(st.text(max_size=8), values, max_size=4)


@st.composite
def journals(draw) -> tuple[Record, ...]:
    """Chained records, each of any schema that ever was."""
    records: list[Record] = []
    for body in draw(st.lists(bodies, max_size=6)):
        prev = records[-1].digest if records else GENESIS
        schema = draw(st.integers(1, journal.SCHEMA.newest))
        kind = draw(st.sampled_from(RecordKind))
        records.append(Record(len(records), prev, "2024-01-01T00:00:00+00:00", "a@b", kind, body, schema))
    return tuple(records)


@settings(max_examples=100, deadline=None)
@given(journals())
def test_a_journal_of_mixed_schemas_is_read_and_told_again_byte_for_byte(records: tuple[Record, ...]) -> None:
    """Lines of every schema chain with each other, give the same values, and keep their own text."""
    content = b"".join(r.to_line() for r in records)
    found = parse(content)
    assert found == records
    assert b"".join(r.to_line() for r in found) == content


@settings(max_examples=100, deadline=None)
@given(journals())
def test_migrating_a_record_loses_nothing(records: tuple[Record, ...]) -> None:
    """Up to the newest schema and down again is the document that it was."""
    for record in records:
        line = json.loads(record.to_line())
        newest = journal.SCHEMA.upgrade(line, record.schema)
        assert newest["schema"] == journal.SCHEMA.newest
        assert journal.SCHEMA.downgrade(newest, record.schema) == line


def test_a_line_of_the_first_schema_is_still_read() -> None:
    """The text that the first policyctl wrote, kept here for ever."""
    line = (
        b'{"actor":"a@b","body":{"manifest_digest":"sha256:00","model":"m","release":"1.0.0","slot":1},'
        b'"kind":"published","prev":"' + GENESIS.encode() + b'","seq":0,"time":"2024-01-01T00:00:00.000000+00:00"}\n'
    )
    (record,) = parse(line)
    assert (record.schema, record.body["release"]) == (1, "1.0.0")
    assert record.digest == digest_of(line)


def test_a_manifest_of_the_first_schema_is_still_read() -> None:
    """The text that the first policyctl wrote, kept here for ever; its digest is what journals pin."""
    digest = "sha256:" + "ab" * 32
    text = (
        f'{{"files":[{{"digest":"{digest}","path":"model.onnx","size_bytes":3}}],'
        '"model":"m","release":"1.0.0","schema":1}\n'
    ).encode()
    found = Manifest.from_bytes(text)
    assert found.files == (FileEntry("model.onnx", 3, digest),)
    assert found.digest == digest_of(text)


@pytest.mark.parametrize("ahead", [1, 7])
def test_what_a_newer_policyctl_wrote_is_refused_in_words(ahead: int) -> None:
    """Neither guessed at nor called an edit: the remedy is an update."""
    record = json.loads(Record(0, GENESIS, "t", "a@b", RecordKind.TUNED, {}).to_line())
    line = canonical_json({**record, "schema": journal.SCHEMA.newest + ahead, "unheard": 1})
    with pytest.raises(IntegrityError, match=r"journal line 1.*reads up to") as refusal:
        parse(line)
    assert "update" in refusal.value.remedy
    text = canonical_json({"schema": manifest.SCHEMA.newest + ahead, "parts": []})
    with pytest.raises(IntegrityError, match=r"manifest: schema.*reads up to") as refusal:
        Manifest.from_bytes(text)
    assert "update" in refusal.value.remedy


@pytest.mark.parametrize("schema", [0, -1, True, "2", 2.0, None, [2]])
def test_what_is_no_schema_is_refused(schema: object) -> None:
    """Only a number that was ever written is a schema."""
    with pytest.raises(IntegrityError, match="schema"):
        Lineage("thing", (Step(dict, dict),)).check(schema)


@given(st.dictionaries(st.sampled_from("abc"), values), st.integers(1, 4))
def test_steps_that_lead_back_make_a_lossless_lineage(document: dict, schema: int) -> None:
    """Whatever the steps are, down undoes up over any number of them."""
    steps = tuple(
        Step(
            lambda d, n=n: {**d, f"added{n}": n},
            lambda d, n=n: {k: v for k, v in d.items() if k != f"added{n}"},
        )
        for n in (2, 3, 4)
    )
    lineage = Lineage("thing", steps)
    newest = lineage.upgrade(document, schema)
    assert [k for k in newest if k.startswith("added")] == [f"added{n}" for n in range(schema + 1, 5)]
    assert lineage.downgrade(newest, schema) == document
