"""Figures out of evidence: what a gate, an evaluation, a replay or a benchmark measured, as a card states it.

Evidence is what was written when something was measured; it is read here and
nowhere else, both to write figures into a card and to hold a card's figures
against it. Evidence that does not tell gives no figure; nothing is guessed.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from policyctl.card.derive import described
from policyctl.domain.json_values import from_json
from policyctl.domain.verdict import Verdict
from policyctl.errors import UsageError

Entry = dict[str, Any]

EVALUATION: Final = "evaluation"
"""What evidence of `policyctl evaluate` is called."""

_UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one piece of evidence supports, each an entry of the card's section of that name without its evidence."""

    evaluation: tuple[Entry, ...] = ()
    behaviour: tuple[Entry, ...] = ()
    performance: tuple[Entry, ...] = ()
    release: str = ""
    """Of which release; empty where the evidence cannot be read."""
    model: str = ""

    def of(self, section: str) -> tuple[Entry, ...]:
        """The entries for one section."""
        entries: tuple[Entry, ...] = getattr(self, section)
        return entries

    def __bool__(self) -> bool:
        return bool(self.evaluation or self.behaviour or self.performance)


SECTIONS: Final = ("evaluation", "behaviour", "performance")
"""Sections whose entries name their evidence."""


def figures_of(content: bytes) -> Figures:
    """What evidence supports; nothing where it is of another kind or cannot be read."""
    try:
        data = json.loads(content)
        if "points" in data:
            return Figures(performance=_of_bench(data), release=str(data["release"]), model=str(data["model"]))
        figures = Figures()
        if (read := _READERS.get(str(data["gate"]))) and data["verdict"] != Verdict.ERROR.value:
            figures = read(data)
        return replace(figures, release=str(data["release"]), model=str(data["model"]))
    except _UNREADABLE:
        return Figures()


@dataclass(frozen=True, slots=True)
class Measured:
    """What a citation is about.

    Attributes:
        artifacts: The digests of its artifacts, by path.
    """

    model: str
    release: str
    manifest_digest: str
    artifacts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Citation:
    """Evidence of another release, carried by a release whose card cites it.

    A release cannot be measured before it is published. What was measured of an
    earlier one counts for it if the artifacts that answered are the very same.

    Attributes:
        file: Where the evidence was kept.
        digest: Of `content`, as the journal has it.
    """

    about: Measured
    file: str
    content: str
    digest: str
    schema: Literal[1] = 1

    @classmethod
    def from_bytes(cls, content: bytes) -> Citation | None:
        """Read a citation; None where it is something else."""
        try:
            return from_json(cls, json.loads(content), what="the citation")
        except (UsageError, ValueError, RecursionError):
            return None


def _of_evaluation(data: Mapping[str, Any]) -> Figures:
    evidence = data["evidence"]
    environment, returns, seeds = str(evidence["env"]), evidence["served"]["returns"], evidence["served"]["seeds"]
    entry = _evaluation(environment, returns, seeds, evidence["served"]["mean"], data)
    entry |= {"mean_length": _short(statistics.fmean(evidence["served"]["lengths"])), "format": str(evidence["format"])}
    behaviour: tuple[Entry, ...] = ()
    if acted := evidence.get("behaviour"):
        behaviour = (described(acted, f"{environment}, {len(returns)} episodes") | {"time": _time(data)},)
    return Figures(evaluation=(entry,), behaviour=behaviour)


def _of_played(data: Mapping[str, Any]) -> Figures:
    """The gate `behaviour`: what the candidate earned, next to the incumbent."""
    evidence = data["evidence"]
    if "earned" not in evidence:
        return Figures()
    entry = _evaluation(
        str(evidence["env"]), evidence["returns"]["candidate"], evidence["seeds"], evidence["earned"], data
    )
    return Figures(evaluation=(entry,))


def _evaluation(
    environment: str, returns: Sequence[float], seeds: Sequence[int], mean: Mapping[str, Any], data: Mapping[str, Any]
) -> Entry:
    return {
        "environment": environment,
        "episodes": len(returns),
        "first_seed": int(seeds[0]),
        "returns": {
            "mean": _short(statistics.fmean(returns)),
            "low": _short(mean["low"]),
            "high": _short(mean["high"]),
            "confidence": float(mean["confidence"]),
            "std": _short(statistics.pstdev(returns)),
        },
        "time": _time(data),
    }


def _of_replay(data: Mapping[str, Any]) -> Figures:
    evidence = data["evidence"]
    recording = evidence["recording"]
    then = ", ".join(recording["answered_by"])
    observations = (
        f"recording of {str(recording['started'])[:19]}, {recording['rows']} observations, answered by {then}"
    )
    return Figures(behaviour=(described(evidence["behaviour"], observations) | {"time": _time(data)},))


def _of_service_level(data: Mapping[str, Any]) -> Figures:
    evidence = data["evidence"]
    limits, machine = evidence["limits"], evidence["machine"]
    cores = f"{machine['usable_cores']} of {machine['logical_cores']} cores usable"
    common: Entry = {
        "machine": {"fingerprint": machine["fingerprint"], "words": f"{machine['cpu_model']}, {cores}"},
        "format": str(evidence["candidate"]["format"]),
    }
    memory = {} if evidence["memory_mb"] is None else {"memory_mb": _short(evidence["memory_mb"])}
    batch = f"batch {limits['batch_size']}"
    loads = (
        (f"grpc, {batch}, {limits['rate']:g} requests/s (open loop)", evidence["latency"]),
        (f"grpc, {batch}, {limits['clients']} clients (closed loop)", evidence["throughput"]),
    )
    entries = []
    for load, bursts in loads:
        counted = [burst for burst in bursts if burst["delayed_percent"] == 0]
        if counted:
            entries.append({**common, "load": load, **_of_bursts(counted), **memory, "time": _time(data)})
    return Figures(performance=tuple(entries))


def _of_bursts(bursts: Sequence[Mapping[str, Any]]) -> Entry:
    """The median burst of each figure."""

    def middle(name: str) -> float:
        return _short(statistics.median(burst[name] for burst in bursts))

    return {
        "latency_us": {name: middle(f"{name}_us") for name in ("p50", "p95", "p99")},
        "throughput_per_s": middle("throughput_per_s"),
        "requests": sum(int(burst["request_count"]) for burst in bursts),
        "failed": sum(int(burst["failed_requests"]) for burst in bursts),
    }


def _of_bench(data: Mapping[str, Any]) -> tuple[Entry, ...]:
    peak_mb = _peak_mb(data["memory"], str(data["model"]))
    memory = {} if peak_mb is None else {"memory_mb": peak_mb}
    common: Entry = {
        "machine": {"fingerprint": data["fingerprint"], "words": data["hardware"]},
        "format": str(data["format"]),
    }
    entries = []
    for point in data["points"]:
        open_loop = point["mode"] == "request_rate"
        level = f"{point['level']:g} requests/s (open loop)" if open_loop else f"{point['level']:g} clients"
        shared = "" if point["shared_memory"] == "none" else f", {point['shared_memory']} shared memory"
        if point["request_count"] >= 1:
            load = f"{point['protocol']}{shared}, batch {point['batch_size']}, {level}"
            entries.append({**common, "load": load, **_of_bursts([point]), **memory, "time": _time(data)})
    return tuple(entries)


def _peak_mb(samples: Sequence[Mapping[str, Any]], model: str) -> float | None:
    """Of the largest process that runs the model; None where no process runs it."""
    # An instance is named <model>_<group>_<index>; that of an alias <model>.<alias>_...
    sizes = [
        float(size)
        for sample in samples
        for name, size in sample["resident_mb"].items()
        if name.rsplit("_", 2)[0].partition(".")[0] == model
    ]
    return _short(max(sizes)) if sizes else None


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Figures]]] = {
    EVALUATION: _of_evaluation,
    "behaviour": _of_played,
    "replay": _of_replay,
    "shadow": _of_replay,
    "service_level": _of_service_level,
}


def _time(data: Mapping[str, Any]) -> str:
    return str(data["time"])


def _short(value: Any) -> float:
    """Six significant digits."""
    return float(f"{float(value):.6g}")
