"""What tuning chooses from: configurations, and their names for people, settings and Optuna."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final

from policyctl.domain.artifacts import Format
from policyctl.domain.hardware import Hardware
from policyctl.domain.json_values import OMIT_DEFAULT

THREADS: Final = "INFERENCE_NUM_THREADS"

Space = Mapping[str, tuple[Any, ...]]
"""What each field of a `Choice` is chosen from."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One configuration; `threads` is None where the runtime takes no number of them."""

    instances: int
    max_queue_delay_us: int
    preferred_batch_sizes: tuple[int, ...]
    threads: int | None = field(default=None, metadata=OMIT_DEFAULT)

    @property
    def is_sensible(self) -> bool:
        """Whether no other choice is the same by another name: sizes are preferred only by those who wait."""
        return bool(self.max_queue_delay_us) or not self.preferred_batch_sizes

    @property
    def words(self) -> str:
        """For people."""
        sizes = ", ".join(map(str, self.preferred_batch_sizes)) or "none"
        threads = "" if self.threads is None else f", {self.threads} threads"
        return f"{self.instances} instances{threads}, delay {self.max_queue_delay_us} us, preferred {sizes}"

    def settings(self) -> dict[str, Any]:
        """By the names of the settings."""
        found = {
            "instances": self.instances,
            "max_queue_delay_us": self.max_queue_delay_us,
            "preferred_batch_sizes": list(self.preferred_batch_sizes),
        }
        return found if self.threads is None else {**found, "parameters": {THREADS: str(self.threads)}}


def space(hardware: Hardware, format: Format, *, max_batch_size: int) -> Space:  # noqa: A002
    """What is worth trying on a machine.

    Args:
        format: Which artifact is served; only OpenVINO takes a number of threads.
        max_batch_size: Beyond which nothing is preferred.
    """
    cores = max(1, int(hardware.cores))
    counts = tuple(n for n in (1, 2, 4, 8, 16) if n <= cores)
    preferred = tuple(tuple(s for s in sizes if s <= max_batch_size) for sizes in ((), (4,), (8,), (16,), (4, 8, 16)))
    found: dict[str, tuple[Any, ...]] = {
        "instances": counts,
        "max_queue_delay_us": (0, 50, 100, 200, 500),
        "preferred_batch_sizes": tuple(dict.fromkeys(preferred)),
    }
    if format is Format.OPENVINO:
        found["threads"] = counts
    return found


def size_of(searched: Space) -> int:
    """How many configurations there are."""
    combinations = product(*searched.values())
    return sum(Choice(**dict(zip(searched, values, strict=True))).is_sensible for values in combinations)


def suggested(trial: Any, searched: Space) -> Choice:
    """What Optuna's trial tries; Optuna keeps no tuples, so it gets their JSON."""
    found = {}
    for name, values in searched.items():
        by_name = {json.dumps(value) if isinstance(value, tuple) else value: value for value in values}
        found[name] = by_name[trial.suggest_categorical(name, list(by_name))]
    return Choice(**found)
