"""Write each artifact of a policy and prove it (one that fails does not take the others with it), and the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from policyctl.domain.artifacts import FILES, Format
from policyctl.domain.contract import Contract
from policyctl.errors import ParityError, PolicyctlError, UnsupportedError, last_line
from policyctl_exporters import parity, writers
from policyctl_exporters.parity import Report
from policyctl_exporters.runtimes import runners
from policyctl_exporters.source import Source
from policyctl_exporters.steps import Steps
from policyctl_exporters.tensorrt_plan import write_plan

_BY_ONNX: Final = frozenset({Format.ONNX, Format.OPENVINO, Format.TENSORRT})
"""Formats that are written as ONNX, or made of it."""


def write_artifacts(
    policy: Source, wanted: Sequence[Format], folder: Path, steps: Steps, groups: Sequence[parity.Rows]
) -> tuple[dict[Format, FormatParity], dict[Format, PolicyctlError]]:
    """Write and prove every format that can be had; of the others no file stays.

    Returns:
        How each artifact that was written agrees with the policy, and why each other one was not written.

    Raises:
        PolicyctlError: No format could be written; the first one's error.
    """
    reports: dict[Format, FormatParity] = {}
    failed: dict[Format, PolicyctlError] = {}
    onnx_error: PolicyctlError | None = None
    if set(wanted) & _BY_ONNX:
        try:
            steps.run(partial(_write, Format.ONNX, policy, folder, steps))
        except PolicyctlError as error:
            onnx_error = error
    for form in wanted:
        try:
            if onnx_error is not None and form in _BY_ONNX:
                raise onnx_error
            if form is not Format.ONNX:
                steps.run(partial(_write, form, policy, folder, steps))
            reports[form] = steps.run(partial(_prove, form, policy, folder, steps, groups))
        except PolicyctlError as error:
            failed[form] = error
    for form in Format:
        if form not in reports:
            for name in FILES[form]:
                (folder / name).unlink(missing_ok=True)
    if not reports:
        raise next(iter(failed.values()))
    return reports, failed


def _write(form: Format, policy: Source, folder: Path, steps: Steps) -> None:
    """Every error of a converter becomes a refusal; `folders` recognises a full disk."""
    path, onnx_path, contract = folder / FILES[form][0], folder / FILES[Format.ONNX][0], policy.contract
    try:
        with steps.step(form.value, f"write {form.value}"):
            match form:
                case Format.ONNX if policy.onnx is not None:
                    path.write_bytes(policy.onnx)
                case Format.ONNX:
                    writers.write_onnx(policy.graph, contract, path)
                case Format.OPENVINO:
                    writers.write_openvino(onnx_path, folder, contract)
                case Format.TORCHSCRIPT:
                    writers.write_torchscript(policy.graph, contract, path, trusted=policy.trust_operators)
                case Format.TENSORRT:
                    write_plan(onnx_path, contract, path)
    except (PolicyctlError, OSError):
        raise
    # Converters run code of the policy and of several libraries, whose exceptions share no class.
    except Exception as error:
        raise UnsupportedError(
            f"{form.value}: the policy cannot be written: {type(error).__name__}: {last_line(error)}",
            remedy=f"Leave {form.value} out of the formats.",
        ) from error


def _prove(form: Format, policy: Source, folder: Path, steps: Steps, groups: Sequence[parity.Rows]) -> FormatParity:
    with steps.step(f"parity {form.value}", f"compare {form.value} with the policy"):
        try:
            ways = runners(form, folder, policy.contract)
        except PolicyctlError:
            raise
        # The exceptions of runtimes share no class.
        except Exception as error:
            raise ParityError(
                f"{form.value}: its own runtime cannot load it: {type(error).__name__}: {last_line(error)}",
                remedy="Leave this format out, or report the policy's layers: the artifact is wrong.",
            ) from error
        report = parity.worst(parity.check(name, run, policy.contract, groups) for name, run in ways.items())
        return FormatParity(report.comparisons, form)


@dataclass(frozen=True, slots=True)
class FormatParity(Report):
    """How the artifact of one format compared with the policy; a result exists only where it agreed."""

    format: Format


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A finished export.

    Attributes:
        contract: What the policy takes and gives.
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
    """A format that was asked for by name could not be written; the others were."""

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
