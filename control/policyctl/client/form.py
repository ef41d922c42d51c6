"""What every question of one kind sends to a release and expects of it, worked out once.

A control loop asks the same question thousands of times a second. So nothing
that follows from the contract alone is worked out for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from policyctl.client.action import needed_outputs
from policyctl.client.course import needs_course
from policyctl.client.observation import Input, inputs_of
from policyctl.domain.contract import Contract
from policyctl.domain.memory import initial_states
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import ServerError, UsageError


@dataclass(frozen=True, slots=True)
class Form:
    """What questions have in common that ask one release for the same outputs.

    Attributes:
        inputs: What the policy takes.
        names: Of the outputs that are fetched.
        specs: What the contract says of each.
        dtypes: The type of each.
        initial: Memory at the beginning of an episode, by the name of its input, each of shape (1, *shape);
            empty for a policy without memory.
        needs_course: Whether an episode knows some of the inputs itself, or an answer has several actions.
    """

    inputs: tuple[Input, ...]
    names: tuple[str, ...]
    specs: tuple[TensorSpec, ...]
    dtypes: tuple[np.dtype[Any], ...]
    initial: Mapping[str, NDArray[Any]]
    needs_course: bool

    @classmethod
    def of(cls, contract: Contract, release: str, deterministic: bool, outputs: tuple[str, ...]) -> Self:
        """For questions to `release`.

        Raises:
            UsageError: It has no such output, or nothing that an action can be drawn from.
        """
        memory = [state.output for state in contract.states]
        wanted = [*needed_outputs(contract, deterministic=deterministic), *memory, *outputs]
        specs = {spec.name: spec for spec in contract.outputs}
        if unknown := [name for name in wanted if name not in specs]:
            raise UsageError(
                f"output {', '.join(unknown)} is not in the contract of {release}",
                remedy=f"It has {', '.join(sorted(specs))}.",
            )
        fetched = tuple(specs[name] for name in dict.fromkeys(wanted))
        names = tuple(spec.name for spec in fetched)
        dtypes = tuple(np.dtype(spec.dtype) for spec in fetched)
        return cls(inputs_of(contract), names, fetched, dtypes, initial_states(contract), needs_course(contract))

    def check(self, outputs: Mapping[str, NDArray[Any]], rows: int) -> None:
        """Hold an answer of so many rows against the contract.

        Raises:
            ServerError: An output is missing, or of another shape or type.
        """
        for spec, dtype in zip(self.specs, self.dtypes, strict=True):
            array = outputs.get(spec.name)
            if array is None or array.shape != (rows, *spec.shape) or array.dtype != dtype:
                what = "nothing" if array is None else f"{array.dtype}{array.shape}"
                raise ServerError(
                    f"output {spec.name} is {what}, the contract says {spec.dtype}{(rows, *spec.shape)}",
                    remedy="The server's files are not what was published: policyctl verify",
                )
