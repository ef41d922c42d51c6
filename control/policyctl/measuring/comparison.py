"""Compare two results, and say what cannot be concluded from it.

Two benchmarks that ran at different times differ by the machine's mood as well
as by what was measured; on a shared machine one and the same release has come
out 2.7 times slower minutes later. So nothing here is a verdict. What several
kept results of one and the same release differ by on this machine (its drift)
is the only yardstick of such a comparison. Without it nothing can be said.
Verdicts come from paired measurements: `policyctl validate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from policyctl.domain.hardware import differences
from policyctl.errors import UsageError
from policyctl.measuring.measurement import Measurement, Point
from policyctl.measuring.result import BenchResult

METRICS: Final[Mapping[str, Callable[[Measurement], float]]] = {
    "p50_us": lambda m: m.p50_us,
    "p99_us": lambda m: m.p99_us,
    "throughput_per_s": lambda m: m.throughput_per_s,
}
"""What is compared."""

LIMITS: Final = (
    "These two runs were not paired in time: a difference may be the machine's, not the release's."
    " For a verdict measure both on one server, in turn: policyctl validate MODEL RELEASE."
)

_LAST_DIGIT: Final = 1e-9


class Standing(StrEnum):
    """How a difference stands to what one release's own runs differ by here."""

    WITHIN = "within the machine's drift"
    BEYOND = "beyond the machine's drift"
    UNKNOWN = "drift unknown"


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric at one point.

    Attributes:
        ratio: The second over the first.
        drift: Largest over smallest among runs of one and the same release; None if unknown.
    """

    point: Point
    metric: str
    one: float
    other: float
    ratio: float
    drift: float | None
    standing: Standing

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**asdict(self), "point": self.point.describe(), "standing": self.standing.value}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results next to each other.

    Attributes:
        rows: Every metric at every point that both have.
        cautions: What else differs between the two runs, a sentence each.
    """

    one: BenchResult
    other: BenchResult
    rows: tuple[MetricRow, ...]
    only_one: tuple[Point, ...]
    only_other: tuple[Point, ...]
    cautions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "one": _short(self.one),
            "other": _short(self.other),
            "rows": [row.to_json() for row in self.rows],
            "only_one": [p.describe() for p in self.only_one],
            "only_other": [p.describe() for p in self.only_other],
            "cautions": list(self.cautions),
            "limits": LIMITS,
        }


def compare(
    one: BenchResult, other: BenchResult, *, peers: Iterable[BenchResult] = (), force: bool = False
) -> Comparison:
    """Compare `other` with `one`.

    Args:
        peers: Other results, from which the machine's drift is read.
        force: Compare also what was measured on different machines.

    Raises:
        UsageError: Different machines without `force`, or no point in common.
    """
    apart = differences(one.identity, other.identity)
    if one.fingerprint != other.fingerprint and not force:
        raise UsageError(
            f"{one.id} was measured on machine {one.fingerprint} and {other.id} on {other.fingerprint};"
            f" they differ in {'; '.join(apart) or 'their fingerprint'}",
            remedy="Measure both on one machine, or compare the machines with --force.",
        )
    first, second = one.by_point(), other.by_point()
    common = [point for point in first if point in second]
    if not common:
        raise UsageError(
            f"{one.id} and {other.id} have no point in common", remedy="Measure both with the same --profile."
        )
    related = [p for p in (one, other, *peers) if p.fingerprint == one.fingerprint]
    rows = []
    for point in common:
        for metric, read in METRICS.items():
            drift = drift_of(related, point, metric)
            values = read(first[point]), read(second[point])
            ratio = values[1] / values[0] if values[0] > 0 else math.nan
            rows.append(MetricRow(point, metric, *values, ratio, drift, _standing(ratio, drift)))
    return Comparison(
        one,
        other,
        tuple(rows),
        tuple(p for p in first if p not in second),
        tuple(p for p in second if p not in first),
        _cautions(one, other, apart),
    )


def drift_of(results: Iterable[BenchResult], point: Point, metric: str) -> float | None:
    """Largest over smallest of a metric among runs of one and the same release here; None without two such runs."""
    groups: dict[tuple[str, ...], dict[str, float]] = {}
    for result in results:
        if (measured := result.by_point().get(point)) is not None:
            key = (
                result.fingerprint,
                result.model,
                result.release,
                result.format,
                str(sorted(result.settings.items())),
            )
            groups.setdefault(key, {})[result.id] = METRICS[metric](measured)
    spreads = [
        max(group.values()) / min(group.values())
        for group in groups.values()
        if len(group) > 1 and min(group.values()) > 0
    ]
    return max(spreads, default=None)


def _standing(ratio: float, drift: float | None) -> Standing:
    if drift is None or not ratio > 0:
        return Standing.UNKNOWN
    # The drift may come from these very two runs: a last digit must not make more of them.
    return Standing.WITHIN if abs(math.log(ratio)) <= math.log(drift) + _LAST_DIGIT else Standing.BEYOND


def _cautions(one: BenchResult, other: BenchResult, apart: tuple[str, ...]) -> tuple[str, ...]:
    cautions = [f"different machines: {difference}" for difference in apart]
    for name, first, second in (
        ("model", one.model, other.model),
        ("format", one.format, other.format),
    ):
        if first != second:
            cautions.append(f"different {name}: {first} and {second}")
    cautions += [f"different version of {difference}" for difference in differences(one.versions, other.versions)]
    cautions += [f"different setting {difference}" for difference in differences(one.settings, other.settings)]
    cautions += [
        f"{result.id} began while others kept the machine {result.busy_percent:.0f} % busy"
        for result in (one, other)
        if result.busy_percent > 25
    ]
    return tuple(cautions)


def _short(result: BenchResult) -> dict[str, str]:
    names = ("id", "time", "model", "release", "format", "alias", "profile", "fingerprint")
    return {name: getattr(result, name) for name in names}
