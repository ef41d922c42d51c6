"""What `PolicyClient` costs a control loop, against the plain tritonclient on the same server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "client_cost.py"
MOST = 1.10


def test_a_checked_action_costs_at_most_a_tenth_more_than_an_unchecked_one() -> None:
    """Over gRPC and over HTTP; the ratio of medians is above the limit only where its whole interval is."""
    command = [sys.executable, str(BENCHMARK), "--rounds", "12", "--seconds", "1", "--numbers", "4", "--batch", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=True).stdout
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()[2:]]
    least = {protocol: float(interval.split()[0]) for *_, protocol, _, _, _, interval in table}
    assert least["gRPC"] <= MOST, printed
    assert least["HTTP"] <= MOST, printed
