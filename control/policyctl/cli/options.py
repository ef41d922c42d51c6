"""Options that several commands share, each declared once."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from policyctl.cli import completion
from policyctl.cli.call import Call
from policyctl.domain.artifacts import Format
from policyctl.errors import UsageError

if TYPE_CHECKING:
    from policyctl.measuring.environments import Environment

Model = Annotated[str, typer.Argument(help="The model's name.", autocompletion=completion.models)]
OptionalModel = Annotated[str | None, typer.Argument(help="Only this model.", autocompletion=completion.models)]
Release = Annotated[
    str,
    typer.Argument(
        help="1.2.3, or what selects one: ^1.2, ~1.2.0 (the highest), latest, an alias (what it names).",
        autocompletion=completion.releases,
    ),
]
ExportFolder = Annotated[Path, typer.Argument(help="A folder that export wrote.")]
Alias = Annotated[
    str,
    typer.Option(
        "--alias",
        "-a",
        help="Which alias, or the number of a pinned release; clients without one get production.",
        autocompletion=completion.aliases,
    ),
]
ServedFormat = Annotated[
    Format | None, typer.Option("--format", "-f", help="Which artifact to serve. [default: openvino if there]")
]
AskedFormat = Annotated[
    Format | None, typer.Option("--format", "-f", help="Which artifact to ask. [default: openvino if there]")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, show what would happen, change nothing.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why, kept in the journal.")]
Gates = Annotated[
    str | None,
    typer.Option(
        "--gates",
        help="Gates that measure, with commas between: service_level, non_inferiority; or none."
        " [env: POLICYCTL_GATES__VALIDATE_WITH, ..._PROMOTE_WITH]",
    ),
]
EnvArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--env-arg",
        metavar="NAME=VALUE",
        help="An argument of --env, as JSON or text: g=9.81, render_mode=null; repeatable.",
    ),
]
Wrappers = Annotated[
    list[str] | None,
    typer.Option(
        "--wrapper",
        metavar="MODULE:CALLABLE",
        help="Called with the environment of --env, gives the wrapped one; repeatable, the innermost first.",
    ),
]
Normalizer = Annotated[Path | None, typer.Option(metavar="FILE", help="What VecNormalize.save() wrote for the policy.")]
NoNormalizer = Annotated[
    bool,
    typer.Option(
        "--no-normalizer",
        help="The policy saw observations as the environment gives them: no VecNormalize, or one of rewards alone.",
    ),
]
DespiteArchive = Annotated[
    bool,
    typer.Option("--despite-archive", help="Do as the two options above say where the archive proves the contrary."),
]
Code = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="A Python file, or a folder of modules, that defines classes of the archive; it is imported.",
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Unpickle the file. Unpickling runs the code that the file's author put there, with your"
        " rights: only for files from people you trust.",
    ),
]
Report = Annotated[
    Path | None, typer.Option("--report", help="Also write one HTML page with plots that needs nothing else.")
]
Markdown = Annotated[Path | None, typer.Option("--markdown", help="Also write Markdown.")]

Wait = Annotated[
    float | None,
    typer.Option(
        "--wait", metavar="SECONDS", help="Seconds to wait for another writer. [default: 2; to publish 30]", min=0
    ),
]
RepositoryOption = Annotated[
    Path | None,
    typer.Option(
        "--repository",
        "-r",
        metavar="FOLDER",
        help="The model repository. [env: POLICYCTL_REPOSITORY] [default: model_repository]",
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="HOST:PORT",
        help="gRPC host:port of a Triton that somebody else runs on this repository;"
        " the embedded one is found by itself. [env: POLICYCTL_SERVER__URL]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")]

_SHARED: Final[dict[str, tuple[Any, object]]] = {
    "wait": (Wait, None),
    "repository": (RepositoryOption, None),
    "url": (UrlOption, None),
    "as_json": (JsonOption, False),
    "quiet": (QuietOption, False),
}


def command(
    *shared: Literal["wait", "repository", "url"],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: the options `shared`, --json and --quiet follow the command's, and become its `Call`."""
    names = (*shared, "as_json", "quiet")

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        @wraps(body)
        def run(**given: Any) -> None:
            body(Call(**{name: given.pop(name) for name in names}), **given)

        signature = inspect.signature(body, eval_str=True)
        _, *own = signature.parameters.values()
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        more = [
            inspect.Parameter(name, kind, default=default, annotation=annotation)
            for name, (annotation, default) in _SHARED.items()
            if name in names
        ]
        run.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return run

    return decorate


def environment_arguments(texts: Sequence[str] | None) -> dict[str, Any]:
    """What ``--env-arg NAME=VALUE`` gives, by name; a value that is not JSON is text.

    Raises:
        UsageError: One of them has no name, or a name is given twice.
    """
    arguments: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not name.isidentifier() or not equals:
            raise UsageError(f"--env-arg {text!r} is not NAME=VALUE", remedy="For example: --env-arg g=9.81")
        if name in arguments:
            raise UsageError(f"--env-arg {name} is given twice", remedy="Give it once.")
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            arguments[name] = value
    return arguments


def environment(env: str | None, arguments: Sequence[str] | None, wrappers: Sequence[str] | None) -> Environment | None:
    """The environment that the options name; None for none.

    Raises:
        UsageError: Arguments or wrappers without an environment, or arguments that cannot be read.
    """
    from policyctl.measuring.environments import Environment

    if env is not None:
        return Environment(env, environment_arguments(arguments), tuple(wrappers or ()))
    if arguments or wrappers:
        raise UsageError(
            "--env-arg and --wrapper belong to --env, which is not given",
            remedy="Leave them out, or name an environment: --env CartPole-v1",
        )
    return None


def check_normalizer(normalizer: Path | None, *, no_normalizer: bool) -> None:
    """Refuse --normalizer together with --no-normalizer."""
    if normalizer is not None and no_normalizer:
        raise UsageError("--normalizer and --no-normalizer exclude each other", remedy="Give one of them.")


def check_unpickling() -> None:
    """Refuse to unpickle where the settings forbid it to everybody."""
    if not Call().layers().require().security.unpickle:
        raise UsageError(
            "security.unpickle is false: nothing is unpickled here, not even with --trust-pickle",
            remedy="Export on a machine for development, and publish the folder from there."
            " See: policyctl config explain security.unpickle",
        )


def gate_names(text: str | None) -> tuple[str, ...] | None:
    """The gates that an option names; None where it is not given."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip() not in {"", "none"})
