"""What an episode costs a policy without memory, against a plain action of the same client."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "memory_cost.py"
MOST = 1.25


def test_a_step_of_an_episode_costs_at_most_a_quarter_more_than_a_plain_action() -> None:
    """Over both protocols; a ratio is above the limit only where its whole interval is."""
    command = [sys.executable, str(BENCHMARK), "--rounds", "8"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=True).stdout
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()[2:]]
    assert len(table) == 6, printed
    for _, measured, than, _, _, _, interval in table:
        low, high = (float(end) for end in interval.split(" to "))
        slower = 1 / high if "calls/s" in measured else low
        assert than == "act" and slower <= MOST, printed
