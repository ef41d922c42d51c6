"""What stands on Triton's own page of metrics and nowhere else."""

from __future__ import annotations

from policyctl.adapters.exporter import fetch, read_text
from policyctl.domain.protocol import REFUSED_METRIC


def refused(address: str) -> dict[tuple[str, int], int]:
    """Requests that a backend answered with an error and Triton counts as successes, by Triton model and slot.

    Args:
        address: ``host:port`` of the metrics.

    Raises:
        ServerError: They do not answer.
    """
    # One family of a page that holds everything: the parser need not see the rest.
    lines = [line for line in fetch(address).splitlines() if line.startswith(REFUSED_METRIC)]
    found: dict[tuple[str, int], int] = {}
    for family in read_text("\n".join(lines) + "\n"):
        for sample in family["samples"]:
            key = sample["labels"]["model"], int(sample["labels"]["version"])
            found[key] = found.get(key, 0) + round(sample["value"])
    return found
