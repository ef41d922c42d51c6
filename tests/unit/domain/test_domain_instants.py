"""How an instant is shown."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from policyctl.domain.instants import age_text, instant, next_second, utc_text, zone_of
from policyctl.errors import UsageError

NOW = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        ("2026-11-20T09:59:58.123456+00:00", "2026-11-20 09:59:58Z"),
        ("2026-11-20T10:59:58+01:00", "2026-11-20 09:59:58Z"),
        ("never", "never"),
    ],
)
def test_a_time_is_shown_with_its_zone(time: str, shown: str) -> None:
    """In UTC, to the second; another text stays as it is."""
    assert utc_text(time) == shown


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        ("2026-11-20T09:59:58+00:00", "2 s ago"),
        ("2026-11-20T09:58:59+00:00", "1 min ago"),
        ("2026-11-20T07:30:00+00:00", "2 h ago"),
        ("2026-11-10T07:30:00+00:00", "10 d ago"),
        ("2026-11-20T10:00:05+00:00", "0 s ago"),
        ("2026-11-20T10:00:05", "2026-11-20T10:00:05"),
        ("", ""),
    ],
)
def test_an_age_is_told_in_one_unit(time: str, shown: str) -> None:
    """The largest that fits; a clock that runs ahead by seconds makes nothing older than now."""
    assert age_text(time, now=NOW) == shown


@pytest.mark.parametrize(
    ("time", "second"),
    [
        ("2026-11-20T09:59:59.000001+00:00", "2026-11-20 10:00:00Z"),
        ("2026-11-20T10:00:00+00:00", "2026-11-20 10:00:00Z"),
        ("2026-11-20T11:00:00.999+01:00", "2026-11-20 10:00:01Z"),
        ("9999-12-31T23:59:59.5+00:00", "9999-12-31T23:59:59.5+00:00"),
        ("never", "never"),
    ],
)
def test_the_next_second_is_never_before_a_time(time: str, second: str) -> None:
    """A whole second stays; what is no time, or the last one, stays as it is."""
    assert next_second(time) == second


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00", "0001-01-01T00:00", "0000-01-01T00:00Z"]
)
def test_a_time_that_utc_has_no_year_for_is_refused(text: str) -> None:
    """As what is no time at all: the offset would lead before the year 1, or after 9999."""
    with pytest.raises(UsageError, match="is not a time"):
        instant(text, now=NOW, zone=zone_of("Asia/Tokyo"))
