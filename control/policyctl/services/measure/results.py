"""Kept results: find them, compare two, and follow a metric over time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from policyctl.domain.json_values import to_json
from policyctl.domain.names import check_model_name, is_release
from policyctl.domain.protocol import Protocol
from policyctl.errors import UsageError
from policyctl.measuring.comparison import METRICS, Comparison
from policyctl.measuring.comparison import compare as compare_results
from policyctl.measuring.history import LEAST_EACH_SIDE, Change, change_points
from policyctl.measuring.measurement import LoadMode, Point, SharedMemory
from policyctl.measuring.result import BenchResult
from policyctl.services import kept_results
from policyctl.services.control import Control, select_release
from policyctl.serving.hardware import detect

_ID: Final = re.compile(r"[0-9a-f]{4,12}")
_LATEST: Final = re.compile(r"(?P<model>[^@]+)@(?P<release>[^@]+)")


def results(control: Control, *, model: str | None = None, fingerprint: str | None = None) -> Iterator[BenchResult]:
    """Kept results, oldest first; one that cannot be read is reported and left out."""
    found = []
    for kept in kept_results.kept(control.repository, fingerprint=fingerprint, model=model):
        try:
            _, result = kept.read()
        except UsageError as error:
            control.say(f"Left out {kept.path}: {error.problem}")
        else:
            found.append(result)
    yield from sorted(found, key=lambda result: result.time)


def find(control: Control, reference: str) -> BenchResult:
    """The result that a person names.

    Args:
        reference: A file; the beginning of an id; or ``MODEL@RELEASE`` for the
            latest of that release on this machine; a range, ``latest`` or an alias selects one.

    Raises:
        UsageError: Nothing, or more than one, goes by that name, or it cannot be read.
    """
    if (match := _LATEST.fullmatch(reference)) is not None:
        return _latest(control, match["model"], match["release"])
    if _ID.fullmatch(reference) is not None:
        found = [kept for kept in kept_results.kept(control.repository) if kept.id.startswith(reference)]
        if len(found) > 1:
            raise UsageError(f"{len(found)} results begin with {reference}", remedy="Give more of the id.")
        if found:
            return found[0].read()[1]
    path = Path(reference)
    if not path.is_file():
        raise UsageError(
            f"{reference!r} is an unknown result: neither a file, nor the beginning of an id, nor MODEL@RELEASE",
            remedy="See what is kept: policyctl results history MODEL.",
        )
    return kept_results.read(path)[1]


def compare(control: Control, one: str, other: str, *, force: bool = False) -> Comparison:
    """Compare two results; see `find` for how to name them.

    Raises:
        UsageError: A result cannot be found, or they cannot be compared.
    """
    first, second = find(control, one), find(control, other)
    peers = results(control, model=first.model, fingerprint=first.fingerprint)
    return compare_results(first, second, peers=peers, force=force)


@dataclass(frozen=True, slots=True)
class History:
    """One metric at one point over the kept results of a model on one machine.

    Attributes:
        results: Those that have the point, oldest first.
    """

    model: str
    fingerprint: str
    point: Point
    metric: str
    results: tuple[BenchResult, ...]
    values: tuple[float, ...]
    changes: tuple[Change, ...]

    @property
    def enough(self) -> bool:
        """Whether a change could have been found at all."""
        return len(self.values) >= 2 * LEAST_EACH_SIDE

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "point": self.point.describe(),
            "metric": self.metric,
            "results": [
                {"id": r.id, "time": r.time, "release": r.release, "format": r.format, "value": value}
                for r, value in zip(self.results, self.values, strict=True)
            ],
            "enough": self.enough,
            "changes": [{**to_json(c), "time": self.results[c.index].time} for c in self.changes],
        }


def history(
    control: Control,
    *,
    model: str,
    metric: str = "p50_us",
    protocol: Protocol = Protocol.GRPC,
    batch: int = 1,
    concurrency: int = 1,
    fingerprint: str | None = None,
) -> History:
    """Follow one metric over the kept results of a model.

    Args:
        fingerprint: Of the machine; None for this one.

    Raises:
        UsageError: An unknown metric, or nothing is kept.
        UnsupportedError: The library that finds changes is not installed.
    """
    check_model_name(model)
    if metric not in METRICS:
        raise UsageError(f"{metric!r} is an unknown metric", remedy=f"Choose one of: {', '.join(METRICS)}.")
    machine = fingerprint or detect().fingerprint
    point = Point(protocol, SharedMemory.NONE, batch, LoadMode.CONCURRENCY, float(concurrency))
    seen = [(r, r.by_point().get(point)) for r in results(control, model=model, fingerprint=machine)]
    have = [(r, METRICS[metric](m)) for r, m in seen if m is not None]
    if not have:
        raise UsageError(
            f"nothing is kept of {model} at {point.describe()} on machine {machine}",
            remedy=f"Measure first: policyctl bench {model}.",
        )
    values = tuple(value for _, value in have)
    return History(model, machine, point, metric, tuple(r for r, _ in have), values, change_points(values))


def _latest(control: Control, model: str, release: str) -> BenchResult:
    machine = detect().fingerprint
    kept = list(results(control, model=model, fingerprint=machine))
    if not is_release(release):
        release = select_release(control, model, release)
    found = [r for r in kept if r.release == release]
    if not found:
        raise UsageError(
            f"nothing is kept of {model} {release} on this machine ({machine})",
            remedy=f"Measure it while an alias names it: policyctl bench {model} --alias ALIAS.",
        )
    return found[-1]
