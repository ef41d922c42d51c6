"""What an export hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from policyctl.domain.artifacts import Format
from policyctl.domain.contract import Contract
from policyctl.errors import PolicyctlError


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
        failed: Why a format was not written, by format.
        notes: What of the policy was left out, changed or assumed, in sentences.
    """

    output: Path
    contract: Contract
    formats: tuple[Format, ...]
    parity: tuple[FormatParity, ...]
    seconds: Mapping[str, float]
    failed: Mapping[Format, PolicyctlError] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class IncompleteExportError(PolicyctlError):
    """A format that was asked for by name could not be written; the others were.

    Args:
        result: What was written, and why the rest was not.
    """

    def __init__(self, result: ExportResult) -> None:
        first = next(iter(result.failed.values()))
        self.exit_code = first.exit_code  # type: ignore[misc]
        self.code = first.code  # type: ignore[misc]
        self.result = result
        written = ", ".join(form.value for form in result.formats)
        reasons = "; ".join(f"{form.value}: {error.problem}" for form, error in result.failed.items())
        super().__init__(
            f"not every format was written. {reasons}",
            remedy=f"{written} is in {result.output} and agrees with the policy. {first.remedy}".strip(),
        )
