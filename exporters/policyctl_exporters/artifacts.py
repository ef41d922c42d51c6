"""Write each artifact of a policy and prove it; one that fails does not take the others with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from policyctl.domain.artifacts import FILES, Format
from policyctl.errors import ParityError, PolicyctlError, UnsupportedError
from policyctl_exporters import parity, writers
from policyctl_exporters.reasons import last_line
from policyctl_exporters.runtimes import runners
from policyctl_exporters.source import Source
from policyctl_exporters.steps import Steps

_BY_ONNX: Final = frozenset({Format.ONNX, Format.OPENVINO, Format.TENSORRT})
"""Formats that are written as ONNX, or made of it."""


@dataclass(frozen=True, slots=True)
class Artifacts:
    """What became of each format.

    Attributes:
        reports: How each artifact that was written agrees with the policy.
        failed: Why each other one was not written.
    """

    reports: Mapping[Format, parity.Report]
    failed: Mapping[Format, PolicyctlError]


def write_artifacts(
    policy: Source, wanted: Sequence[Format], folder: Path, steps: Steps, groups: Sequence[parity.Rows]
) -> Artifacts:
    """Write and prove every format that can be had; of the others no file stays.

    Args:
        policy: What to write.
        wanted: Formats, at least one.
        folder: Where the files go.
        steps: Say what is done, and end what does not end.
        groups: Observations with the policy's answers.

    Raises:
        PolicyctlError: No format could be written; the first one's error.
    """
    reports: dict[Format, parity.Report] = {}
    failed: dict[Format, PolicyctlError] = {}
    onnx_error: PolicyctlError | None = None
    if set(wanted) & _BY_ONNX:
        try:
            steps.run(lambda: _write_onnx(policy, folder, steps))
        except PolicyctlError as error:
            onnx_error = error
    for form in wanted:
        try:
            if onnx_error is not None and form in _BY_ONNX:
                raise onnx_error
            reports[form] = steps.run(partial(_write_and_prove, form, policy, folder, steps, groups))
        except PolicyctlError as error:
            failed[form] = error
    for form in Format:
        if form not in reports:
            for name in FILES[form]:
                (folder / name).unlink(missing_ok=True)
    if not reports:
        raise next(iter(failed.values()))
    return Artifacts(reports, failed)


def _write_onnx(policy: Source, folder: Path, steps: Steps) -> None:
    path = folder / FILES[Format.ONNX][0]
    with steps.step(Format.ONNX.value, "write onnx"), _in_words(Format.ONNX):
        if policy.onnx is not None:
            path.write_bytes(policy.onnx)
        else:
            writers.write_onnx(policy.graph, policy.contract, path)


def _write_and_prove(
    form: Format, policy: Source, folder: Path, steps: Steps, groups: Sequence[parity.Rows]
) -> parity.Report:
    if form is not Format.ONNX:
        with steps.step(form.value, f"write {form.value}"), _in_words(form):
            _write(form, policy, folder)
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
        return parity.worst(parity.check(name, run, policy.contract, groups) for name, run in ways.items())


def _write(form: Format, policy: Source, folder: Path) -> None:
    path = folder / FILES[form][0]
    onnx_path = folder / FILES[Format.ONNX][0]
    match form:
        case Format.OPENVINO:
            writers.write_openvino(onnx_path, folder, policy.contract)
        case Format.TORCHSCRIPT:
            writers.write_torchscript(policy.graph, policy.contract, path, trusted=policy.trust_operators)
        case Format.TENSORRT:
            from policyctl_exporters.tensorrt_plan import write_plan

            write_plan(onnx_path, policy.contract, path)


@contextmanager
def _in_words(form: Format) -> Iterator[None]:
    """Every error of a converter becomes a refusal; `folders` recognises a full disk."""
    try:
        yield
    except (PolicyctlError, OSError):
        raise
    # Converters run code of the policy and of several libraries, whose exceptions share no class.
    except Exception as error:
        raise UnsupportedError(
            f"{form.value}: the policy cannot be written: {type(error).__name__}: {last_line(error)}",
            remedy=f"Leave {form.value} out of the formats.",
        ) from error
