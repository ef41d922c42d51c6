"""Export: the command line's way into `policyctl_exporters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from policyctl.domain.artifacts import Format
from policyctl.domain.parity import Tolerance
from policyctl.domain.space_text import SpaceText, parse_fields, parse_named, parse_space
from policyctl.errors import UnsupportedError, UsageError
from policyctl.foreign_code import names_callable
from policyctl.plain_files import NOTE_BYTES, read_plain
from policyctl.services.control import Say

if TYPE_CHECKING:
    from policyctl.measuring.environments import Environment
    from policyctl_exporters import ExportResult


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and how.

    Attributes:
        source: A file, or ``package.module:callable`` or ``FILE.py:callable`` that makes a torch module.
        output: The folder to write.
        formats: Which artifacts; None for all that can be made without a GPU.
        normalizer: A VecNormalize pickle.
        no_normalizer: Observations were not normalised.
        despite_archive: Do so, or use `normalizer`, where the archive proves the contrary.
        trust_pickle: Unpickle `source` and `normalizer`.
        code: A Python file, or a folder of modules, that defines an archive's own classes.
        trust_operators: Keep TorchScript operators that do more than compute.
        images: How the environment gives images, ``channels-first`` or ``channels-last``.
        env: A gymnasium environment whose spaces the policy has (modules and TorchScript).
        observation: The spaces of the observations, ``NAME=SPACE`` or one without a name; see `domain.space_text`.
        action: The space of the action, in the same words.
        spaces: A YAML file that says both.
        head: What outputs are: ``KIND`` of a single one, ``NAME=KIND`` of one among several.
        features: Names of the observation's elements.
        recorded: Recorded observations, an NPZ file.
        tolerance: How far an artifact may be off.
        golden_rows: Size of the golden set.
        seed: Of the observations that are drawn.
        step_limit_s: Seconds that a step of the export may take; None for the default.
        force: Replace `output`.
    """

    source: str
    output: Path
    formats: tuple[Format, ...] | None = None
    normalizer: Path | None = None
    no_normalizer: bool = False
    despite_archive: bool = False
    trust_pickle: bool = False
    code: Path | None = None
    trust_operators: bool = False
    images: str | None = None
    env: Environment | None = None
    observation: Sequence[str] = ()
    action: str | None = None
    spaces: Path | None = None
    head: Sequence[str] = ()
    features: Sequence[str] = ()
    recorded: Path | None = None
    tolerance: Tolerance | None = None
    golden_rows: int = 64
    seed: int = 0
    step_limit_s: float | None = None
    force: bool = False


_SOURCES: Final = "a Stable-Baselines3 .zip, a TorchScript .pt, an .onnx, FILE.py:callable or package.module:callable"


def holds_pickles(request: ExportRequest) -> bool:
    """Whether exporting it unpickles something."""
    return request.source.endswith(".zip") or request.normalizer is not None


def check(request: ExportRequest) -> None:
    """Refuse what can be refused before seconds of imports.

    Raises:
        UsageError: A file is missing, a space cannot be read, or the output is in use.
    """
    from policyctl_exporters.folders import check_output

    if not names_callable(request.source):
        require_file(Path(request.source), _SOURCES)
    for path, kind in ((request.normalizer, "a saved VecNormalize"), (request.recorded, "an .npz file")):
        if path is not None:
            require_file(path, kind)
    _stated(request)
    check_output(request.output, force=request.force)


def require_file(path: Path, kind: str) -> None:
    """Refuse a path where no file is.

    Raises:
        UsageError: Names `path` and the `kind` of file that is expected.
    """
    if not path.is_file():
        raise UsageError(
            f"{path} is {'not a file' if path.exists() else 'no file: nothing has that name'}", remedy=f"Name {kind}."
        )


def export(request: ExportRequest, say: Say) -> ExportResult:
    """Export the policy.

    Raises:
        UsageError: A source or option that cannot be used.
        UnsupportedError: A library that the export needs is not installed, or an
            algorithm or format that cannot be exported.
        ParityError: An artifact does not compute the policy's actions.
    """
    check(request)
    try:
        from policyctl_exporters import export_policy, load_callable
    except ImportError as error:
        raise missing(error, "sb3") from error
    spaces = spaces_of(request.env) if request.env else _spaces(*_stated(request))
    given = {"tolerance": request.tolerance, "step_limit_s": request.step_limit_s}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        return export_policy(
            load_callable(request.source) if names_callable(request.source) else Path(request.source),
            request.output,
            formats=request.formats,
            normalizer=False if request.no_normalizer else request.normalizer,
            despite_archive=request.despite_archive,
            trust_pickle=request.trust_pickle,
            code=request.code,
            images=request.images,
            trust_operators=request.trust_operators,
            head=request.head or None,
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


def _stated(request: ExportRequest) -> tuple[dict[str, SpaceText], SpaceText | None]:
    """What the request itself says of both spaces: by options, or in a file."""
    options = {
        "--env": request.env,
        "--spaces": request.spaces,
        "--observation": request.observation,
        "--action": request.action,
    }
    given = [name for name, value in options.items() if value]
    if len(given) > 1 and given != ["--observation", "--action"]:
        raise UsageError(
            f"{', '.join(given)} state the spaces of the policy more than once",
            remedy="Give an environment, a file of spaces, or --observation and --action.",
        )
    if request.spaces is not None:
        require_file(request.spaces, "a YAML file with the fields observation and action")
        return _read_spaces(request.spaces)
    action = None if request.action is None else parse_space(request.action, what="--action")
    return parse_named(request.observation, what="--observation"), action


def _read_spaces(path: Path) -> tuple[dict[str, SpaceText], SpaceText | None]:
    from policyctl.documents.yaml_text import parse

    try:
        content = read_plain(path, most_bytes=NOTE_BYTES, follow_links=True)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror})", remedy="Name a YAML file that you may read."
        ) from error
    document = parse(content, what=path.name)
    if document.complaints:
        raise UsageError(f"{path.name}: {document.complaints[0].words}", remedy="Correct it at that place.")
    return parse_fields(document.data, what=path.name)


def _spaces(observations: Mapping[str, SpaceText], action: SpaceText | None) -> dict[str, Any]:
    from policyctl_exporters.stated_spaces import observation_space, space_of

    stated = {"observation_space": observation_space(observations)} if observations else {}
    return stated if action is None else {**stated, "action_space": space_of(action)}


def spaces_of(env: Environment) -> dict[str, Any]:
    """Both spaces of an environment, as an export takes them.

    Raises:
        UsageError: There is no such environment.
        UnsupportedError: Gymnasium, or what the environment needs, is not installed.
    """
    made = env.make()
    try:
        return {"observation_space": made.observation_space, "action_space": made.action_space}
    finally:
        made.close()
