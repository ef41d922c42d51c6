"""What a probe of an alias can end with."""

from __future__ import annotations

from enum import StrEnum

AliasKey = tuple[str, str]
"""Model and alias."""


class ProbeOutcome(StrEnum):
    """What became of one golden observation that the prober asked."""

    ANSWERED = "answered"
    """By the golden action, within its tolerance."""
    WRONG = "wrong"
    """By another one, or by a slot that nothing explains."""
    FAILED = "failed"
    """Not at all."""
