"""What stands on Triton's own page of metrics and nowhere else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

from policyctl.adapters.exporter import fetch, read_text
from policyctl.domain.protocol import REFUSED_METRIC

_TAIL: Final = "nv_inference_request_summary_us"


@dataclass(slots=True)
class Tail:
    """The slowest answers of one slot in the last minute.

    Attributes:
        requests: Answered since the slot was loaded.
        quantiles_us: By level; empty where nobody asked in the last minute.
    """

    requests: int = 0
    quantiles_us: dict[float, float] = field(default_factory=dict)


def refused(address: str) -> dict[tuple[str, int], int]:
    """Requests that a backend answered with an error and Triton counts as successes, by Triton model and slot.

    Args:
        address: ``host:port`` of the metrics.

    Raises:
        ServerError: They do not answer.
    """
    counts: dict[tuple[str, int], int] = {}
    for sample in _samples(address, REFUSED_METRIC):
        key = _slot(sample)
        counts[key] = counts.get(key, 0) + round(sample["value"])
    return counts


def tails(address: str) -> dict[tuple[str, int], Tail]:
    """The slowest answers by Triton model and slot; empty where Triton keeps no quantiles.

    Args:
        address: ``host:port`` of the metrics.

    Raises:
        ServerError: They do not answer.
    """
    tails_by_slot: dict[tuple[str, int], Tail] = {}
    for sample in _samples(address, _TAIL):
        tail = tails_by_slot.setdefault(_slot(sample), Tail())
        level = sample["labels"].get("quantile")
        if sample["name"] == f"{_TAIL}_count":
            tail.requests = round(sample["value"])
        elif level is not None and math.isfinite(sample["value"]):
            tail.quantiles_us[float(level)] = sample["value"]
    return tails_by_slot


def _samples(address: str, family: str) -> list[dict[str, Any]]:
    # One family of a page that holds everything: the parser need not see the rest.
    lines = [line for line in fetch(address).splitlines() if line.startswith(family)]
    return [sample for each in read_text("\n".join(lines) + "\n") for sample in each["samples"]]


def _slot(sample: dict[str, Any]) -> tuple[str, int]:
    return sample["labels"]["model"], int(sample["labels"]["version"])
