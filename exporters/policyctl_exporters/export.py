"""Export a policy: write its artifacts, prove each, and only then show the folder.

Everything is written into a temporary folder next to the output and renamed at
the end, so an export that fails, at parity or anywhere else, leaves nothing.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from policyctl.card import derive, template
from policyctl.domain.artifacts import (
    CARD_FILE,
    CONTRACT_FILE,
    FILES,
    GOLDEN_FILE,
    PARITY_FILE,
    Format,
)
from policyctl.domain.drive import Description
from policyctl.domain.golden import Golden
from policyctl.domain.manifest import canonical_json
from policyctl.domain.parity import Tolerance
from policyctl.errors import UnsupportedError, UsageError
from policyctl.hashing import hash_file
from policyctl_exporters import parity
from policyctl_exporters.answers import answered_rows, with_proved_law
from policyctl_exporters.artifacts import ExportResult, FormatParity, IncompleteExportError, write_artifacts
from policyctl_exporters.description import described
from policyctl_exporters.folders import check_output, whole_folder
from policyctl_exporters.own_answers import require_own_answers
from policyctl_exporters.source import HeadOption, Options, Source
from policyctl_exporters.sources import open_source
from policyctl_exporters.spaces import FeatureNames
from policyctl_exporters.steps import LIMIT_S, Steps
from policyctl_exporters.tensorrt_plan import require_tensorrt

DEFAULT_FORMATS: Final = (Format.ONNX, Format.OPENVINO, Format.TORCHSCRIPT)
"""What a torch policy is exported to; an ONNX file, to the first two."""

_PARITY_SCHEMA: Final = 1


def export_policy(
    source: Any,
    output: str | Path,
    *,
    formats: Sequence[Format | str] | None = None,
    observation_space: Any = None,
    action_space: Any = None,
    normalizer: Any = None,
    despite_archive: bool = False,
    images: str | None = None,
    trust_pickle: bool = False,
    code: str | Path | None = None,
    trust_operators: bool = False,
    head: HeadOption = None,
    states: Mapping[str, str] | None = None,
    feature_names: FeatureNames = None,
    runner: str | Path | None = None,
    description: Description | None = None,
    recorded: Any = None,
    answers: Any = None,
    tolerance: Tolerance | None = None,
    golden_rows: int = 64,
    seed: int = 0,
    step_limit_s: float = LIMIT_S,
    progress: Callable[[str], None] | None = None,
    force: bool = False,
) -> ExportResult:
    """Turn a trained policy into files that compute the same actions.

    One line at the end of a training script is enough: ``export_policy(model, "build/walker")``.

    Args:
        source: A Stable-Baselines3 algorithm, policy or archive (.zip), a
            `torch.nn.Module`, TorchScript (.pt, .ts), torch.export (.pt2), ONNX (.onnx),
            an rsl_rl checkpoint (.pt), the description of a LEAPP bundle (.yaml), or
            ``package.module:callable`` or ``FILE.py:callable`` that returns one of these.
        output: Folder to write; it must not exist, or be empty.
        formats: What to write; None for what can be written of ONNX, OpenVINO and TorchScript
            (`DEFAULT_FORMATS`), for an ONNX source of the first two.
        observation_space: Gymnasium space of the raw observations; for torch
            modules, and to refine an ONNX file's bounds.
        action_space: Gymnasium space of the actions, likewise.
        normalizer: A `VecNormalize` or the path of a saved one; a live
            algorithm's own is used without. False where observations were
            not normalised. What training kept may prove it; where it does not,
            one of the two must be given.
        despite_archive: Do as `normalizer` says where training kept proof of the contrary.
        images: How the environment gives images to a Stable-Baselines3 policy, ``channels-first`` or
            ``channels-last``. None for what a live algorithm's environment, or `observation_space`,
            has, and for ``channels-last`` where nobody knows: ``predict()`` takes both.
        trust_pickle: Read files that hold pickles, which runs what is in them.
        code: A Python file, or a folder of modules, that defines an archive's own classes; it is imported.
        trust_operators: Keep TorchScript operators that do more than compute:
            they may read and write files, here and in the server.
        head: What a module's single tensor, or an ONNX file's first output is:
            ``action``, ``logits``, ``q_values`` or ``mean``; or what outputs are
            by name, as in ``{"scores": "logits"}``, where ``output`` keeps one
            that the action does not depend on.
        states: Of an ONNX, .pt2 or TorchScript file, inputs that are memory, each with the output that continues it.
            Names such as ``h_in`` and ``h_out`` say so themselves.
        feature_names: What the observation's elements are called.
        runner: The configuration of the runner that wrote an rsl_rl checkpoint, ``params/agent.yaml``. None for
            the one that lies next to it.
        description: What stands next to the weights: names of elements, and how an action becomes a command.
            An ONNX file's own metadata says what this leaves out.
        recorded: Observations from the environment to prove parity on as
            well: an NPZ path, or arrays by input name.
        answers: What the policy's own framework did, likewise: observations, and ``action`` next to them.
            A policy that answers otherwise is refused. They stand for `recorded` where that is None.
        tolerance: What counts as agreement, also when a server is certified later; None
            for `parity.fitted`, which follows the size of the policy's outputs.
        golden_rows: Rows of the golden set, at least 1.
        seed: Of the drawn observations.
        step_limit_s: Seconds that reading the policy, asking it, writing a
            format or comparing it may take; it ends an export of a policy that never answers.
        progress: Called with what is being done, in words.
        force: Replace an earlier export in `output`.

    Returns:
        What was written, how well it agrees, and which of the default formats failed.

    Raises:
        UsageError: An argument or a file that cannot be used as it is.
        UnsupportedError: A policy, or every format, that cannot be exported here; or a step that does not end.
        ParityError: The policy does not answer as its framework did, or no artifact computes its actions.
        IncompleteExportError: A format of `formats` failed; the others are written, and in its `result`.
    """
    if golden_rows < 1:
        raise UsageError(f"golden_rows is {golden_rows}, expected at least 1")
    output = Path(output)
    check_output(output, force=force)
    steps = Steps(progress, limit_s=step_limit_s)
    options = Options.of(
        observation_space=observation_space,
        action_space=action_space,
        normalizer=normalizer,
        despite_archive=despite_archive,
        images=images,
        trust_pickle=trust_pickle,
        code=code,
        trust_operators=trust_operators,
        head=head,
        states=states,
        feature_names=feature_names,
        runner=runner,
    )

    def ask() -> tuple[Source, tuple[Format, ...], list[parity.Rows], Golden]:
        with steps.step("load", "read the policy"):
            policy = described(open_source(source, options), description)
        wanted = _check_formats(formats, policy)
        with steps.step("reference", "ask the policy itself for actions to compare with"):
            if answers is not None:
                note = require_own_answers(policy, answers, tolerance)
                policy = dataclasses.replace(policy, notes=(*policy.notes, note))
            seen = answers if recorded is None else recorded
            groups, golden = answered_rows(policy, seen, tolerance, golden_rows, seed)
            return with_proved_law(policy, groups), wanted, groups, golden

    policy, wanted, groups, golden = steps.run(ask)
    for note in policy.notes:
        steps.say(note)
    with whole_folder(output, force=force) as folder:
        reports, failed = write_artifacts(policy, wanted, folder, steps, groups)
        for form, error in failed.items():
            steps.say(f"{form.value} is left out: {error.problem}")
        _write_texts(policy, folder, reports, groups, golden, seed)
    summaries = tuple(reports.values())
    result = ExportResult(output, policy.contract, tuple(reports), summaries, steps.seconds, failed, policy.notes)
    if failed and formats is not None:
        raise IncompleteExportError(result)
    return result


def _write_texts(
    policy: Source,
    folder: Path,
    reports: Mapping[Format, FormatParity],
    groups: Sequence[parity.Rows],
    golden: Golden,
    seed: int,
) -> None:
    evidence = {
        "schema": _PARITY_SCHEMA,
        "seed": seed,
        "tolerance": {group.kind: dataclasses.asdict(group.tolerance) for group in groups},
        "formats": {
            form.value: report.to_json() | {"files": {name: hash_file(folder, name).digest for name in FILES[form]}}
            for form, report in reports.items()
        },
    }
    texts = {
        CONTRACT_FILE: canonical_json(policy.contract.to_json()),
        GOLDEN_FILE: golden.to_bytes(),
        PARITY_FILE: canonical_json(evidence),
    }
    for name, content in texts.items():
        (folder / name).write_bytes(content)
    created = _source_date()
    card = {
        "training": {**policy.training, "algorithm": policy.algorithm},
        **derive.sections(texts[CONTRACT_FILE], texts[GOLDEN_FILE], texts[PARITY_FILE]),
        "provenance": {
            **({} if created is None else {"created": created.isoformat(timespec="seconds")}),
            "source": _origin(policy),
            "exported_with": _versions(),
        },
    }
    (folder / CARD_FILE).write_text(template.render(card), encoding="utf-8")


def _source_date() -> datetime | None:
    """The time that ``SOURCE_DATE_EPOCH`` gives; none otherwise, for the same policy is to give the same bytes."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    try:
        return datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"SOURCE_DATE_EPOCH is {text!r}, expected seconds since 1970",
            remedy="Unset it, or for example: SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)",
        ) from error


def _check_formats(formats: Sequence[Format | str] | None, policy: Source) -> tuple[Format, ...]:
    if formats is None:
        return DEFAULT_FORMATS if policy.graph is not None else DEFAULT_FORMATS[:2]
    try:
        wanted = tuple(dict.fromkeys(Format(form) for form in formats))
    except ValueError as error:
        raise UsageError(f"{error}", remedy=f"Formats are {', '.join(form.value for form in Format)}.") from error
    if not wanted:
        raise UsageError("no format to export to", remedy=f"Name one of {', '.join(f.value for f in Format)}.")
    if Format.TORCHSCRIPT in wanted and policy.graph is None:
        raise UnsupportedError(
            "an ONNX file cannot be exported to torchscript",
            remedy="Export to onnx, openvino or tensorrt, or start from the torch policy.",
        )
    if Format.TENSORRT in wanted:
        require_tensorrt()
    return wanted


_FRAMEWORKS: Final = (
    "policyctl",
    "torch",
    "stable-baselines3",
    "sb3-contrib",
    "gymnasium",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
)


def _origin(source: Source) -> dict[str, str]:
    """Where it came from; a card names files, never folders of the machine that exported."""
    origin = {"kind": source.kind}
    if source.file is not None:
        origin |= {"file": source.file[0], "digest": source.file[1]}
    if source.normalizer_file is not None:
        origin |= {"normalizer": source.normalizer_file[0], "normalizer_digest": source.normalizer_file[1]}
    elif source.scales:
        origin["normalizer"] = "live"
    return origin


@cache
def _versions() -> Mapping[str, str]:
    """Of everything that has a part in an export, where it is installed; a process sees one version of each."""
    found = {}
    for name in _FRAMEWORKS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
