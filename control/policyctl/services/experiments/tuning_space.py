"""What tuning chooses from: configurations, and their names for people, settings and Optuna."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final

from policyctl.domain.artifacts import Format
from policyctl.domain.hardware import Hardware

THREADS: Final = "INFERENCE_NUM_THREADS"

Choice = Mapping[str, Any]
"""One configuration: by the names of the space."""


def space(hardware: Hardware, format: Format, *, max_batch_size: int) -> dict[str, tuple[Any, ...]]:  # noqa: A002
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


def size_of(searched: Mapping[str, Sequence[Any]]) -> int:
    """How many configurations there are."""
    return len([1 for choice in product(*searched.values()) if is_sensible(dict(zip(searched, choice, strict=True)))])


def is_sensible(choice: Choice) -> bool:
    """Whether no other choice is the same by another name: sizes are preferred only by those who wait."""
    return bool(choice["max_queue_delay_us"]) or not choice["preferred_batch_sizes"]


def fields_of(choice: Choice) -> dict[str, Any]:
    """A choice by the names of the settings."""
    found = {name: value for name, value in choice.items() if name != "threads"}
    found["preferred_batch_sizes"] = list(found.get("preferred_batch_sizes", ()))
    if "threads" in choice:
        found["parameters"] = {THREADS: str(choice["threads"])}
    return found


def words(choice: Choice) -> str:
    """For people."""
    sizes = ", ".join(map(str, choice["preferred_batch_sizes"])) or "none"
    threads = f", {choice['threads']} threads" if "threads" in choice else ""
    return f"{choice['instances']} instances{threads}, delay {choice['max_queue_delay_us']} us, preferred {sizes}"


def written(values: Sequence[Any]) -> list[Any]:
    """As Optuna keeps them: it takes no tuples."""
    return [json.dumps(list(v)) if isinstance(v, tuple) else v for v in values]


def read(value: Any) -> Any:
    """What `written` wrote."""
    return tuple(json.loads(value)) if isinstance(value, str) else value


def key_of(choice: Choice) -> str:
    """One text for one choice."""
    return json.dumps({k: list(v) if isinstance(v, tuple) else v for k, v in choice.items()}, sort_keys=True)
