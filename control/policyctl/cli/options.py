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
    from policyctl.config.reading import Reading, Source
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
class Root:
    """What was given before the command, for whichever it is.

    Attributes:
        config: The base file of the settings.
        profile: Which profile.
        api: The control API to use; empty for none, whatever the settings say; None where nothing was given.
        command: The command's name.
    """

    config: Path | None = None
    profile: str | None = None
    api: str | None = None
    command: str = ""


_NOTHING: Final = Root()
_root: ContextVar[Root] = ContextVar("root", default=_NOTHING)


def begin(root: Root) -> None:
    """A command begins; the root of the command line calls this, every time."""
    _root.set(root)


def given_profile() -> str | None:
    """The profile that the command line names."""
    return _root.get().profile


def source(repository: Path | None = None, url: str | None = None, **more: Any) -> Source[Settings]:
    """Where settings come from, with what the command line gave."""
    root, server = _root.get(), {"url": url, **more.pop("server", {})}
    typed = {"profile": root.profile or None, "repository": repository, "server": server, **more}
    return settings_module.source(config=root.config, **typed)


def read_layers(repository: Path | None = None, url: str | None = None, **more: Any) -> Reading[Settings]:
    """Settings, with what the command line gave on top, and how they came about."""
    return source(repository, url, **more).read()


def read_settings(repository: Path | None = None, url: str | None = None, **more: Any) -> Settings:
    """Settings, with what the command line gave on top, for a command that works on a repository here.

    Raises:
        UsageError: Something is wrong with them, and all of it is named; or a control API elsewhere was to be used.
    """
    return here(read_layers(repository, url, **more))


def here(reading: Reading[Settings]) -> Settings:
    """Settings for a command that works on a repository here.

    Raises:
        UsageError: As `read_settings`.
    """
    found = reading.require()
    if elsewhere := _api_url(found):
        raise by_url_refused(_root.get().command, elsewhere)
    return found


def by_url_refused(command: str, url: str) -> UsageError:
    """What to say to a command that cannot go by URL."""
    return UsageError(
        f"policyctl {command} works on a repository of this machine, and cannot go by --api {url}",
        remedy="By URL go promote, rollback, abort, pin, unpin, unserve, status and history. For a repository here:"
        f" policyctl --api '' {command} ..., or unset POLICYCTL_API__URL.",
    )


def remote(output: Output, *, repository: Path | None = None, url: str | None = None) -> Remote | None:
    """The control plane elsewhere that `--api` or a setting names; None for a repository here.

    Raises:
        UsageError: The address is none, or a repository was named as well.
    """
    settings = read_layers().require()
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
    given = _root.get().api
    return settings.api.url if given is None else given


def check_unpickling() -> None:
    """Refuse to unpickle where the settings say that nobody may, whoever trusts the file.

    Raises:
        UsageError: They do.
    """
    if not read_layers().require().security.unpickle:
        raise UsageError(
            "security.unpickle is false: nothing is unpickled here, not even with --trust-pickle",
            remedy="Export on a machine for development, and publish the folder from there."
            " See: policyctl config explain security.unpickle",
        )


def gate_names(text: str) -> tuple[str, ...]:
    """The gates that an option names."""
    return tuple(name.strip() for name in text.split(",") if name.strip() not in {"", "none"})


def control_of(settings: Settings, output: Output) -> Control:
    """The control plane; imported late, because Triton's client takes its time."""
    from dataclasses import replace

    from policyctl.services.control import Control
    from policyctl.services.log import log_of

    control = Control.of(settings, output.say)
    return replace(control, log=log_of(settings, control.repository.control))
