"""Which instant a person means, and how one is shown: with a time zone, and nothing left to guess.

A time without a zone is refused unless one is given, for a journal of several
sites would answer it wrongly. So is a time that the clocks' change made happen
twice, or never.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from policyctl.errors import UsageError

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def utc_text(time: str | datetime | None, zone: tzinfo | None = None) -> str:
    """A time for people: ``2026-11-20 10:00:03Z``, or with the offset of `zone`.

    Args:
        time: A time, or an ISO text of one. Another text stays as it is; None becomes empty.
        zone: In which zone; None for UTC.
    """
    if time is None:
        return ""
    try:
        moment = datetime.fromisoformat(time) if isinstance(time, str) else time
    except ValueError:
        return str(time)
    if zone is None:
        return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return moment.astimezone(zone).isoformat(sep=" ", timespec="seconds")


def next_second(time: str) -> str:
    """The first whole second, UTC, that is not before an ISO time; another text stays as it is."""
    try:
        moment = datetime.fromisoformat(time).astimezone(UTC)
        return utc_text(moment + timedelta(microseconds=-moment.microsecond % 1_000_000))
    except (ValueError, OverflowError):
        return time


def age_text(time: str, *, now: datetime) -> str:
    """How long ago an ISO time was: ``3 d ago``; another text stays as it is."""
    try:
        passed_s = (now - datetime.fromisoformat(time)).total_seconds()
    except (ValueError, TypeError):
        return time
    size_s, unit = next((each for each in _UNITS if passed_s >= each[0]), _UNITS[-1])
    return f"{max(0.0, passed_s) // size_s:.0f} {unit} ago"


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name.

    Raises:
        UsageError: No such zone exists.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f"time zone {name!r} is not known", remedy="Use a name such as Europe/Zurich or UTC."
        ) from error


def instant(text: str, *, now: datetime, zone: ZoneInfo | None = None) -> datetime:
    """The instant that a person means.

    Args:
        text: ISO 8601, for example ``2026-11-20T10:00Z``, ``2026-11-20 11:00+01:00``; or ``now``.
        now: The present.
        zone: For a time that names no zone.

    Returns:
        It, in UTC.

    Raises:
        UsageError: Not such a time, or one outside the years 1 to 9999 of UTC;
            or it names no zone and none is given; or it happened twice, or
            never, in that zone.
    """
    if text == "now":
        return now
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found.astimezone(UTC)
        readings = {found.replace(tzinfo=zone, fold=fold_).astimezone(UTC) for fold_ in (0, 1)} if zone else set()
    except (ValueError, OverflowError) as error:  # the year before 1, or after 9999
        raise UsageError(
            f"{text!r} is not a time ({error})", remedy="Use ISO 8601, for example 2026-11-20T10:00Z."
        ) from error
    if zone is None:
        raise UsageError(
            f"{text!r} names no time zone, so it is 26 different hours",
            remedy=f"Add one ({text}Z, {text}+01:00), or give --timezone Europe/Zurich.",
        )
    exact = sorted(r for r in readings if r.astimezone(zone).replace(tzinfo=None) == found)
    if len(exact) != 1:
        often = "never happened" if not exact else "happened twice"
        offsets = " or ".join(r.astimezone(zone).isoformat() for r in sorted(readings))
        raise UsageError(f"{text!r} {often} in {zone.key} (the clocks were changed)", remedy=f"Say {offsets}.")
    return exact[0]
