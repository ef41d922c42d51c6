"""Which observations a load sends, and what each release must answer to them.

A golden set says what its release answers to its own observations. The same
observation may stand in the golden sets of several releases (of a promotion's
two, usually): then every answer to it can be checked, whichever release it
comes from. Observations of one golden set only are sent as well; an answer to
them from another release counts as unchecked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.domain.parity import Tolerance, compare
from policyctl.errors import UsageError

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Expected:
    """What one release takes and must answer."""

    contract: Contract
    golden: Golden


@dataclass(frozen=True, slots=True)
class Row:
    """One observation and its right answers.

    Attributes:
        observation: By name, each of shape `spec.shape`.
        answers: By release, then by output, each of shape (1, *spec.shape).
    """

    observation: Arrays
    answers: Mapping[str, Arrays]


@dataclass(frozen=True, slots=True)
class Rows:
    """All observations of a load.

    Attributes:
        pools: Observations that the same releases take stand together.
        outputs: Outputs that all releases have: those are fetched and checked.
        expected: What was known of each release.
    """

    pools: tuple[tuple[Row, ...], ...]
    outputs: tuple[str, ...]
    expected: Mapping[str, Expected]

    def check(self, row: Row, release: str, outputs: Arrays) -> bool | None:
        """Whether `release` answered `row` rightly; None where that is not known.

        Args:
            row: What was sent.
            release: Who answered.
            outputs: What it answered, each of shape `spec.shape`.
        """
        want = row.answers.get(release)
        if want is None:
            return None
        known = self.expected[release]
        tolerance = known.golden.tolerance
        if all(_close(want[name][0], outputs[name], tolerance) for name in self.outputs):
            return True
        contract = dataclasses.replace(
            known.contract, outputs=tuple(known.contract.output(name) for name in self.outputs)
        )
        got = {name: outputs[name][None] for name in self.outputs}
        return compare(contract, want, got, tolerance).agrees


def rows_of(expected: Mapping[str, Expected]) -> Rows:
    """Lay the golden sets of several releases together.

    Args:
        expected: By release; at least one.

    Raises:
        UsageError: `expected` is empty.
    """
    if not expected:
        raise UsageError("a load needs the golden set of at least one release")
    names = [{spec.name for spec in each.contract.outputs} for each in expected.values()]
    common = set.intersection(*names)
    first = next(iter(expected.values()))
    outputs = tuple(spec.name for spec in first.contract.outputs if spec.name in common)
    pools: dict[Any, dict[bytes, tuple[Arrays, dict[str, Arrays]]]] = {}
    for release, each in expected.items():
        # Bounds and feature names do not decide what can be sent.
        kind = tuple((spec.name, spec.dtype, spec.shape) for spec in each.contract.observations)
        pool = pools.setdefault(kind, {})
        for index in range(each.golden.rows):
            observation = {name: array[index] for name, array in each.golden.observations.items()}
            key = b"".join(observation[name].tobytes() for name, _, _ in kind)
            answers = pool.setdefault(key, (observation, {}))[1]
            answers[release] = {name: each.golden.outputs[name][index : index + 1] for name in outputs}
    return Rows(
        pools=tuple(tuple(Row(*item) for item in pool.values()) for pool in pools.values()),
        outputs=outputs,
        expected=expected,
    )


def _close(want: NDArray[Any], got: NDArray[Any], tolerance: Tolerance) -> bool:
    """The quick way to say yes; what it does not accept, `compare` judges."""
    if want.dtype.kind != "f":
        return np.array_equal(want, got)
    return bool((np.abs(want - got) <= tolerance.atol + tolerance.rtol * np.abs(want)).all())
