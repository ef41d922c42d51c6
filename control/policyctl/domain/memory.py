"""The memory with which an episode of a policy begins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import Contract


def initial_states(contract: Contract) -> dict[str, NDArray[Any]]:
    """Each state before the first step, by the name of its input, each of shape (1, *shape)."""
    specs = {spec.name: spec for spec in contract.observations}
    begun: dict[str, NDArray[Any]] = {}
    for state in contract.states:
        spec = specs[state.input]
        values = np.broadcast_to(np.asarray(state.initial, dtype=spec.dtype), (spec.size,))
        # A copy: what was broadcast cannot be written, and runtimes refuse to take it.
        begun[state.input] = values.reshape(1, *spec.shape).copy()
    return begun
