"""Export a policy: write its artifacts, prove each, and only then show the folder.

Everything is written into a temporary folder beside the output and renamed at
the end, so an export that fails, at parity or anywhere else, leaves nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from policyctl.domain.artifacts import (
    CARD_FILE,
    CONTRACT_FILE,
    FILES,
    GOLDEN_FILE,
    PARITY_FILE,
    Format,
)
from policyctl.domain.golden import Golden
from policyctl.domain.manifest import canonical_json
from policyctl.domain.parity import Tolerance
from policyctl.errors import UnsupportedError, UsageError
from policyctl.hashing import hash_file
from policyctl_exporters import observations as obs
from policyctl_exporters import parity, writers
from policyctl_exporters.card import write_card
from policyctl_exporters.eager import EagerGraph
from policyctl_exporters.folders import check_output, whole_folder
from policyctl_exporters.result import ExportResult, FormatParity
from policyctl_exporters.runtimes import open_runner
from policyctl_exporters.source import Options, Source
from policyctl_exporters.sources import open_source
from policyctl_exporters.spaces import FeatureNames

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
    trust_pickle: bool = False,
    head: str | None = None,
    feature_names: FeatureNames = None,
    recorded: Any = None,
    tolerance: Tolerance | None = None,
    golden_rows: int = 64,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    force: bool = False,
) -> ExportResult:
    """Turn a trained policy into files that compute the same actions.

    One line at the end of a training script is enough: ``export_policy(model, "build/walker")``.

    Args:
        source: A Stable-Baselines3 algorithm, policy or archive (.zip), a
            `torch.nn.Module`, TorchScript (.pt, .ts), ONNX (.onnx), or
            ``package.module:callable`` that returns one of these.
        output: Folder to write; it must not exist, or be empty.
        formats: What to write; None for ONNX, OpenVINO and TorchScript
            (`DEFAULT_FORMATS`), for an ONNX source the first two.
        observation_space: Gymnasium space of the raw observations; for torch
            modules, and to refine an ONNX file's bounds.
        action_space: Gymnasium space of the actions, likewise.
        normalizer: A `VecNormalize` or the path of a saved one; a live
            algorithm's own is found without. False where observations were
            not normalised although the policy was trained behind one.
        trust_pickle: Read files that hold pickles, which runs what is in them.
        head: What a module's single tensor, or an ONNX file's first output is:
            ``action``, ``logits``, ``q_values`` or ``mean``.
        feature_names: What the observation's elements are called.
        recorded: Observations from the environment to prove parity on as
            well: an NPZ path, or arrays by input name.
        tolerance: What counts as agreement, also when a server is certified later; None
            for `parity.fitted`, which follows the size of the policy's outputs.
        golden_rows: Rows of the golden set, at least 1.
        seed: Of the drawn observations.
        progress: Told in words what is being done.
        force: Replace an earlier export in `output`.

    Returns:
        What was written, and how well it agrees.

    Raises:
        UsageError: An argument or a file that cannot be used as it is.
        UnsupportedError: A policy, a format or a machine that cannot do it.
        ParityError: An artifact that does not compute the policy's actions.
    """
    if golden_rows < 1:
        raise UsageError(f"golden_rows is {golden_rows}, expected at least 1")
    output = Path(output)
    check_output(output, force=force)
    clock = _Clock(progress)
    options = Options(
        observation_space=observation_space,
        action_space=action_space,
        normalizer=normalizer,
        trust_pickle=trust_pickle,
        head=head,
        feature_names=feature_names,
    )
    with clock.step("load", "read the policy"):
        policy = open_source(source, options)
    wanted = _check_formats(formats, policy)
    with clock.step("reference", "ask the policy itself, in eager PyTorch, for actions to compare with"):
        groups, golden = _reference(policy, recorded, tolerance, golden_rows, seed)
    with whole_folder(output, force=force) as folder:
        reports = _write_artifacts(policy, wanted, folder, clock, groups)
        _write_texts(policy, folder, reports, groups, golden, seed)
    summaries = tuple(
        FormatParity(form, report.rows, report.max_abs, report.near_ties) for form, report in reports.items()
    )
    return ExportResult(output, policy.contract, wanted, summaries, clock.seconds)


class _Clock:
    """Says what is being done, and how long each step took."""

    def __init__(self, progress: Callable[[str], None] | None) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, words: str) -> Iterator[None]:
        if self._progress is not None:
            self._progress(words)
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin


def _reference(
    policy: Source, recorded: Any, tolerance: Tolerance | None, golden_rows: int, seed: int
) -> tuple[list[parity.Rows], Golden]:
    """Observations for parity with the policy's answers, and the golden set."""
    rng = np.random.default_rng(seed)
    given = obs.read_recorded(recorded, policy.contract)
    groups = []
    usual = obs.join(obs.draw(policy, rng, obs.rows_for(policy.contract)), given)
    eager = EagerGraph(policy.graph, policy.contract) if policy.graph is not None else None
    for kind, rows in (("usual", usual), ("edges", obs.edges(policy))):
        expected = policy.reference(rows)
        if kind == "usual":
            parity.require_finite(policy.contract, rows, expected)
        moved = eager.sensitivity(rows, seed=seed) if eager is not None and tolerance is None else 0.0
        allowed = tolerance or parity.fitted(expected, sensitivity=moved)
        groups.append(parity.Rows(kind, rows, expected, allowed))
    if eager is not None:
        # The graph in eager PyTorch first: a failure here is the graph's, not a runtime's.
        parity.check("graph", eager, policy.contract, groups)
    drawn = obs.draw(policy, rng, 4 * golden_rows)
    return groups, _golden(policy, drawn, given, groups[0].tolerance, golden_rows)


def _golden(policy: Source, drawn: obs.Batch, given: obs.Batch | None, tolerance: Tolerance, rows: int) -> Golden:
    """Clear rows out of those drawn, and up to half of them out of those recorded."""
    pool = obs.join(drawn, given)
    answers = policy.reference(pool)
    parity.require_finite(policy.contract, pool, answers)
    clear = np.flatnonzero(parity.decided(policy.contract, answers, tolerance))
    border = 4 * rows
    if clear.size == 0:
        # A policy without any preference has no clear rows; ties are then all there is.
        clear = np.arange(border)
    fresh, seen = clear[clear < border], clear[clear >= border]
    seen = seen[np.unique(np.linspace(0, max(len(seen) - 1, 0), min(len(seen), rows // 2)).astype(int))]
    chosen = np.concatenate([fresh[: rows - len(seen)], seen])
    return Golden(obs.take(pool, chosen), obs.take(answers, chosen), tolerance)


def _write_artifacts(
    policy: Source,
    wanted: tuple[Format, ...],
    folder: Path,
    clock: _Clock,
    groups: Sequence[parity.Rows],
) -> dict[Format, parity.Report]:
    onnx_path = folder / FILES[Format.ONNX][0]
    if set(wanted) & {Format.ONNX, Format.OPENVINO, Format.TENSORRT}:
        with clock.step(Format.ONNX.value, "write onnx"):
            if policy.onnx is not None:
                onnx_path.write_bytes(policy.onnx)
            else:
                writers.write_onnx(policy.graph, policy.contract, onnx_path)
    reports = {}
    for form in wanted:
        if form is not Format.ONNX:
            with clock.step(form.value, f"write {form.value}"):
                _write(form, policy, onnx_path, folder)
        with clock.step(f"parity {form.value}", f"compare {form.value} with the policy"):
            runner = open_runner(form, folder, policy.contract)
            reports[form] = parity.check(form.value, runner, policy.contract, groups)
    if Format.ONNX not in wanted:
        onnx_path.unlink(missing_ok=True)
    return reports


def _write(form: Format, policy: Source, onnx_path: Path, folder: Path) -> None:
    match form:
        case Format.OPENVINO:
            writers.write_openvino(onnx_path, folder, policy.contract)
        case Format.TORCHSCRIPT:
            writers.write_torchscript(policy.graph, policy.contract, folder / FILES[form][0])
        case Format.TENSORRT:
            from policyctl_exporters.tensorrt_plan import write_plan

            write_plan(onnx_path, policy.contract, folder / FILES[form][0])


def _write_texts(
    policy: Source,
    folder: Path,
    reports: dict[Format, parity.Report],
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
    card = write_card(
        policy,
        contract=texts[CONTRACT_FILE],
        golden=texts[GOLDEN_FILE],
        parity=texts[PARITY_FILE],
        created=datetime.now(UTC),
    )
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


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
        from policyctl_exporters.tensorrt_plan import require_tensorrt

        require_tensorrt()
    return wanted
