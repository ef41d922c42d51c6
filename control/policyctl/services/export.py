"""Export: the command line's way into `policyctl_exporters`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyctl.domain.artifacts import Format
from policyctl.domain.parity import Tolerance
from policyctl.errors import UnsupportedError, UsageError
from policyctl.services.control import Say

if TYPE_CHECKING:
    from policyctl_exporters import ExportResult


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and how.

    Attributes:
        source: A file, or ``package.module:callable`` that makes a torch module.
        output: The folder to write.
        formats: Which artifacts; None for all that can be made without a GPU.
        normalizer: A VecNormalize pickle.
        no_normalizer: Observations were not normalised, although the archive
            says that it was trained behind VecNormalize (rewards only).
        trust_pickle: Unpickle `source` and `normalizer`.
        env: A gymnasium environment whose spaces the policy has (modules and TorchScript).
        head: What a module's single output is.
        features: Names of the observation's elements.
        recorded: Recorded observations, an NPZ file.
        tolerance: How far an artifact may be off.
        golden_rows: Size of the golden set.
        seed: Of the observations that are drawn.
        force: Replace `output`.
    """

    source: str
    output: Path
    formats: tuple[Format, ...] | None = None
    normalizer: Path | None = None
    no_normalizer: bool = False
    trust_pickle: bool = False
    env: str | None = None
    head: str | None = None
    features: Sequence[str] = ()
    recorded: Path | None = None
    tolerance: Tolerance | None = None
    golden_rows: int = 64
    seed: int = 0
    force: bool = False


def holds_pickles(request: ExportRequest) -> bool:
    """Whether exporting it unpickles something."""
    return request.source.endswith(".zip") or request.normalizer is not None


def export(request: ExportRequest, say: Say) -> ExportResult:
    """Export the policy.

    Raises:
        UsageError: A source or option that cannot be used.
        UnsupportedError: A library that the export needs is not installed, or an
            algorithm or format that cannot be exported.
        ParityError: An artifact does not compute the policy's actions.
    """
    try:
        from policyctl_exporters import export_policy, load_callable
    except ImportError as error:
        raise missing(error, "sb3") from error
    spaces = _spaces(request.env) if request.env else {}
    options: dict[str, Any] = {} if request.tolerance is None else {"tolerance": request.tolerance}
    path = Path(request.source)
    is_callable = ":" in request.source and not path.exists()
    if not is_callable and not path.is_file():
        raise UsageError(
            f"{request.source} is not a file",
            remedy="Name a Stable-Baselines3 .zip, a TorchScript .pt, an .onnx, or package.module:callable.",
        )
    try:
        return export_policy(
            load_callable(request.source) if is_callable else path,
            request.output,
            formats=request.formats,
            normalizer=False if request.no_normalizer else request.normalizer,
            trust_pickle=request.trust_pickle,
            head=request.head,
            feature_names=list(request.features) or None,
            recorded=request.recorded,
            golden_rows=request.golden_rows,
            seed=request.seed,
            progress=say,
            force=request.force,
            **spaces,
            **options,
        )
    except ImportError as error:
        raise missing(error, "sb3") from error


def missing(error: ImportError, extra: str) -> UnsupportedError:
    """What to say where a library is not installed."""
    return UnsupportedError(
        f"this needs a library that is not installed: {error}",
        remedy=f"Install it: pip install 'policyctl[{extra}]'",
    )


def _spaces(env: str) -> dict[str, Any]:
    from policyctl_benchmarks.rollout import make

    made = make(env)
    try:
        return {"observation_space": made.observation_space, "action_space": made.action_space}
    finally:
        made.close()
