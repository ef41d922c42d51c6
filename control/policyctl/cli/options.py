"""Options that several commands share, and how they become a control plane."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from policyctl import settings as settings_module
from policyctl.cli.output import Output
from policyctl.domain.artifacts import Format
from policyctl.errors import UsageError
from policyctl.settings import Settings

if TYPE_CHECKING:
    from policyctl.services.control import Control
    from policyctl.services.remote import Remote

Model = Annotated[str, typer.Argument(help="The model's name.", show_default=False)]
OptionalModel = Annotated[str | None, typer.Argument(help="Only this model.", show_default=False)]
Release = Annotated[
    str,
    typer.Argument(
        help="1.2.3, or what selects one: ^1.2, ~1.2.0 (the highest), latest, an alias (what it names).",
        show_default=False,
    ),
]
Alias = Annotated[
    str,
    typer.Option(
        "--alias", "-a", help="Which alias, or the number of a pinned release; clients without one get production."
    ),
]
AskedFormat = Annotated[
    Format | None, typer.Option("--format", "-f", help="Which artifact to ask. [default: openvino if there]")
]


def _named_folder(text: str) -> Path:
    """An empty path, as a variable that is not set leaves it, would mean the working directory."""
    if not text:
        raise UsageError("--repository '' names no folder", remedy="Name one; --repository . is the working directory.")
    return Path(text)


RepositoryOption = Annotated[
    Path | None,
    typer.Option(
        "--repository",
        "-r",
        parser=_named_folder,
        metavar="<path>",
        help="The model repository. [env: POLICYCTL_REPOSITORY] [default: model_repository]",
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="gRPC host:port of a Triton that somebody else runs on this repository;"
        " the embedded one is found by itself. [env: POLICYCTL_SERVER__URL]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")]
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
RecordingOption = Annotated[
    Path | None,
    typer.Option(
        "--recording",
        help="Add the gate replay, on a file that policyctl record wrote. [env: POLICYCTL_GATES__REPLAY__...]",
    ),
]
EnvOption = Annotated[
    str | None,
    typer.Option(
        "--env",
        help="Add the gate behaviour, in a gymnasium environment such as CartPole-v1; with --margin."
        " [env: POLICYCTL_GATES__BEHAVIOUR__...]",
    ),
]
EpisodesOption = Annotated[int | None, typer.Option("--episodes", help="For --env. [default: 100]", min=2)]
MarginOption = Annotated[
    float | None,
    typer.Option(
        "--margin", help="For --env: how much less the release may earn on average, in its own return.", min=0
    ),
]
Wait = Annotated[float | None, typer.Option("--wait", help="Seconds to wait for another writer. [default: 2]", min=0)]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Unpickle the file. Unpickling runs whatever code the file's author put there, with your"
        " rights: only for files from people you trust.",
    ),
]


@dataclass(frozen=True, slots=True)
class Begun:
    """What stood before a command's own options.

    Attributes:
        command: Its name.
        api: The control API to use; empty for none, whatever the settings say; None where nothing was given.
    """

    command: str = ""
    api: str | None = None


_NOTHING: Final = Begun()
_begun: ContextVar[Begun] = ContextVar("begun", default=_NOTHING)


def begin(command: str, api: str | None) -> None:
    """A command begins; the root of the command line calls this, every time."""
    _begun.set(Begun(command, api))


def read_settings(repository: Path | None = None, url: str | None = None, **more: Any) -> Settings:
    """Settings, with what the command line gave on top, for a command that works on a repository here.

    Raises:
        UsageError: A setting is wrong, or a control API elsewhere was to be used.
    """
    server = {"url": url, **more.pop("server", {})}
    found = settings_module.load(repository=repository, server=server, **more)
    if elsewhere := _api_url(found):
        raise by_url_refused(_begun.get().command, elsewhere)
    return found


def by_url_refused(command: str, url: str) -> UsageError:
    """What to say to a command that cannot go by URL."""
    return UsageError(
        f"policyctl {command} works on a repository of this machine, and cannot go by --api {url}",
        remedy="By URL go promote, rollback, abort, status and history. For a repository here: policyctl --api ''"
        f" {command} ..., or unset POLICYCTL_API__URL.",
    )


def remote(output: Output, *, repository: Path | None = None, url: str | None = None) -> Remote | None:
    """The control plane elsewhere that `--api` or a setting names; None for a repository here.

    Raises:
        UsageError: The address is none, or a repository was named as well.
    """
    settings = settings_module.load()
    target = _api_url(settings)
    if not target:
        return None
    for option, given in (("--repository", repository), ("--url", url)):
        if given is not None:
            raise UsageError(
                f"{option} and --api {target} name two different things to work on", remedy="Give one of them."
            )
    from policyctl.adapters.control_api import ControlApi
    from policyctl.services.remote import Remote

    api = settings.api
    client = ControlApi(target, token=api.token.get_secret_value(), ca_file=api.ca_file, timeout_s=api.timeout_s)
    return Remote(client, output.say)


def _api_url(settings: Settings) -> str:
    given = _begun.get().api
    return settings.api.url if given is None else given


def gate_names(text: str) -> tuple[str, ...]:
    """The gates that an option names."""
    return tuple(name.strip() for name in text.split(",") if name.strip() not in {"", "none"})


def control_of(settings: Settings, output: Output) -> Control:
    """The control plane; imported late, because Triton's client takes its time."""
    from policyctl.services.control import Control

    return Control.of(settings, output.say)
