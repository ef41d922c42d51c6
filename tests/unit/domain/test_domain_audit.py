"""The audit of a journal names every line that is not what was written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_domain_journal import LINES, REARRANGED, chain

from policyctl.domain.journal import GENESIS, audit, parse
from policyctl.domain.manifest import canonical_json, digest_of
from policyctl.errors import IntegrityError

MANY = chain(8)


def _edited(line: bytes) -> bytes:
    return canonical_json({**json.loads(line), "actor": "somebody@else"})


def test_a_whole_journal_has_no_break_and_its_head_pins_it() -> None:
    """Every prefix is whole, and its head is the digest of its last line."""
    for count in range(len(MANY) + 1):
        found = audit(b"".join(MANY[:count]))
        assert (found.breaks, len(found.records)) == ((), count)
        assert found.head == (digest_of(MANY[count - 1]) if count else GENESIS)


@pytest.mark.parametrize("index", range(len(MANY) - 1))
def test_an_edited_line_is_named(index: int) -> None:
    """A line that is still a record, but not the one that was written, is called edited, and no other line is."""
    lines = [*MANY[:index], _edited(MANY[index]), *MANY[index + 1 :]]
    (found,) = audit(b"".join(lines)).breaks
    assert f"line {index + 1} was edited" in found.words


@pytest.mark.parametrize("index", range(len(MANY) - 1))
def test_a_removed_line_is_named(index: int) -> None:
    """The record that is gone is told by its number, and no other line is blamed."""
    (found,) = audit(b"".join([*MANY[:index], *MANY[index + 1 :]])).breaks
    assert f"record {index} was removed" in found.words


def test_several_changes_are_all_named() -> None:
    """The audit does not end at the first break."""
    lines = [_edited(MANY[0]), MANY[1], b"garbage\n", MANY[3], MANY[5], MANY[6], MANY[6], MANY[7]]
    found = audit(b"".join(lines)).breaks
    said = "\n".join(b.words for b in found)
    for words in ("line 1 was edited", "line 3 is not a record", "record 4 was removed", "repeats line 6"):
        assert words in said
    assert {b.line for b in found} == {2, 3, 5, 7}


def test_a_garbled_line_is_the_only_one_named() -> None:
    """What follows an unreadable line cannot be held against it, and is not blamed for it."""
    (found,) = audit(b"".join([*MANY[:3], b"{}\n", *MANY[4:]])).breaks
    assert found.line == 4


@pytest.mark.parametrize("name", REARRANGED)
def test_reading_refuses_exactly_what_the_audit_finds(name: str) -> None:
    """There is one notion of a whole journal."""
    whole = b"".join(REARRANGED[name])
    breaks = audit(whole).breaks
    assert breaks
    with pytest.raises(IntegrityError) as refusal:
        parse(whole)
    assert refusal.value.problem == breaks[0].words


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(range(len(LINES))), max_size=6), st.booleans())
def test_any_arrangement_of_lines_but_a_prefix_is_found(order: list[int], edit: bool) -> None:
    """Whatever was taken out, doubled or put elsewhere."""
    lines = [LINES[n] for n in order]
    if edit and len(lines) > 1:
        lines[0] = _edited(lines[0])
    whole = order == list(range(len(order))) and not (edit and len(lines) > 1)
    assert bool(audit(b"".join(lines)).breaks) is not whole


@pytest.mark.parametrize("noted", range(1, len(MANY) + 1))
@pytest.mark.parametrize("left", range(len(MANY) + 1))
def test_a_noted_head_shows_lines_that_were_cut_off(noted: int, left: int) -> None:
    """A chain cannot show that its end is gone; a head that was noted can."""
    head = digest_of(MANY[noted - 1])
    found = audit(b"".join(MANY[:left]), expected_head=head)
    assert bool(found.breaks) is (left < noted)
    if left < noted:
        assert "cut off" in found.breaks[0].words


def test_a_noted_head_shows_an_edit_of_the_last_line() -> None:
    """The one line that nothing follows."""
    lines = b"".join([*MANY[:-1], _edited(MANY[-1])])
    assert audit(lines).breaks == ()
    assert audit(lines, expected_head=digest_of(MANY[-1])).breaks
