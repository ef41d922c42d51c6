"""What was named at an instant: held against a plain calendar of the moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from domain_strategies import placement
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.domain.fold import fold
from policyctl.domain.instants import instant, zone_of
from policyctl.domain.journal import GENESIS, Record, RecordKind
from policyctl.domain.moves import Move, MoveKind
from policyctl.domain.timeline import LastCertified, moment
from policyctl.errors import IntegrityError, UsageError

START = datetime(2026, 11, 20, 10, tzinfo=UTC)
RELEASES = ("1.0.0", "1.1.0", "2.0.0")


def _time(second: float) -> datetime:
    return START + timedelta(seconds=second)


class Book:
    """Writes a journal at chosen seconds."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(self, second: float, kind: RecordKind, body: dict, actor: str = "a@b") -> None:
        prev = self.records[-1].digest if self.records else GENESIS
        self.records.append(Record(len(self.records), prev, _time(second).isoformat(), actor, kind, body))

    def publish(self, second: float) -> None:
        for slot, release in enumerate(RELEASES, 1):
            body = {
                "model": "m",
                "release": release,
                "slot": slot,
                "manifest_digest": placement(release).manifest_digest,
                "contract": {},
            }
            self.add(second, RecordKind.PUBLISHED, body)

    def begin(
        self, second: float, release: str, alias: str = "production", *, actor: str = "a@b", reason: str = ""
    ) -> str:
        named = fold(self.records).alias("m", alias)
        name = f"move{len(self.records)}"
        incumbent = None if named is None else named.placement
        move = Move(name, MoveKind.PROMOTION, "m", alias, incumbent, placement(release), reason)
        self.add(second, RecordKind.INTENT, {**move.to_json(), "server": "s"}, actor)
        return name

    def switch(self, second: float, move: str) -> None:
        self.add(second, RecordKind.SWITCHING, {"move": move, "config_digest": ""})

    def end(self, second: float, move: str, result: str = "done") -> None:
        self.add(second, RecordKind.OUTCOME, {"move": move, "result": result})

    def possible(self, second: float, alias: str = "production") -> set[str]:
        found = moment(self.records, _time(second), now=_time(10**6))
        known = moment(self.records, _time(second), now=_time(10**6), whole=fold(self.records))
        assert known == found, "what all records say is of no use but at the end"
        return {p.release for a in found.aliases if a.alias == alias for p in a.possible}


@pytest.fixture
def book() -> Book:
    """Releases published at second 0, 1.0.0 promoted at 10 to 13, 1.1.0 at 20 to 23, by two people."""
    made = Book()
    made.publish(0)
    body = {"model": "m", "release": "1.0.0", "manifest_digest": placement("1.0.0").manifest_digest}
    gate = {**body, "gate": "parity", "verdict": "passed", "evidence": "evidence/x.json", "evidence_digest": GENESIS}
    made.add(5, RecordKind.GATE, {**gate, "verdict": "failed"})
    made.add(6, RecordKind.GATE, gate)
    first = made.begin(10, "1.0.0", actor="ann@lab", reason="first")
    made.add(11, RecordKind.CERTIFIED, {"move": first, "server": "s1", "config_digest": "", **body})
    made.switch(12, first)
    made.end(13, first)
    made.add(15, RecordKind.GATE, {**gate, "gate": "later"})
    second = made.begin(20, "1.1.0", actor="bob@lab", reason="better")
    made.switch(22, second)
    made.end(23, second)
    return made


def test_before_the_first_record_there_was_nothing(book: Book) -> None:
    """No records, no aliases; and after publishing alone still no alias."""
    found = moment(book.records, _time(-1), now=_time(100))
    assert (found.records, found.head, found.aliases) == (0, GENESIS, ())
    assert moment(book.records, _time(9), now=_time(100)).aliases == ()


def test_it_tells_who_why_since_when_and_what_let_it(book: Book) -> None:
    """Release, slot, digest, the move that brought it, the gates' last words before it, and the certification."""
    (then,) = moment(book.records, _time(16), now=_time(100)).aliases
    assert (then.named.release, then.named.slot, then.since) == ("1.0.0", 1, _time(13).isoformat())
    assert (then.by.actor, then.by.move.reason, then.by.started) == ("ann@lab", "first", _time(10).isoformat())
    assert [(g.gate, g.verdict) for g in then.gates] == [("parity", "passed")], "what ran later did not let it"
    assert then.certified == LastCertified("s1", _time(11).isoformat())
    assert (then.moving, then.switching) == (None, False)


def test_in_the_middle_of_a_switch_both_are_possible(book: Book) -> None:
    """Before `switching` only the incumbent, between it and the outcome both, then the target alone."""
    assert book.possible(21) == {"1.0.0"}
    assert book.possible(22.5) == {"1.0.0", "1.1.0"}
    assert book.possible(23) == {"1.1.0"}
    (then,) = moment(book.records, _time(22.5), now=_time(100)).aliases
    assert (then.moving.switching, then.moving.ended, then.moving.result) == (
        _time(22).isoformat(),
        _time(23).isoformat(),
        "done",
    )
    assert book.possible(12.5) == {"1.0.0"}, "a first promotion: nothing, or the target"
    (first,) = moment(book.records, _time(10.5), now=_time(100)).aliases
    assert (first.possible, first.moving.move.target.release) == ((), "1.0.0")


def test_a_move_that_is_open_for_good_leaves_both_possible(book: Book) -> None:
    """Nobody knows yet how it ends."""
    book.switch(31, book.begin(30, "2.0.0"))
    (then,) = moment(book.records, _time(500), now=_time(1000)).aliases
    assert {p.release for p in then.possible} == {"1.1.0", "2.0.0"}
    assert then.moving.ended is None


def test_the_future_is_said_to_be_the_present(book: Book) -> None:
    """What is asked too early is answered as of now, with a word of caution."""
    found = moment(book.records, _time(1000), now=_time(500))
    assert "still to come" in found.cautions[0]
    assert moment(book.records, _time(400), now=_time(500)).cautions == ()


def test_a_clock_that_went_back_is_told(book: Book) -> None:
    """The order of the lines decides, and the answer says that the times near it do not."""
    third = book.begin(18, "2.0.0")
    book.switch(18.1, third)
    book.end(18.2, third)
    assert book.possible(23) == {"2.0.0"}, "its lines come after the one of second 23"
    assert book.possible(22.9) == {"1.0.0", "1.1.0"}
    found = moment(book.records, _time(19), now=_time(100))
    assert "clock had gone back at record" in found.cautions[0]


def test_a_time_that_is_none_names_its_line() -> None:
    """A record whose time cannot be read is refused, not skipped."""
    record = Record(0, GENESIS, "yesterday", "a@b", RecordKind.TUNED, {"model": "m", "options": None})
    with pytest.raises(IntegrityError, match=r"journal line 1.*yesterday"):
        moment([record], START, now=START)


steps = st.lists(
    st.tuples(
        st.sampled_from(RELEASES),
        st.sampled_from(["production", "staging"]),
        st.sampled_from(["done", "reverted", "aborted", "late revert"]),
        st.integers(1, 5),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(steps)
def test_at_every_instant_the_answer_is_the_calendars(moves: list[tuple]) -> None:
    """Against a list of spans that was kept while the moves were made."""
    book, clock = Book(), 1.0
    book.publish(0)
    spans: dict[str, list[tuple[float, set[str]]]] = {"production": [(0, set())], "staging": [(0, set())]}
    for release, alias, how, wait in moves:
        before = spans[alias][-1][1]
        move = book.begin(clock, release, alias)
        if how in {"done", "late revert"}:
            book.switch(clock + 1, move)
            spans[alias].append((clock + 1, before | {release}))
        book.end(clock + 2, move, "done" if how == "done" else "reverted" if how == "late revert" else how)
        spans[alias].append((clock + 2, {release} if how == "done" else before))
        clock += 2 + wait
    for half in range(int(clock) * 2 + 2):
        for alias, kept in spans.items():
            expected = [named for since, named in kept if since <= half / 2][-1]
            assert book.possible(half / 2, alias) == expected


ZURICH = ZoneInfo("Europe/Zurich")


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-11-20T10:00Z", None, START),
        ("2026-11-20 10:00:00+00:00", None, START),
        ("2026-11-20T11:00+01:00", ZoneInfo("Asia/Tokyo"), START),
        ("2026-11-20T11:00", ZURICH, START),
        ("2026-11-20", ZoneInfo("UTC"), START - timedelta(hours=10)),
        ("2026-11-20T05:00:00.5-05:00", None, START + timedelta(seconds=0.5)),
        ("now", None, START),
    ],
)
def test_a_time_of_any_zone_is_understood(text: str, zone: ZoneInfo | None, expected: datetime) -> None:
    """A zone in the text wins; one that is given holds for a text without."""
    assert instant(text, now=START, zone=zone) == expected


@pytest.mark.parametrize(
    ("text", "zone", "said"),
    [
        ("2026-11-20T10:00", None, "names no time zone"),
        ("tuesday", None, "is not a time"),
        ("2026-13-01T00:00Z", None, "is not a time"),
        ("", None, "is not a time"),
        ("2026-10-25T02:30", ZURICH, "happened twice"),
        ("2026-03-29T02:30", ZURICH, "never happened"),
    ],
)
def test_a_time_that_leaves_something_to_guess_is_refused(text: str, zone: ZoneInfo | None, said: str) -> None:
    """No zone, no such time, or one that the clocks' change doubled or skipped; the remedy says what to type."""
    with pytest.raises(UsageError, match=said) as refusal:
        instant(text, now=START, zone=zone)
    assert refusal.value.remedy


@settings(max_examples=200, deadline=None)
@given(
    st.datetimes(datetime(1980, 1, 1), datetime(2035, 1, 1)),
    st.sampled_from(["Europe/Zurich", "America/New_York", "UTC"]),
)
def test_every_local_time_names_its_instant_or_is_refused(local: datetime, name: str) -> None:
    """What is understood shows, in that zone, what was typed."""
    try:
        found = instant(local.isoformat(), now=START, zone=zone_of(name))
    except UsageError as refusal:
        assert "clocks" in refusal.problem
        return
    assert found.astimezone(zone_of(name)).replace(tzinfo=None) == local


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "/etc/localtime"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    """With a name that exists in the remedy."""
    with pytest.raises(UsageError, match="time zone"):
        zone_of(name)


def test_offsets_need_no_zone_of_a_name() -> None:
    """A fixed offset is a zone too."""
    assert instant("2026-11-20T20:00+10:00", now=START) == START.astimezone(timezone(timedelta(hours=10)))
