"""What all sessions have in common: an artifact's tensors held against the contract, and options read as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError

Arrays = list[NDArray[Any]]
"""One array a tensor, in the contract's order."""


def check_artifact(kind: str, dtypes: Mapping[str, str | None], wanted: Sequence[TensorSpec], *, filename: str) -> None:
    """Hold an artifact's own names and types against the contract.

    Args:
        kind: ``input`` or ``output``, for the message.
        dtypes: By name, as the artifact says; None where it does not say.
        wanted: What the contract says.
        filename: The artifact, for the message.

    Raises:
        UsageError: One is missing, unknown, or of another type.
    """
    for spec in wanted:
        if spec.name not in dtypes:
            names = ", ".join(sorted(dtypes)) or "none"
            raise UsageError(f"{filename} has no {kind} {spec.name!r}, it has {names}")
        if dtypes[spec.name] not in (spec.dtype, None):
            raise UsageError(f"{filename}: {kind} {spec.name!r} is {dtypes[spec.name]}, the contract says {spec.dtype}")
    # An output that nobody asked for costs little; an input that nobody sends is never right.
    extra = dtypes.keys() - {spec.name for spec in wanted}
    if extra and kind == "input":
        raise UsageError(f"{filename} wants {kind} {', '.join(sorted(extra))}, which the contract has not")


def integer_option(options: Mapping[str, str], name: str, default: int) -> int:
    """An option that is a whole number.

    Raises:
        UsageError: It is set to something else.
    """
    text = options.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise UsageError(f"config.pbtxt sets parameter {name} to {text!r}, which is not a whole number") from None
