"""Three intervals of a median on known distributions: how often each misses, and what each finds.

    python benchmarks/median_intervals.py --runs 4000

For paired log-ratios, few and with heavy tails. A good one misses a one-sided
bound as often as it says, and finds a shift of half a scale as often as it can.
No server, some seconds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.statistics import median_interval

Sample = NDArray[np.float64]
SHIFT = 0.5


def signed_rank(sample: Sample, alpha: float, _: np.random.Generator) -> float:
    """The lower end that the gate uses."""
    return median_interval(sample, alpha_low=alpha, alpha_high=alpha).low


def order_statistic(sample: Sample, alpha: float, _: np.random.Generator) -> float:
    """The lower end of the sign test's interval."""
    count, below, rank = len(sample), 0.0, 0
    while below + math.comb(count, rank) / 2**count <= alpha:
        below += math.comb(count, rank) / 2**count
        rank += 1
    return float(np.sort(sample)[rank - 1]) if rank else -math.inf


def bootstrap(sample: Sample, alpha: float, rng: np.random.Generator) -> float:
    """The lower end of the percentile bootstrap of the median."""
    medians = np.median(sample[rng.integers(0, len(sample), size=(2000, len(sample)))], axis=1)
    return float(np.quantile(medians, alpha))


METHODS: dict[str, Callable[[Sample, float, np.random.Generator], float]] = {
    "signed rank": signed_rank,
    "order statistic": order_statistic,
    "bootstrap": bootstrap,
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4000)
    runs = parser.parse_args().runs
    rng = np.random.default_rng(0)
    print("| distribution | pairs | alpha | " + " | ".join(f"{m} misses | finds" for m in METHODS) + " |")
    print("|---|---|---|" + "---|---|" * len(METHODS))
    for name in ("normal", "Laplace", "Student's t, 2"):
        for count, alpha in ((12, 0.05), (12, 0.01), (40, 0.05), (40, 0.01)):
            size = (runs, count)
            samples = {"normal": rng.normal, "Laplace": rng.laplace}.get(name, lambda size: rng.standard_t(2, size))(
                size=size
            )
            cells = []
            for method in METHODS.values():
                misses = np.mean([method(sample, alpha, rng) > 0 for sample in samples])
                finds = np.mean([method(sample + SHIFT, alpha, rng) > 0 for sample in samples])
                cells.append(f"{misses:.1%} | {finds:.0%}")
            print(f"| {name} | {count} | {alpha:.0%} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
