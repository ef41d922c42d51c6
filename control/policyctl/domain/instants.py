"""Which instant a person means: ISO 8601, with a time zone, and nothing left to guess.

A time without a zone is refused unless one is given, for a journal of several
sites would answer it wrongly. So is a time that the clocks' change made happen
twice, or never.
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from policyctl.errors import UsageError


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name.

    Raises:
        UsageError: There is none.
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

    Raises:
        UsageError: Not such a time; or it names no zone and none is given; or
            it happened twice, or never, in that zone.
    """
    if text == "now":
        return now
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no time ({error})", remedy="Use ISO 8601, for example 2026-11-20T10:00Z."
        ) from error
    if found.tzinfo is not None:
        return found
    if zone is None:
        raise UsageError(
            f"{text!r} names no time zone, so it is 26 different hours",
            remedy=f"Add one ({text}Z, {text}+01:00), or give --timezone Europe/Zurich.",
        )
    readings = {found.replace(tzinfo=zone, fold=fold_).astimezone(UTC) for fold_ in (0, 1)}
    told = sorted(r for r in readings if r.astimezone(zone).replace(tzinfo=None) == found)
    if len(told) != 1:
        often = "never happened" if not told else "happened twice"
        offsets = " or ".join(r.astimezone(zone).isoformat() for r in sorted(readings))
        raise UsageError(f"{text!r} {often} in {zone.key} (the clocks were changed)", remedy=f"Say {offsets}.")
    return told[0]
