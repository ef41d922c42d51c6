"""Export: the command line's way into `policyctl_exporters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyctl.domain.artifacts import SOURCES
from policyctl.domain.chunk import Chunk
from policyctl.domain.deploy_file import is_deploy_file, read_deploy_file
from policyctl.domain.drive import Description
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
        env: A gymnasium environment whose spaces the policy has (modules and TorchScript).
        observation: The spaces of the observations, ``NAME=SPACE`` or one without a name; see `domain.space_text`.
        action: The space of the action, in the same words.
        spaces: A YAML file that says both.
        describe: A YAML file that says what stands next to the weights (`domain.drive.Description`), or
            Unitree's deploy.yaml.
        options: What else `export_policy` takes, by name; None counts as not given.
    """

    source: str
    output: Path
    env: Environment | None
    observation: Sequence[str]
    action: str | None
    spaces: Path | None
    options: Mapping[str, Any]
    describe: Path | None = None


def holds_pickles(request: ExportRequest) -> bool:
    """Whether exporting it unpickles something."""
    return request.source.endswith(".zip") or isinstance(request.options["normalizer"], Path)


def check(request: ExportRequest) -> None:
    """Refuse what can be refused before seconds of imports.

    Raises:
        UsageError: A file is missing, a space cannot be read, or the output is in use.
    """
    from policyctl_exporters.folders import check_output

    if not names_callable(request.source):
        require_file(Path(request.source), SOURCES)
    for name, kind in (
        ("normalizer", "a saved VecNormalize"),
        ("recorded", "an .npz file"),
        ("answers", "an .npz file"),
    ):
        if isinstance(path := request.options.get(name), Path):
            require_file(path, kind)
    _stated(request)
    _described(request)
    check_output(request.output, force=request.options["force"])


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
    options = {name: value for name, value in request.options.items() if value is not None}
    try:
        from policyctl_exporters import export_policy, load_callable

        description, notes = _described(request)
        for note in notes:
            say(note)
        chunk = None if description is None else description.chunk
        spaces = spaces_of(request.env, chunk) if request.env else _spaces(*_stated(request))
        policy = load_callable(request.source) if names_callable(request.source) else Path(request.source)
        return export_policy(policy, request.output, progress=say, description=description, **spaces, **options)
    except ImportError as error:
        raise missing(error, "sb3" if request.source.endswith(".zip") else "export") from error


def missing(error: ImportError, extra: str) -> UnsupportedError:
    """What to say where a library is not installed."""
    if isinstance(error, ModuleNotFoundError):
        problem = f"this needs {error.name}, which is not installed"
    else:
        problem = f"this needs a library that is not installed: {error}"
    return UnsupportedError(problem, remedy=f"Install it: pip install 'policyctl[{extra}]'")


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
        return parse_fields(_read_yaml(request.spaces), what=request.spaces.name)
    action = None if request.action is None else parse_space(request.action, what="--action")
    return parse_named(request.observation, what="--observation"), action


def _described(request: ExportRequest) -> tuple[Description | None, tuple[str, ...]]:
    """What a file says that stands next to the weights, and sentences on what of it no contract states."""
    if request.describe is None:
        return None, ()
    require_file(request.describe, "a YAML file with the fields observations, joints and drive")
    data, what = _read_yaml(request.describe), request.describe.name
    if is_deploy_file(data):
        return read_deploy_file(data, what=what)
    if not {each.name for each in fields(Description)} & {*data}:
        raise UsageError(
            f"{what} has no field of a description: it has {', '.join(map(str, [*data][:5])) or 'no fields'}",
            remedy="Write one: policyctl docs export shows joints, drive and histories. Of rl_sar's config.yaml,"
            " action_scale is drive.scale, default_dof_pos drive.offset, rl_kp drive.stiffness, rl_kd drive.damping.",
        )
    return Description.from_data(data, what=what), ()


def _read_yaml(path: Path) -> Mapping[str, Any]:
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
    return document.data


def _spaces(observations: Mapping[str, SpaceText], action: SpaceText | None) -> dict[str, Any]:
    from policyctl_exporters.made_spaces import observation_space, space_of

    stated = {"observation_space": observation_space(observations)} if observations else {}
    return stated if action is None else {**stated, "action_space": space_of(action)}


def spaces_of(env: Environment, chunk: Chunk | None = None) -> dict[str, Any]:
    """Both spaces of an environment, as an export takes them.

    Args:
        chunk: How the policy answers with the actions of several steps, where it does.

    Raises:
        UsageError: There is no such environment.
        UnsupportedError: Gymnasium, or what the environment needs, is not installed.
    """
    made = env.make()
    try:
        action = made.action_space
        if chunk is not None:
            from gymnasium.vector.utils import batch_space

            action = batch_space(action, chunk.horizon)
        return {"observation_space": made.observation_space, "action_space": action}
    finally:
        made.close()
