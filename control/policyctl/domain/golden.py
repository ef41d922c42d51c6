"""The golden set: observations with the answers that the policy gave to them.

A release carries it, and *certify* means that the very server that will serve
answers it within the tolerance that stands in it. The file is an NPZ without
pickles, so reading one runs no code.

Law: ``Golden.from_bytes(g.to_bytes(), contract) == g`` array by array.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import Contract
from policyctl.domain.npz import pack, unpack
from policyctl.domain.parity import Tolerance
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError

_UNPACKED_BYTES = 256 << 20
_INPUT = "observation/"
_OUTPUT = "output/"
_TOLERANCE = "tolerance"


@dataclass(frozen=True, slots=True)
class Golden:
    """Observations, expected outputs, and how far an answer may be off.

    Attributes:
        observations: By input name, each of shape (n, *spec.shape), n >= 1.
        outputs: By output name, each of shape (n, *spec.shape).
        tolerance: What counts as the same answer.
    """

    observations: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    tolerance: Tolerance

    @property
    def rows(self) -> int:
        """How many observations."""
        return int(next(iter(self.observations.values())).shape[0])

    def to_bytes(self) -> bytes:
        """The file's content; the same golden set gives the same bytes."""
        arrays: dict[str, NDArray[Any]] = {
            **{_INPUT + name: array for name, array in self.observations.items()},
            **{_OUTPUT + name: array for name, array in self.outputs.items()},
            _TOLERANCE: np.array([self.tolerance.atol, self.tolerance.rtol, self.tolerance.tie], dtype=np.float64),
        }
        return pack(arrays)

    @classmethod
    def from_bytes(cls, content: bytes, contract: Contract) -> Golden:
        """Read a golden set and hold it against its contract.

        Raises:
            UsageError: Not such a file, or arrays that do not fit `contract`.
        """
        arrays = unpack(content, what="golden set", most_bytes=_UNPACKED_BYTES)
        found = arrays.get(_TOLERANCE)
        if found is None or found.shape != (3,) or found.dtype != np.float64:
            raise UsageError("golden set: no tolerance in it")
        atol, rtol, tie = (float(v) for v in arrays.pop(_TOLERANCE))
        observations = _take(arrays, _INPUT, contract.observations)
        outputs = _take(arrays, _OUTPUT, contract.outputs)
        if arrays:
            raise UsageError(f"golden set: {', '.join(sorted(arrays))} is not in the contract")
        if len({a.shape[0] for a in (*observations.values(), *outputs.values())}) != 1:
            raise UsageError("golden set: its arrays differ in length")
        return cls(observations, outputs, Tolerance(atol=atol, rtol=rtol, tie=tie))


def _take(arrays: dict[str, NDArray[Any]], prefix: str, specs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
    taken = {}
    for spec in specs:
        array = arrays.pop(prefix + spec.name, None)
        if array is None:
            raise UsageError(f"golden set: {prefix}{spec.name} is missing")
        if array.shape[1:] != spec.shape or array.dtype != np.dtype(spec.dtype) or not len(array):
            raise UsageError(
                f"golden set: {prefix}{spec.name} is {array.dtype}{array.shape},"
                f" the contract says {spec.dtype}(n, {', '.join(map(str, spec.shape))}), n >= 1"
            )
        taken[spec.name] = array
    return taken
