"""Gate `leak`: what a server holds does not grow with the requests that it answers.

Three things can be said of each series (a process's memory, its file
descriptors, shared memory), against a limit that was declared beforehand:

- *failed*, a leak: it surely grows by more than the limit, in each half of the
  time by itself, so that neither a warm-up nor a single jump is called one;
- *passed*, no leak: it surely grows by less than the limit;
- *inconclusive*: neither. A longer run says more.

All together are *passed* only if every one is, and *failed* if any is. Without
a series there is no verdict but *error*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from policyctl.domain.growth import Growth, growth
from policyctl.domain.json_values import to_json
from policyctl.domain.verdict import GateResult, Verdict, worst

NAME: Final = "leak"
_MILLION: Final = 1e6


class SeriesKind(StrEnum):
    """What a series counts."""

    MEMORY = "bytes"
    SHARED_MEMORY = "shared bytes"
    DESCRIPTORS = "file descriptors"
    LATENCY = "us"


QUANTUM: Final[Mapping[SeriesKind, float]] = {
    # By how much the C library's heap grows at least, and a page.
    SeriesKind.MEMORY: 132 * 1024.0,
    SeriesKind.SHARED_MEMORY: 4096.0,
    SeriesKind.DESCRIPTORS: 1.0,
    SeriesKind.LATENCY: 1.0,
}
WORDS: Final[Mapping[Verdict, str]] = {
    Verdict.PASSED: "no leak",
    Verdict.FAILED: "leak",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.ERROR: "error",
}


@dataclass(frozen=True, slots=True)
class GrowthLimits:
    """What growth is still none, per million requests.

    Attributes:
        memory_bytes: Of one process, and of shared memory.
        latency: Of the median, as a part of it; reported, and decides nothing: machines drift.
    """

    memory_bytes: float = 10e6
    descriptors: float = 100.0
    latency: float = 0.25

    def of(self, kind: SeriesKind, typical: float) -> float:
        """For a series of `kind` whose values are about `typical`."""
        match kind:
            case SeriesKind.MEMORY | SeriesKind.SHARED_MEMORY:
                return self.memory_bytes
            case SeriesKind.DESCRIPTORS:
                return self.descriptors
            case SeriesKind.LATENCY:
                return self.latency * typical


@dataclass(frozen=True, slots=True)
class Series:
    """One thing that was watched.

    Attributes:
        name: Of what: ``tritonserver``, a model instance, ``policyctl serve``, ...
        requests: Answered so far, at each time.
        values: At the same times.
    """

    name: str
    kind: SeriesKind
    requests: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class GrowthFinding:
    """What one series says; growth is per million requests.

    Attributes:
        limit_per_million: What it was held against.
        growth_per_million: None where there was too little.
    """

    name: str
    kind: SeriesKind
    verdict: Verdict
    limit_per_million: float
    growth_per_million: Growth | None
    decides: bool = True

    def words(self) -> str:
        """For people."""
        growth = self.growth_per_million
        if growth is None:
            return f"{self.name}: too little to tell anything of its {self.kind}"
        scale, unit = (
            (1e6, "MB") if self.kind in {SeriesKind.MEMORY, SeriesKind.SHARED_MEMORY} else (1.0, self.kind.value)
        )
        found = (v / scale for v in (growth.slope, growth.low, growth.high, self.limit_per_million))
        slope, low, high, limit = (f"{v:.3g}" for v in found)
        return f"{self.name}: {slope} {unit} per million requests ({low} to {high}; limit {limit})"


def judge(series: Sequence[Series], limits: GrowthLimits) -> GateResult:
    """What a soak says."""
    findings = [_finding(each, limits) for each in series]
    evidence: dict[str, Any] = {"findings": to_json(findings)}
    deciding = [f for f in findings if f.decides]
    if not deciding:
        return GateResult(NAME, Verdict.ERROR, "nothing was measured", evidence)
    verdict = worst(tuple(f.verdict for f in deciding))
    named = [f for f in deciding if f.verdict is verdict]
    if verdict is Verdict.PASSED:
        memory = [f for f in named if f.kind is SeriesKind.MEMORY and f.growth_per_million is not None]
        named = sorted(memory, key=_largest, reverse=True)[:1] or named[:1]
    said = "cannot tell" if verdict is Verdict.INCONCLUSIVE else WORDS[verdict]
    reason = f"{said}: {'; '.join(f.words() for f in named)}"
    if verdict is Verdict.INCONCLUSIVE:
        evidence["remedy"] = "Soak for longer, or under more load: --for 1h."
    return GateResult(NAME, verdict, reason, evidence)


def findings_of(result: GateResult) -> list[dict[str, Any]]:
    """The findings in a result's evidence."""
    return list(result.evidence.get("findings", []))


def _largest(finding: GrowthFinding) -> tuple[float, float]:
    """How much one series may grow, and how much it seems to."""
    growth = finding.growth_per_million
    return (0.0, 0.0) if growth is None else (growth.high, growth.slope)


def _finding(series: Series, limits: GrowthLimits) -> GrowthFinding:
    typical = sorted(series.values)[len(series.values) // 2] if len(series.values) else 0.0
    limit = limits.of(series.kind, typical)
    millions = [requests / _MILLION for requests in series.requests]
    found = growth(millions, series.values, quantum=QUANTUM[series.kind])
    return GrowthFinding(
        series.name, series.kind, _verdict(found, limit), limit, found, series.kind is not SeriesKind.LATENCY
    )


def _verdict(found: Growth | None, limit: float) -> Verdict:
    if found is None:
        return Verdict.INCONCLUSIVE
    if found.low > limit and min(found.halves) > limit:
        return Verdict.FAILED
    return Verdict.PASSED if found.high < limit else Verdict.INCONCLUSIVE
