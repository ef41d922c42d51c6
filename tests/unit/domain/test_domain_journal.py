"""The journal's chain: what can be changed without being found."""

from __future__ import annotations

import pytest

from policyctl.domain.journal import GENESIS, Record, RecordKind, parse, split
from policyctl.domain.manifest import digest_of
from policyctl.errors import IntegrityError


def chain(count: int) -> tuple[bytes, ...]:
    """Lines of `count` records."""
    lines: list[bytes] = []
    for seq in range(count):
        prev = digest_of(lines[-1]) if lines else GENESIS
        body = {"model": "m", "release": f"1.0.{seq}", "slot": seq + 1, "manifest_digest": GENESIS}
        lines.append(Record(seq, prev, "2024-01-01T00:00:00.000000+00:00", "a@b", RecordKind.PUBLISHED, body).to_line())
    return tuple(lines)


LINES = chain(4)


def test_every_prefix_of_a_journal_is_a_journal() -> None:
    """A reader that comes early sees a shorter truth, not an error."""
    for count in range(len(LINES) + 1):
        records = parse(b"".join(LINES[:count]))
        assert [r.seq for r in records] == list(range(count))
        assert b"".join(r.to_line() for r in records) == b"".join(LINES[:count])


def test_no_changed_bit_before_the_last_line_goes_unseen() -> None:
    """Every single-bit change of any earlier line is refused."""
    whole = b"".join(LINES)
    for index in range(len(whole) - len(LINES[-1])):
        for bit in range(8):
            changed = bytearray(whole)
            changed[index] ^= 1 << bit
            with pytest.raises(IntegrityError):
                parse(bytes(changed))


def test_a_changed_bit_of_the_last_line_is_refused_or_changes_its_digest() -> None:
    """No other text of the last line passes for the same record."""
    before = parse(b"".join(LINES))
    for index in range(len(LINES[-1])):
        for bit in range(8):
            changed = bytearray(LINES[-1])
            changed[index] ^= 1 << bit
            if changed[-1:] != b"\n":
                continue  # a torn tail, which `split` sets apart
            try:
                found = parse(b"".join(LINES[:-1]) + bytes(changed))
            except IntegrityError:
                continue
            assert found[-1].digest != before[-1].digest


REARRANGED = {
    "first removed": LINES[1:],
    "middle removed": (LINES[0], *LINES[2:]),
    "two swapped": (LINES[0], LINES[2], LINES[1], LINES[3]),
    "one repeated": (LINES[0], LINES[1], LINES[1], *LINES[2:]),
    "last repeated": (*LINES, LINES[-1]),
    "begun again": (*LINES, LINES[0]),
    "blank line": (LINES[0], b"\n", *LINES[1:]),
    "blank line at the end": (*LINES, b"\n"),
    "line of another journal": (LINES[0], chain(1)[0].replace(b"a@b", b"x@y"), *LINES[2:]),
}


@pytest.mark.parametrize("name", REARRANGED)
def test_a_journal_whose_lines_were_moved_is_refused(name: str) -> None:
    """Removed, swapped, repeated and inserted lines are found; the message names the line."""
    with pytest.raises(IntegrityError, match=r"journal line \d") as refusal:
        parse(b"".join(REARRANGED[name]))
    assert "Restore" in refusal.value.remedy


def _line(**changes: object) -> bytes:
    import json

    from policyctl.domain.manifest import canonical_json

    return canonical_json({**json.loads(LINES[0]), **changes})


@pytest.mark.parametrize(
    "line",
    [
        _line(seq=False),
        _line(seq=0.0),
        _line(seq="0"),
        _line(time=5),
        _line(time="yesterday"),
        _line(time="2024-01-01T00:00:00.000000"),
        _line(actor=None),
        _line(prev=None),
        _line(kind="unheard"),
        _line(kind=["published"]),
        _line(body=[]),
        _line(more=1),
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        LINES[0].replace(b'"seq":0', b'"seq":0,"seq":0'),
        LINES[0].replace(b'"slot":1', b'"slot":NaN'),
        LINES[0].replace(b'"slot":1', b'"slot": 1'),
        LINES[0].replace(b"\n", b"\r\n"),
    ],
    ids=range(21),
)
def test_what_is_no_canonical_record_is_refused(line: bytes) -> None:
    """Wrong types, unknown keys and other spellings of the same record are refused alike."""
    with pytest.raises(IntegrityError, match="journal line 1"):
        parse(line)


def test_a_torn_tail_is_never_a_record() -> None:
    """Cut anywhere, the content splits into whole lines and a tail, and nothing is lost."""
    content = b"".join(LINES[:2])
    for end in range(len(content) + 1):
        whole, torn = split(content[:end])
        assert whole + torn == content[:end]
        assert b"\n" not in torn
        assert len(parse(whole)) == (end >= len(LINES[0])) + (end == len(content))
