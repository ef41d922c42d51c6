"""Ctrl-C ends a search, whatever else goes wrong at that moment."""

from __future__ import annotations

import pytest

from policyctl.domain.paired import Metric
from policyctl.errors import ServerError
from policyctl.gates.superiority import GainPlan as Claim
from policyctl.services.experiments import tune


class Bench:
    """Measuring is interrupted, or breaks by itself; then the candidate cannot be withdrawn."""

    def __init__(self, struck: BaseException) -> None:
        self.struck = struck

    def compare(self, _choice, **_how) -> None:
        try:
            raise self.struck
        finally:
            self._withdraw()

    def _withdraw(self) -> None:
        raise ServerError("the candidate is still ready")


@pytest.mark.parametrize("part", ["a trial", "a comparison"])
def test_an_interrupt_after_which_nothing_can_be_put_in_order_is_still_one(part: str) -> None:
    """It is not taken for a trial that failed, after which the search would go on."""
    claim = Claim(Metric.THROUGHPUT, 0.02, 1e6, 20.0, alpha=0.05)

    def measure(bench: Bench) -> object:
        return tune._try(bench, {}) if part == "a trial" else tune._confirm(bench, {}, claim)

    with pytest.raises(KeyboardInterrupt):
        measure(Bench(KeyboardInterrupt()))
    assert "still ready" in str(measure(Bench(ValueError())))
