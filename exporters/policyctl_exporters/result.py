"""What an export hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from policyctl.domain.artifacts import Format
from policyctl.domain.contract import Contract


@dataclass(frozen=True, slots=True)
class FormatParity:
    """How one artifact compared with the policy; a result exists only where it agreed.

    Attributes:
        format: Which artifact.
        rows: Observations compared, all batch sizes together.
        max_abs: Largest absolute difference by output; for integer outputs
            the number of components that differ, which is 0.
        near_ties: Rows whose discrete action differs where the policy itself
            scores both choices alike.
    """

    format: Format
    rows: int
    max_abs: Mapping[str, float]
    near_ties: int


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A finished export.

    Attributes:
        output: The folder that was written.
        contract: What the policy takes and gives.
        formats: Artifacts in it.
        parity: One summary a format, in the order of `formats`.
        seconds: Wall time by step (``load``, ``reference``, a format's name, ``parity <format>``).
    """

    output: Path
    contract: Contract
    formats: tuple[Format, ...]
    parity: tuple[FormatParity, ...]
    seconds: Mapping[str, float]
