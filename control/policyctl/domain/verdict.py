"""What a gate can say: four different things, never merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """Only `PASSED` lets a release through."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


_SEVERITY = (Verdict.PASSED, Verdict.INCONCLUSIVE, Verdict.ERROR, Verdict.FAILED)


def worst(verdicts: tuple[Verdict, ...]) -> Verdict:
    """The verdict of several gates together; of none, inconclusive."""
    return max(verdicts, key=_SEVERITY.index) if verdicts else Verdict.INCONCLUSIVE


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's verdict with what it saw.

    Attributes:
        gate: Its name.
        verdict: What it says.
        reason: One sentence for people.
        evidence: What it saw, in values that `to_json` takes.
    """

    gate: str
    verdict: Verdict
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
